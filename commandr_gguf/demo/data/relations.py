"""What documents state: kinds of subjects, and for each what can be known about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from commandr_gguf.demo.data import words
from commandr_gguf.demo.data.names import Names


@dataclass(frozen=True)
class Relation:
    """One thing that can be known about a subject.

    `{v}` stands for the value, `{s}` for the subject in a question. Statements and predicate stand behind the subject.
    """

    value: Callable[[Names], str]
    predicate: str
    """What an answer says: "was opened in {v}"."""
    statements: tuple[str, ...]
    """Other ways in which documents say it."""
    questions: tuple[str, ...]
    """Ways to ask, without a question mark: "when was {s} opened"."""


@dataclass(frozen=True)
class Kind:
    """A kind of subject."""

    forms: tuple[str, ...]
    """The subject's name, `{n}` being the part of its own: "{n} Bridge"."""
    pronouns: tuple[str, ...]
    """What later sentences call it, capitalized."""
    relations: tuple[Relation, ...]
    article: bool = True
    """Whether the name stands with "the" in a sentence."""
    name: Callable[[Names], str] = Names.base


def _relation(value: Callable[[Names], str], predicate: str, others: str, questions: str) -> Relation:
    statements = (predicate, *filter(None, others.split("|")))
    return Relation(value, predicate, statements, tuple(questions.split("|")))


def _count(low: int, high: int, unit: str = "") -> Callable[[Names], str]:
    return lambda names: f"{names.number(low, high)} {unit}".rstrip()


def _word(values: list[str]) -> Callable[[Names], str]:
    return lambda names: names.choose(values)


_material, _color, _food = _word(words.MATERIALS), _word(words.COLORS), _word(words.FOODS)
_product, _job, _topic = _word(words.PRODUCTS), _word(words.OCCUPATIONS), _word(words.TOPICS_LIST)
_person, _place, _year, _date, _money = Names.person, Names.place, Names.year, Names.date, Names.money

_BUILDING = (
    _relation(
        _year, "was opened in {v}", "opened to the public in {v}", "when was {s} opened|in which year did {s} open"
    ),
    _relation(
        _person,
        "was designed by {v}",
        "is the work of the architect {v}",
        "who designed {s}|who was the architect of {s}",
    ),
    _relation(
        _count(10, 9000, "meters"), "is {v} long", "has a length of {v}", "how long is {s}|what is the length of {s}"
    ),
    _relation(_material, "is made of {v}", "was built of {v}", "what is {s} made of|which material was used for {s}"),
    _relation(_place, "stands in {v}", "is located in {v}", "where is {s}|where does {s} stand"),
    _relation(_money, "cost {v}", "was built for {v}", "how much did {s} cost|what was the price of {s}"),
    _relation(_person, "was paid for by {v}", "was a gift of {v}", "who paid for {s}|who funded {s}"),
)
_COMPANY = (
    _relation(_year, "was founded in {v}", "was set up in {v}", "when was {s} founded|in which year was {s} set up"),
    _relation(_person, "was founded by {v}", "goes back to its founder {v}", "who founded {s}|who started {s}"),
    _relation(
        _place,
        "is based in {v}",
        "has its headquarters in {v}",
        "where is {s} based|where does {s} have its headquarters",
    ),
    _relation(
        _count(10, 90000, "people"),
        "employs {v}",
        "has a staff of {v}",
        "how many people does {s} employ|how many people work for {s}",
    ),
    _relation(_product, "makes {v}", "produces {v}", "what does {s} make|what is produced by {s}"),
    _relation(_person, "is led by {v}", "has {v} as its director", "who leads {s}|who is the director of {s}"),
    _relation(
        _money,
        "earned {v} last year",
        "had sales of {v} last year",
        "how much did {s} earn last year|what were the sales of {s}",
    ),
)
_PERSON = (
    _relation(_year, "was born in {v}", "came into the world in {v}", "when was {s} born|in which year was {s} born"),
    _relation(
        _place, "grew up in {v}", "spent the early years in {v}", "where did {s} grow up|where does {s} come from"
    ),
    _relation(
        _job, "works as a {v}", "is a {v} by profession", "what does {s} do for a living|what is the profession of {s}"
    ),
    _relation(_person, "is married to {v}", "married {v}", "who is {s} married to|who is the partner of {s}"),
    _relation(_place, "lives in {v}", "has a home in {v}", "where does {s} live|in which town is the home of {s}"),
    _relation(
        _topic,
        "wrote a book about {v}",
        "is the author of a book about {v}",
        "what did {s} write a book about|what is the book of {s} about",
    ),
    _relation(_person, "studied under {v}", "was taught by {v}", "who taught {s}|who was the teacher of {s}"),
)
_TOWN = (
    _relation(
        _count(100, 9000000, "people"),
        "has {v}",
        "is home to {v}",
        "how many people live in {s}|what is the population of {s}",
    ),
    _relation(_person, "has {v} as its mayor", "elected {v} as mayor", "who is the mayor of {s}|who governs {s}"),
    _relation(
        lambda n: f"the {n.invented()}",
        "lies on {v}",
        "was built beside the river called {v}",
        "which river flows through {s}|on which river does {s} lie",
    ),
    _relation(
        _product, "is known for its {v}", "is famous for its {v}", "what is {s} known for|what is {s} famous for"
    ),
    _relation(_year, "was founded in {v}", "was first settled in {v}", "when was {s} founded|how old is {s}"),
    _relation(
        _count(10, 4000, "meters"),
        "lies {v} above the sea",
        "has an altitude of {v}",
        "how high does {s} lie|what is the altitude of {s}",
    ),
    _relation(
        _place,
        "is twinned with {v}",
        "has {v} as its twin town",
        "which town is {s} twinned with|what is the twin town of {s}",
    ),
)
_ANIMAL = (
    _relation(_food, "eats {v}", "feeds on {v}", "what does {s} eat|what is the food of {s}"),
    _relation(_place, "is found near {v}", "lives in the hills around {v}", "where is {s} found|where does {s} live"),
    _relation(
        _count(10, 900, "grams"),
        "weighs {v}",
        "has a weight of {v}",
        "how much does {s} weigh|what is the weight of {s}",
    ),
    _relation(
        _person, "was discovered by {v}", "was first described by {v}", "who discovered {s}|who first described {s}"
    ),
    _relation(
        lambda n: f"{n.integer(10, 90)} years",
        "lives for {v}",
        "reaches an age of {v}",
        "how long does {s} live|what age does {s} reach",
    ),
    _relation(_color, "is {v}", "has a {v} back", "what color is {s}|which color does {s} have"),
)
_DEVICE = (
    _relation(_money, "costs {v}", "is sold for {v}", "how much does {s} cost|what is the price of {s}"),
    _relation(
        _count(10, 9000, "grams"), "weighs {v}", "has a weight of {v}", "how much does {s} weigh|how heavy is {s}"
    ),
    _relation(
        lambda n: f"{n.integer(10, 96)} hours",
        "runs for {v} on one charge",
        "has a battery that lasts {v}",
        "how long does the battery of {s} last|how long does {s} run on one charge",
    ),
    _relation(_color, "is sold in {v}", "comes in {v}", "which color does {s} come in|in which color is {s} sold"),
    _relation(_person, "was invented by {v}", "was developed by {v}", "who invented {s}|who developed {s}"),
    _relation(_place, "is made in {v}", "is produced in {v}", "where is {s} made|where is {s} produced"),
    _relation(
        lambda n: f"{n.integer(10, 60)} months",
        "has a warranty of {v}",
        "is under warranty for {v}",
        "how long is the warranty of {s}|what warranty does {s} have",
    ),
)
_MUSEUM = (
    _relation(
        Names.time,
        "opens at {v}",
        "can be entered from {v} on",
        "when does {s} open in the morning|at what time does {s} open",
    ),
    _relation(
        Names.weekday, "is closed on {v}", "does not open on {v}", "on which days is {s} closed|when is {s} closed"
    ),
    _relation(
        _money,
        "charges {v} for a ticket",
        "asks visitors for {v}",
        "how much is a ticket for {s}|what does a visit to {s} cost",
    ),
    _relation(_person, "is headed by {v}", "has {v} as its director", "who heads {s}|who is the director of {s}"),
    _relation(
        _count(50, 900000, "objects"),
        "owns {v}",
        "has a collection of {v}",
        "how many objects does {s} own|how large is the collection of {s}",
    ),
    _relation(
        _topic,
        "shows an exhibition about {v}",
        "has rooms about {v}",
        "what is the exhibition of {s} about|what does {s} show",
    ),
)
_EVENT = (
    _relation(_date, "takes place on {v}", "begins on {v}", "when does {s} take place|on which date is {s}"),
    _relation(_place, "is held in {v}", "takes place in {v}", "where is {s} held|in which town is {s}"),
    _relation(
        _person, "is organized by {v}", "is in the hands of {v}", "who organizes {s}|who is the organizer of {s}"
    ),
    _relation(
        _count(20, 90000, "visitors"),
        "drew {v} last year",
        "had {v} last year",
        "how many visitors did {s} have|how many people came to {s} last year",
    ),
    _relation(_topic, "is about {v}", "has {v} as its theme", "what is {s} about|what is the theme of {s}"),
    _relation(
        _money,
        "charges {v} for entry",
        "asks for an entry fee of {v}",
        "how much is the entry to {s}|what does it cost to attend {s}",
    ),
)
_PROJECT = (
    _relation(_date, "must be finished by {v}", "has a deadline of {v}", "when is {s} due|what is the deadline of {s}"),
    _relation(_money, "has a budget of {v}", "may spend {v}", "what is the budget of {s}|how much money does {s} have"),
    _relation(_person, "is led by {v}", "has {v} in charge", "who leads {s}|who is in charge of {s}"),
    _relation(
        lambda n: f"room {n.integer(10, 900)}",
        "meets in {v}",
        "uses {v} for its meetings",
        "where does {s} meet|which room does {s} use",
    ),
    _relation(_person, "was ordered by {v}", "has {v} as its client", "who ordered {s}|who is the client of {s}"),
    _relation(
        Names.email, "can be reached at {v}", "answers mail at {v}", "what is the address of {s}|how can {s} be reached"
    ),
    _relation(
        Names.weekday,
        "has its meeting on {v}",
        "meets on {v}",
        "on which days does {s} meet|when is the meeting of {s}",
    ),
)
_SHIP = (
    _relation(_person, "is commanded by {v}", "has {v} as its captain", "who commands {s}|who is the captain of {s}"),
    _relation(
        _count(10, 9000, "passengers"),
        "carries {v}",
        "has room for {v}",
        "how many passengers does {s} carry|how many people fit on {s}",
    ),
    _relation(_place, "sails to {v}", "is bound for {v}", "where does {s} sail to|what is the destination of {s}"),
    _relation(_place, "was built in {v}", "comes from a yard in {v}", "where was {s} built|where was {s} launched"),
    _relation(
        lambda n: f"{n.integer(10, 60)} knots",
        "reaches {v}",
        "has a top speed of {v}",
        "how fast is {s}|what is the top speed of {s}",
    ),
    _relation(_product, "transports {v}", "is loaded with {v}", "what does {s} transport|what is {s} loaded with"),
)
_DISH = (
    _relation(
        _place, "comes from {v}", "was first cooked in {v}", "where does {s} come from|what is the origin of {s}"
    ),
    _relation(_food, "is made with {v}", "contains {v}", "what is {s} made with|what does {s} contain"),
    _relation(
        lambda n: f"{n.integer(10, 180)} minutes",
        "cooks for {v}",
        "takes {v} in the oven",
        "how long does {s} cook|how much time does {s} take",
    ),
    _relation(
        _count(10, 60, "guests"),
        "serves {v}",
        "is enough for {v}",
        "how many guests does {s} serve|for how many people is {s}",
    ),
    _relation(_person, "was created by {v}", "is a recipe of {v}", "who created {s}|whose recipe is {s}"),
)

KINDS = (
    Kind(("{n} Bridge", "{n} Tower", "{n} Tunnel", "{n} Canal", "{n} Lighthouse", "{n} Hall"),
         ("It", "The building", "The structure"), _BUILDING),
    Kind(("{n} Works", "{n} Foods", "{n} Motors", "{n} Labs", "{n} Textiles", "{n} & Sons", "{n}"),
         ("It", "The company", "The firm"), _COMPANY, article=False),
    Kind(("{n}",), ("She", "He"), _PERSON, article=False, name=Names.person),
    Kind(("{n}",), ("It", "The town"), _TOWN, article=False, name=Names.place),
    Kind(tuple("{n} " + animal for animal in words.ANIMALS), ("It", "The animal", "This species"), _ANIMAL),
    Kind(("{n}", "{n} lamp", "{n} drill", "{n} phone", "{n} scooter", "{n} printer", "{n} radio", "{n} camera"),
         ("It", "The device", "This model"), _DEVICE, name=lambda n: n.code() if n.rng.random() < 0.5 else n.base()),
    Kind(("{n} Museum", "{n} Gallery", "{n} Library", "{n} Garden"), ("It", "The house"), _MUSEUM),
    Kind(("{n} Festival", "{n} Fair", "{n} Congress", "{n} Race", "{n} Meeting"), ("It", "The event"), _EVENT),
    Kind(("{n} project", "{n} team", "{n} plan", "{n} group"), ("It", "The group"), _PROJECT),
    Kind(("{n}", "{n} Star", "{n} Queen"), ("It", "The ship", "The vessel"), _SHIP),
    Kind(("{n} soup", "{n} cake", "{n} stew", "{n} salad", "{n} pie"), ("It", "The dish"), _DISH),
)  # fmt: skip

_ANY_VALUE = (
    Names.code, Names.decimal, Names.invented, Names.year, Names.person, Names.phone, Names.email, Names.money,
    _color, _place, _count(10, 90000), Names.date,
)  # fmt: skip


def attribute(names: Names) -> Relation:
    """A relation made on the spot: "has the height 12.5", asked for as "what is the height of ..."."""
    noun = names.rng.choice(words.ATTRIBUTES) if names.rng.random() < 0.7 else names.invented().lower()
    value = names.rng.choice(_ANY_VALUE)
    return Relation(
        value,
        f"has the {noun} {{v}}",
        (f"has the {noun} {{v}}", f"is listed with the {noun} {{v}}", f"got {{v}} as its {noun}"),
        (f"what is the {noun} of {{s}}", f"which {noun} does {{s}} have"),
    )
