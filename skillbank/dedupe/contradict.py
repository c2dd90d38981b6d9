"""Two near texts that nevertheless say something else: other numbers, a negation, an opposite.

Embeddings hold "palindromes of length 2" and "of length 3", "maximum" and "minimum", "is even" and "is not even" for
nearly the same. What is said here keeps such texts apart whatever their cosine. It is a guard and no judge: texts may
differ in ways that no list of words knows, and that is why duplicates are shown before they are merged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from skillbank.records import Mistake, Skill

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NEGATION = re.compile(r"\b(?:not|no|never|cannot|without|neither|nor)\b|n['’]t\b", re.IGNORECASE)

_SPELT = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_SPELT |= {"ten": "10", "half": "1/2", "twice": "2", "doubled": "2", "triple": "3", "tripled": "3"}
# No "double" (of "double-check") and no "one", which is mostly a pronoun.

_OPPOSITES = """
maximum maxima maximal maximize maximizing max / minimum minima minimal minimize minimizing min
increase increases increasing / decrease decreases decreasing
add adds adding addition / subtract subtracts subtracting subtraction
multiply multiplies multiplying multiplication / divide divides dividing division
sum sums / difference differences
sum sums / product products
more / less fewer
greater larger bigger higher / smaller lower
largest greatest highest / smallest least lowest
longer longest / shorter shortest
before / after
above / below
inside / outside
even / odd
positive / negative
numerator numerators / denominator denominators
first / last
always / sometimes
all / some
include includes including / exclude excludes excluding
overcount overcounting overcounted / undercount undercounting undercounted
overestimate overestimating / underestimate underestimating
row rows / column columns
horizontal horizontally / vertical vertically
permutation permutations / combination combinations
union unions / intersection intersections
necessary / sufficient
ascending / descending
upper / lower
sine sin / cosine cos
inscribed / circumscribed
convergent converges / divergent diverges
rational / irrational
dependent / independent
finite / infinite
acute / obtuse
""".strip()
OPPOSITES = tuple(
    (frozenset(one.split()), frozenset(other.split()))
    for one, other in (line.split(" / ") for line in _OPPOSITES.splitlines())
)


class _Claims(NamedTuple):
    numbers: frozenset[str]
    negation: str | None
    left: Mapping[int, str]
    """Number of a pair of opposites -> the word, where it has one from the left side and none from the right."""
    right: Mapping[int, str]


def contradiction(one: Skill | Mistake, other: Skill | Mistake) -> str | None:
    """Why two texts must not become one, in words; None when nothing here speaks against it.

    Each names a number that the other lacks; or one of them alone negates something; or each has one of two opposites
    that the other lacks. Only what a text claims counts: its title and principle, or what a mistake is and how it is
    avoided. When it applies, and why it happens, are told by examples, whose numbers differ where the texts do not.
    """
    mine, theirs = _claims(one), _claims(other)
    only_mine, only_theirs = mine.numbers - theirs.numbers, theirs.numbers - mine.numbers
    if only_mine and only_theirs:
        return f"one says {min(only_mine)}, the other {min(only_theirs)}"
    if (mine.negation is None) != (theirs.negation is None):
        return f"only one says {(mine.negation or theirs.negation)!r}"
    for one_way, other_way in ((mine.left, theirs.right), (mine.right, theirs.left)):
        if both := one_way.keys() & other_way.keys():
            pair = min(both)
            return f"one says {one_way[pair]!r}, the other {other_way[pair]!r}"
    return None


@lru_cache(maxsize=65_536)
def _claims(text: Skill | Mistake) -> _Claims:
    parts = (text.title, text.principle) if isinstance(text, Skill) else (text.description, text.how_to_avoid)
    claim = " ".join(parts)
    words = frozenset(word.lower() for word in _WORD.findall(claim))
    digits = {number.replace(",", "").rstrip(".") for number in _NUMBER.findall(claim)}
    negation = _NEGATION.search(claim)
    return _Claims(
        numbers=frozenset(digits) | {_SPELT[word] for word in words if word in _SPELT},
        negation=None if negation is None else negation[0].lower(),
        left={n: min(words & one) for n, (one, other) in enumerate(OPPOSITES) if words & one and not words & other},
        right={n: min(words & other) for n, (one, other) in enumerate(OPPOSITES) if words & other and not words & one},
    )
