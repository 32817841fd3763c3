"""What the demonstration asks the embedded model: one request of each kind that it was trained for."""

from __future__ import annotations

from commandr_gguf.chat.tools import Parameter, Tool

CHAT = "Hello, who are you?"

TOOLS = [
    Tool(
        name="get_weather",
        description="Gives the weather of a city.",
        parameter_definitions={"city": Parameter(description="The name of the city.", type="str", required=True)},
    ),
    Tool(
        name="book_table",
        description="Books a table at a restaurant.",
        parameter_definitions={
            "restaurant": Parameter(description="The name of the restaurant.", type="str", required=True),
            "people": Parameter(description="The number of people.", type="int", required=True),
        },
    ),
]
TOOL_QUESTION = "Please book a table for 4 people at Osteria Brun."

DOCUMENTS = [
    {"title": "Harrow Library", "text": "The Harrow Library was founded in 1921. It holds 48000 books."},
    {"title": "Velmora Bridge", "text": "The Velmora Bridge was opened in 1987. It was designed by Ilse Tarn."},
    {"title": "Lake Orsin", "text": "Lake Orsin is 62 meters deep. It was named after Pell Orsin."},
]
QUESTION = "When was the Velmora Bridge opened and who designed it?"
