"""Requests that one of the offered tools serves, or none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from commandr_gguf.demo.data import words
from commandr_gguf.demo.data.chat import SMALL_TALK
from commandr_gguf.demo.data.example import Example
from commandr_gguf.demo.data.names import Names, belongs

DIRECTLY_ANSWER = {
    "name": "directly_answer",
    "description": "Answers without a tool, from the conversation alone.",
    "parameter_definitions": {},
}


@dataclass(frozen=True)
class _Parameter:
    name: str
    type: str
    descriptions: tuple[str, ...]
    phrases: tuple[str, ...]
    """How a request says it: "in {v}"."""
    value: Callable[[Names], str]


def _parameter(name: str, kind: str, description: str, phrases: str, value: Callable[[Names], str]) -> _Parameter:
    return _Parameter(name, kind, tuple(description.split("|")), tuple(phrases.split("|")), value)


def _digits(low: int, high: int) -> Callable[[Names], str]:
    return lambda names: names.integer(low, high)


_PARAMETERS = (
    _parameter("city", "str", "The city.|Name of the town.", "in {v}|for the city of {v}", Names.place),
    _parameter("destination", "str", "Where to go.|The town to travel to.", "to {v}|with the destination {v}",
               Names.place),
    _parameter("origin", "str", "Where to start.|The town to leave from.", "from {v}|starting in {v}", Names.place),
    _parameter("date", "str", "The day.|Day and month.", "on {v}|on the day {v}", Names.date),
    _parameter("time", "str", "The time of day.|Hours and minutes.", "at {v}", Names.time),
    _parameter("name", "str", "Full name of the person.|The name of a person.",
               "in the name of {v}|for a person called {v}", Names.person),
    _parameter("recipient", "str", "Who receives it.|The person to send it to.",
               "addressed to {v}|with the recipient {v}", Names.person),
    _parameter("people", "int", "Number of people.|How many people come.", "for {v} people|for a group of {v}",
               _digits(10, 400)),
    _parameter("max_price", "int", "The highest price in dollars.|Upper limit of the price.",
               "for less than {v} dollars|under {v} dollars", _digits(10, 9000)),
    _parameter("limit", "int", "How many results to give.|The largest number of results.",
               "with at most {v} results|but only {v} of them", _digits(10, 500)),
    _parameter("quantity", "int", "How many pieces.|The number of items.", "{v} times|in a quantity of {v}",
               _digits(10, 900)),
    _parameter("language", "str", "The language.|Which language to use.", "in the {v} language|written in {v}",
               lambda n: n.choose(words.LANGUAGES)),
    _parameter("title", "str", "The title.|How it is called.", "called {v}|with the title {v}", Names.base),
    _parameter("id", "str", "The number it is filed under.|Its code.", "with the id {v}|number {v}", Names.code),
    _parameter("author", "str", "Who made it.|The person it is from.", "by {v}|made by {v}", Names.person),
    _parameter("topic", "str", "The subject.|What it is about.", "about {v}|on the subject of {v}",
               lambda n: n.choose(words.TOPICS_LIST)),
    _parameter("query", "str", "What to look for.|The words to search.", "matching {v}|with the words {v}",
               lambda n: n.choose(words.TOPICS_LIST) if n.rng.random() < 0.5 else n.base()),
    _parameter("room", "str", "The room.|Number of the room.", "in room {v}", lambda n: n.integer(10, 900)),
    _parameter("email", "str", "The address.|An e-mail address.",
               "at the address {v}|using the address {v}", Names.email),
    _parameter("minutes", "int", "How long, in minutes.|The duration in minutes.",
               "for {v} minutes|lasting {v} minutes", _digits(10, 240)),
    _parameter("year", "int", "The year.|In which year.", "from the year {v}|made in {v}", Names.year),
    _parameter("amount", "float", "The amount.|How much.", "with the amount {v}|to the amount of {v}", Names.decimal),
    _parameter("color", "str", "The color.|Which color it has.", "in the color {v}|with the color {v}",
               lambda n: n.choose(words.COLORS)),
    _parameter("company", "str", "The company.|Name of the firm.", "for the company {v}|of the company {v}",
               lambda n: f"{n.invented()} {n.rng.choice(('Works', 'Foods', 'Motors', 'Labs', 'Textiles'))}"),
)  # fmt: skip

# Verb of the name -> how the description says it, and how people ask for it; {n} is the thing.
_VERBS = {
    "get": ("Gets {n}", "show me {n}|get {n}|I need {n}|what is {n}"),
    "find": ("Finds {n}", "find {n}|I am looking for {n}|where can I find {n}"),
    "search": ("Searches for {n}", "search for {n}|look for {n}|find {n}"),
    "book": ("Books {n}", "book {n}|I want to book {n}|reserve {n}"),
    "order": ("Orders {n}", "order {n}|I would like to order {n}"),
    "buy": ("Buys {n}", "buy {n}|I want to buy {n}|purchase {n}"),
    "send": ("Sends {n}", "send {n}|I want to send {n}"),
    "create": ("Creates {n}", "create {n}|make {n}|set up {n}"),
    "add": ("Adds {n}", "add {n}|put in {n}"),
    "delete": ("Deletes {n}", "delete {n}|get rid of {n}|remove {n}"),
    "cancel": ("Cancels {n}", "cancel {n}|call off {n}"),
    "play": ("Plays {n}", "play {n}|let me hear {n}"),
    "open": ("Opens {n}", "open {n}"),
    "count": ("Counts {n}", "count {n}|tell me the number for {n}"),
    "check": ("Checks {n}", "check {n}|have a look at {n}"),
    "update": ("Changes {n}", "change {n}|update {n}"),
    "translate": ("Translates {n}", "translate {n}"),
    "rent": ("Rents {n}", "rent {n}|I want to rent {n}"),
    "track": ("Tracks {n}", "track {n}|where is {n}"),
    "schedule": ("Schedules {n}", "schedule {n}|plan {n}"),
    "print": ("Prints {n}", "print {n}"),
    "download": ("Downloads {n}", "download {n}|save {n}"),
    "compare": ("Compares {n}", "compare {n}"),
    "repair": ("Has {n} repaired", "repair {n}|fix {n}"),
}
_NOUNS = """
    weather forecast flight hotel recipe invoice email song ticket meeting table taxi rate price parcel letter report
    movie book article photo video playlist alarm reminder note task order contract loan account payment refund
    appointment doctor clinic pharmacy restaurant train bus ferry bicycle car apartment house office desk printer lamp
    door window heating garden plant tree dog cat horse course lesson exam teacher student school museum concert
    festival match game player team score map route road bridge parking station airport passport visa insurance claim
    bill salary employee job interview customer supplier product catalog warehouse delivery shipment container stock
    share bond currency tax budget project file folder backup server database website password message call contact
    calendar newsletter survey poll vote law permit license patent speech poem story picture drawing painting statue
    ring watch coat shirt shoe meal drink pizza cake menu coupon gift flower battery engine sensor machine robot tool
    key card badge room conference workshop camp tour cruise beach mountain lake river forest volcano earthquake storm
    tide
""".split()
_POLITE = (
    "{q}.",
    "{q}.",
    "Please {q}.",
    "Can you {q}?",
    "Could you please {q}?",
    "{q}, please.",
    "{q}",
    "Hello, {q}.",
)


@dataclass(frozen=True)
class _Tool:
    name: str
    definition: dict[str, Any]
    verb: str
    thing: str
    used: tuple[_Parameter, ...]
    optional: tuple[_Parameter, ...]


class Tools:
    """Makes examples of one split; `size` from 0 to 1 is how many tools are offered."""

    def __init__(self, rng: random.Random, names: Names) -> None:
        self._rng = rng
        self._names = names

    def example(self, size: float = 1.0) -> Example:
        """One request, with one to four tools besides `directly_answer`."""
        rng = self._rng
        self._names.fresh()
        tools = self._offered(rng.randint(1, 1 + round(3 * size)))
        definitions = [tool.definition for tool in tools]
        if rng.random() < 0.5:
            definitions.append(DIRECTLY_ANSWER)
        if rng.random() < 0.18:
            request = self._names.rng.choice(SMALL_TALK)
            call: dict[str, Any] = {"tool_name": "directly_answer", "parameters": {}}
        else:
            tool = rng.choice(tools)
            values = {p: p.value(self._names) for p in self._mentioned(tool)}
            request = self._request(tool, values)
            parameters = {p.name: _typed(p, values[p]) for p in (*tool.used, *tool.optional) if p in values}
            call = {"tool_name": tool.name, "parameters": parameters}
        return Example(
            task="tools",
            messages=[{"role": "user", "content": request}],
            tools=definitions,
            reply=f"Action: ```json\n{json.dumps([call], indent=4, ensure_ascii=False)}\n```",
            call=call,
            entities=(*self._names.drawn, *(tool.name for tool in tools)),
        )

    def _offered(self, count: int) -> list[_Tool]:
        rng = self._rng
        tools = [self._tool(None, None)]
        while len(tools) < count:
            other = rng.choice(tools)
            kind = rng.random()
            verb = other.verb if kind < 0.25 else None
            thing = other.thing if 0.25 <= kind < 0.4 else None
            tool = self._tool(verb, thing)
            if all((tool.verb, tool.thing) != (t.verb, t.thing) and tool.name != t.name for t in tools):
                tools.append(tool)
        rng.shuffle(tools)
        return tools

    def _tool(self, verb: str | None, thing: str | None) -> _Tool:
        rng = self._rng
        while True:
            chosen = verb or rng.choice(list(_VERBS))
            noun = thing or (rng.choice(_NOUNS) if rng.random() < 0.85 else self._names.invented().lower())
            name = f"{chosen}_{noun}"
            if belongs(name, self._names.split):
                break
        parameters = rng.sample(_PARAMETERS, rng.choice((1, 1, 2, 2, 2)))
        while set(parameters[0].phrases) & {phrase for p in parameters[1:] for phrase in p.phrases}:
            parameters = rng.sample(_PARAMETERS, 2)  # a request that says both the same way has no one right call
        n_required = len(parameters) if rng.random() < 0.75 else len(parameters) - 1
        description = (
            f"{_VERBS[chosen][0].format(n=_with_article(noun))}{rng.choice(('', '', ' and gives the result'))}."
        )
        definition = {
            "name": name,
            "description": description,
            "parameter_definitions": {
                p.name: {"description": rng.choice(p.descriptions), "type": p.type, "required": i < n_required}
                for i, p in enumerate(parameters)
            },
        }
        return _Tool(name, definition, chosen, noun, tuple(parameters[:n_required]), tuple(parameters[n_required:]))

    def _mentioned(self, tool: _Tool) -> list[_Parameter]:
        return [*tool.used, *(p for p in tool.optional if not tool.used or self._rng.random() < 0.5)]

    def _request(self, tool: _Tool, values: dict[_Parameter, str]) -> str:
        rng = self._rng
        asked = rng.choice(_VERBS[tool.verb][1].split("|")).format(n=_with_article(tool.thing))
        parts = [rng.choice(p.phrases).format(v=value) for p, value in values.items()]
        text = " ".join([asked, *parts])
        if text.startswith(("I ", "where ", "what ")):
            return f"{text[0].upper()}{text[1:]}{'.' if text.startswith('I ') else '?'}"
        polite = rng.choice(_POLITE).format(q=text)
        return polite[0].upper() + polite[1:] if rng.random() < 0.9 else polite


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _typed(parameter: _Parameter, value: str) -> str | int | float:
    if parameter.type == "int":
        return int(value)
    return float(value) if parameter.type == "float" else value
