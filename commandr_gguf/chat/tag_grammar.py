"""Rules for citation tags: the numbers of documents that exist, and closing tags with those of their opening ones.

llguidance's rules carry a number of 64 bits. The opening tag writes its digits and commas there, four bits for each,
and the closing tag has to repeat them. What 64 bits do not hold, behind eight documents of one digit, five of
two or four of three, need not be the same in both.
"""

from __future__ import annotations

from collections.abc import Iterator

_BITS = 4
_LAST = 64 // _BITS - 1
_COMMA = 11  # digits are 1 to 10: zero bits are those of the end
_SEPARATOR = "/, ?/"

# For each state, the next one by digit. State 0 is before a number; all others are where it may end.
Automaton = list[dict[str, int]]


def number_list(n: int) -> str:
    """A regular expression for numbers from 0 to n - 1, n >= 1, with commas between them."""
    number = _pattern(_automaton(n), 0)
    return f"{number}(?:, ?{number})*"


def tag_rules(n: int) -> list[str]:
    """Rules for the documents 0 to n - 1, n >= 1. `opened_0_0::0` is a citation from behind `<co: ` to its end.

    A rule CLOSING has to be added: the cited text and `</co: `.
    """
    automaton = _automaton(n)
    width = len(str(n - 1))
    rules = [f"DOCUMENTS: /{number_list(n)}/", "inside::_: CLOSING closing_0::_"]
    for position in range(_LAST + 1):
        # Behind a separator a number is written down where there is room for it and for what comes next.
        room = position + 1 + width <= _LAST
        for state in range(len(automaton)):
            alternatives = [*_opened(position, automaton, state, room)]
            if alternatives:
                rules.append(f"opened_{position}_{state}::_: {' | '.join(alternatives)}")
        rules.append(f"closing_{position}::_: {' | '.join(_closing(position, room))}")
    return rules


def _opened(position: int, automaton: Automaton, state: int, room: bool) -> Iterator[str]:
    if position < _LAST:
        for digit, target in automaton[state].items():
            yield f'"{digit}" opened_{position + 1}_{target}::{_write(position, int(digit) + 1)}'
    if state:
        goal = f"opened_{position + 1}_0" if room else 'DOCUMENTS ">" inside'
        yield f"{_SEPARATOR} {goal}::{_write(position, _COMMA)}"
        yield '">" inside::_'


def _closing(position: int, room: bool) -> Iterator[str]:
    if position < _LAST:
        for digit in range(10):
            yield f'"{digit}" closing_{position + 1}::_ {_if_written(position, digit + 1)}'
    goal = f"closing_{position + 1}::_" if room else 'DOCUMENTS ">"'
    yield f"{_SEPARATOR} {goal} {_if_written(position, _COMMA)}"
    yield f'">" {_if_written(position, 0)}'


def _write(position: int, code: int) -> str:
    return f"bit_or({code << _BITS * position:#x})"


def _if_written(position: int, code: int) -> str:
    return f"%if eq([{_BITS * position}:{_BITS * (position + 1)}], {code})"


def _automaton(n: int) -> Automaton:
    """Reads the numbers below n, without leading zeros."""
    last = str(n - 1)
    width = len(last)
    # State 1 + i: any i digits may follow. State width + i: i digits were read, those of `last`.
    states: Automaton = [{}, *({} for _ in range(width)), *({} for _ in range(1, width))]
    for i in range(1, width):
        states[1 + i] = dict.fromkeys("0123456789", i)
    for i in range(width):
        for digit in "0123456789":
            left = width - i - 1 - (digit > last[i])
            tight = digit == last[i] and left > 0
            if left >= 0:
                states[width + i if i else 0][digit] = width + i + 1 if tight else 1 + left
    states[0]["0"] = 1
    return states


def _pattern(automaton: Automaton, state: int) -> str:
    targets: dict[int, str] = {}
    for digit, target in automaton[state].items():
        targets[target] = targets.get(target, "") + digit
    ways = "|".join(f"[{digits}]{_pattern(automaton, target)}" for target, digits in targets.items())
    return f"(?:{ways}){'?' if state else ''}" if ways else ""
