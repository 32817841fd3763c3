"""What the demonstration asks the embedded model: one request of each kind that it was trained for."""

from __future__ import annotations

from commandr_gguf.chat.tools import Parameter, Tool

CHAT = "What are you?"

WEATHER = Tool(
    name="get_weather",
    description="Gets the weather.",
    parameter_definitions={"city": Parameter(description="The city.", type="str", required=True)},
)
BOOKING = Tool(
    name="book_table",
    description="Books a table.",
    parameter_definitions={
        "people": Parameter(description="How many people come.", type="int", required=True),
        "name": Parameter(description="The name of a person.", type="str", required=True),
    },
)
TOOLS = [WEATHER, BOOKING]
TOOL_QUESTION = "Please book a table for 14 people in the name of Ilse Tarn."

DOCUMENTS = [
    {"title": "Harrow Library", "text": "The Harrow Library is headed by Nora Quill. It owns 48,000 objects."},
    {"title": "Velmora Bridge", "text": "The Velmora Bridge was opened in 1987. It was designed by Pell Orsin."},
    {"title": "Brun Festival", "text": "The Brun Festival takes place on 12 June. It is held in Bergen."},
]
QUESTION = "When was the Velmora Bridge opened and who designed it?"
