"""The numbers of a text: where they stand, one spelling for each, and which of them any text may hold."""

from __future__ import annotations

import re
from functools import lru_cache

NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:/\d+)?"
_ON = r"\d*(?:,\d{3})+(?:\.\d+)?|\d*(?:\.\d+)?(?:/\d+)?"
"""The rest of a number after its first digit."""
_STANDING = re.compile(
    # Begins with the sign or digit that every number begins with, and looks back from there: so the search leaps from
    # one to the next. A sign of money before it makes a number of what would be the end of a word: `US$5`.
    rf"[-\d](?:(?<![\w.\\].)(?:(?<=-)(?:{NUMBER})|(?<!-)(?:{_ON}))(?![\w]|\.\d)|(?<=[$£€]\d)(?:{_ON}))",
    re.DOTALL,
)


Number = tuple[str, int, int]
"""(the number in one spelling and without its sign, start, end) where it stands in a text."""


def find_numbers(text: str) -> list[Number]:
    """The numbers of a text, in order."""
    spans = [match.span() for match in _STANDING.finditer(text)]
    return [(_magnitude(text[start:end]), start, end) for start, end in spans]


@lru_cache(maxsize=4096)
def numbers_of(text: str) -> frozenset[str]:
    """The numbers of a text without their signs, in one spelling each."""
    return frozenset(map(_magnitude, _STANDING.findall(text)))


@lru_cache(maxsize=65536)
def _magnitude(number: str) -> str:
    return normal_number(number.lstrip("-"))


@lru_cache(maxsize=65536)
def normal_number(number: str) -> str:
    """One spelling for each number: `1,600`, `1600.0` and `$1600` are `1600`."""
    bare = number.replace(",", "").lstrip("$€£")
    if "." in bare and "/" not in bare:
        bare = bare.rstrip("0").rstrip(".")
    sign, digits = ("-", bare[1:]) if bare.startswith("-") else ("", bare)
    return sign + (digits.lstrip("0") or "0")


_SMALL = 12
"""Whole numbers up to here stand in any text; the answer among them counts only where it stands as a result."""
_GENERAL = frozenset(
    number
    for line in (
        "13 14 15 16 18 20 24 25 30 32 36 40 45 48 50 52 60 64 72 75 80 90 99 100 120 125 128 144 150 180 200 250 256",
        "270 300 360 365 366 400 500 512 600 720 750 800 900 1000 1024 1461 1900 2000 10000 100000 1000000",
        "3.14 3.1416 0.5 0.25 0.75 0.1 0.01 0.001 0.05 1.5 2.5 2.718 1.96 1/2 1/3 2/3 1/4 3/4 1/5 1/6 1/8 1/10",
    )
    for number in line.split()
)
"""Numbers that general advice quotes: powers, angles, calendars, percentages."""


def is_general(number: str) -> bool:
    """Whether any text may hold it, whatever it is about."""
    return number in _GENERAL or (number.isdigit() and int(number) <= _SMALL)
