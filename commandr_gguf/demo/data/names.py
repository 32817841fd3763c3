"""Entities, numbers and dates, each belonging to the training or the test split by its spelling.

A hash of the spelling decides, so that what the test split asks for never occurs as an entity, number or tool name in
training: a model that answers has copied from its prompt.
"""

from __future__ import annotations

import itertools
import math
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

from commandr_gguf.demo.data import words

Split = Literal["train", "test"]

_ONSETS = """
    b br c ch d dr f fl g gl gr h j k kr l m n p pl qu r s sh sk st t th tr v w y z bl cl fr kl sl sm sn sp str
""".split()
_VOWELS = "a a a e e e i i o o u ae ai au ea ei ia io oa ou y".split()
_CODAS = ["", "", "", "", "l", "m", "n", "r", "s", "t", "x", "nd", "rk", "st", "ck", "rn", "ll", "sh", "lt", "ng"]
_WORDS = [
    *words.FIRST_NAMES, *words.LAST_NAMES, *words.PLACES, *words.MATERIALS, *words.COLORS, *words.FOODS,
    *words.PRODUCTS, *words.OCCUPATIONS, *words.ANIMALS, *words.ATTRIBUTES,
]  # fmt: skip
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def belongs(text: str, split: Split) -> bool:
    """Whether a spelling is of this split: one in eight is of the test split."""
    return (zlib.crc32(text.lower().encode()) % 8 == 0) == (split == "test")


class Names:
    """Draws names, numbers and dates of one split.

    No value is drawn twice by the same object until `fresh` is called, so that the entities of one example differ.
    """

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        self._drawn: set[str] = set()

    def fresh(self) -> None:
        """Begin a new example."""
        self._drawn = set()

    @property
    def drawn(self) -> list[str]:
        """What was drawn for this example, in lower case."""
        return sorted(self._drawn)

    def draw(self, make: Callable[[], str]) -> str:
        """A value of `make` that is of this split and, if that can be had, not drawn before."""
        for attempt in itertools.count():
            value = make()
            spelling = value.lower()
            if belongs(spelling, self.split) and (attempt > 200 or spelling not in self._drawn):
                self._drawn.add(spelling)
                return value
        raise AssertionError

    def choose(self, values: Sequence[str]) -> str:
        """One of a list of plain words, or a new one made of parts of two of them."""
        own = [value for value in values if belongs(value, self.split)]
        if own and self.rng.random() < 0.6:
            return self.draw(lambda: self.rng.choice(own))
        return self.draw(lambda: self._spliced(values))

    def _spliced(self, values: Sequence[str]) -> str:
        """The beginning of one word and the end of another, as "bamber" of bamboo and amber.

        A model learns to copy the tokens that it has seen copied: without these, words of the test split would hold
        tokens that no training example has.
        """
        first, last = self.rng.choice(values), self.rng.choice(values)
        if " " in first:
            return f"{first.split()[0]} {last.split()[-1]}"
        n_first, n_last = (min(self.rng.randint(2, 6), len(word)) for word in (first, last))
        return first[:n_first] + last[-n_last:].lower()

    # ---- names

    def invented(self) -> str:
        """A made-up word such as "Velmora"."""
        return self.draw(self._syllables)

    def _syllables(self) -> str:
        rng = self.rng
        if rng.random() < 0.25:
            return self._spliced(_WORDS).capitalize()
        count = rng.choice((1, 2, 2, 2, 3, 3))
        text = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)) + rng.choice(_CODAS)
        if count == 1:
            text += rng.choice(_ONSETS) + rng.choice(("a", "e", "o", "en", "er", "ow", "y"))
        return text.capitalize()

    def place(self) -> str:
        """A town, made up or real."""
        return self.choose(words.PLACES) if self.rng.random() < 0.3 else self.invented()

    def person(self) -> str:
        """First and last name."""
        first = self.choose(words.FIRST_NAMES) if self.rng.random() < 0.6 else self.invented()
        last = self.choose(words.LAST_NAMES) if self.rng.random() < 0.4 else self.invented()
        return f"{first} {last}"

    def base(self) -> str:
        """The part of a name that tells it from others of its kind."""
        kind = self.rng.random()
        if kind < 0.8:
            return self.invented()
        return self.choose(words.LAST_NAMES if kind < 0.9 else words.PLACES)

    def code(self) -> str:
        """A part or order number such as "QX-417"."""
        return self.draw(self._code)

    def _code(self) -> str:
        rng = self.rng
        letters = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(1, 3)))
        digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 4)))
        return letters + rng.choice(("-", "", "")) + digits

    def email(self) -> str:
        """An address such as "mara@velmora.org"."""
        domain = self.invented().lower()
        user = self.choose(words.FIRST_NAMES) if self.rng.random() < 0.7 else self.invented()
        return f"{user.lower()}@{domain}.{self.rng.choice(('org', 'com', 'net'))}"

    # ---- numbers

    def integer(self, low: int, high: int) -> str:
        """A whole number of at least two digits, without separators."""
        return self.draw(lambda: str(self.rng.randint(max(low, 10), high)))

    def number(self, low: int, high: int) -> str:
        """A whole number of at least two digits whose magnitude is evenly spread; large ones mostly with a comma."""

        def make() -> str:
            value = 10 ** self.rng.uniform(math.log10(max(low, 10)), math.log10(high))
            return str(int(value))

        value = int(self.draw(make))
        return f"{value:,}" if value >= 10000 or (value >= 1000 and self.rng.random() < 0.5) else str(value)

    def year(self) -> str:
        """From 1000 to 2029."""
        return self.draw(lambda: str(self.rng.randint(1000 if self.rng.random() < 0.3 else 1700, 2029)))

    def decimal(self) -> str:
        """A number with one digit behind the point."""
        return self.draw(lambda: f"{self.rng.randint(1, 99)}.{self.rng.randint(1, 9)}")

    def date(self) -> str:
        """A day such as "12 March" or "12 March 1987"."""

        def make() -> str:
            # A day or a year is a number by itself, too, and of the same split.
            days = [day for day in range(1, 29) if day < 10 or belongs(str(day), self.split)]
            day = f"{self.rng.choice(days)} {self.rng.choice(words.MONTHS)}"
            return day if self.rng.random() < 0.5 else f"{day} {self.year()}"

        return self.draw(make)

    def time(self) -> str:
        """A time of day such as "14:30"."""
        return self.draw(lambda: f"{self.rng.randint(6, 23)}:{self.rng.randrange(0, 60, 5):02d}")

    def money(self, low: int = 2, high: int = 900000) -> str:
        """An amount such as "450 dollars"."""
        return f"{self.number(max(low, 10), high)} {self.rng.choice(('dollars', 'euros', 'dollars', 'pounds'))}"

    def weekday(self) -> str:
        """A part of the week such as "Monday evenings"."""
        rng = self.rng
        return self.draw(
            lambda: f"{rng.choice(words.WEEKDAYS)} {rng.choice(('mornings', 'afternoons', 'evenings', 'nights'))}"
        )

    def phone(self) -> str:
        """A telephone number such as "555-0147"."""
        return self.draw(lambda: f"{self.rng.randint(200, 999)}-{self.rng.randint(0, 9999):04d}")
