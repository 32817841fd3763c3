"""A prompt with documents and the reply that a model is made to write, in the accurate form."""

from __future__ import annotations

import re

MESSAGES = [{"role": "user", "content": "How was the Velmora Bridge built, and what became of the ferry?"}]

DOCUMENTS: list[str | dict[str, str]] = [
    {
        "title": "Velmora Bridge",
        "text": (
            "The Velmora Bridge crosses the Isk between the old town and Harrow Point. It was designed by Ada Norn, "
            "who had built two smaller arches upstream, and opened to traffic in September 1987 after four years of "
            "work. Its main span of 212 meters was floated into place on barges in a single night, because the harbor "
            "could not be closed for longer. The deck carries two lanes, a tram track and a path for walkers."
        ),
    },
    {
        "title": "The Isk ferries",
        "text": (
            "Until the bridge was opened, a chain ferry crossed the Isk every twenty minutes. The last of the boats, "
            "the Marigold, made her final crossing on the evening before the opening. She was bought by the museum of "
            "the harbor, which restored her engine and shows her at the northern quay from May to October."
        ),
    },
    {
        "title": "Stone from Tarn",
        "text": (
            "Most of the stone in the piers came from the quarry at Tarn, which had been closed since the war and was "
            "opened again for this order. About 9,000 tons were brought down the valley by rail. The quarry has worked "
            "without a break since then and employs forty people."
        ),
    },
]

_GROUNDED = (
    "The Velmora Bridge was <co: 0>designed by Ada Norn</co: 0> and took <co: 0>four years</co: 0> to build. Its piers "
    "are made mostly of <co: 2>stone from the quarry at Tarn</co: 2>, of which <co: 2>about 9,000 tons were brought "
    "down the valley by rail</co: 2>. The main span of 212 meters was <co: 0>floated into place on barges in a single "
    "night</co: 0>, since closing the harbor for longer was not possible. The bridge <co: 0>opened to traffic in "
    "September 1987</co: 0> and carries two lanes, a tram track and a path for walkers. It put an end to the chain "
    "ferry, which had crossed the river <co: 1>every twenty minutes</co: 1> until then. The last boat, the Marigold, "
    "<co: 1>made her final crossing on the evening before the opening</co: 1>. The museum of the harbor bought her, "
    "<co: 1>restored her engine</co: 1> and <co: 1>shows her at the northern quay from May to October</co: 1>."
)

REPLY = (
    "Relevant Documents: 0,1,2\nCited Documents: 0,1,2\nAnswer: "
    + re.sub(r"</?co: \d>", "", _GROUNDED)
    + "\nGrounded answer: "
    + _GROUNDED
)
