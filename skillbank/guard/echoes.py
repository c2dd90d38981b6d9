"""Rules against entries that are no lesson but an echo: of the numbers of one problem, of skills shown before.

What a miner quotes as an example keeps its numbers; a number of the problem outside a quote says that the lesson was
written for that one problem. What was mined only from prompts that held skills repeats the bank to itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache

from skillbank.guard.context import Content, Context
from skillbank.guard.numbers import is_general, numbers_of
from skillbank.records import Flag

_TOKEN = re.compile(r"\w+|[^\w\s]")
QUOTED_TOKENS = 4
"""So many words and signs in a row, shared with a quote of the evidence, are that quote."""
DISTINCT_DIGITS = 3
"""A number of the problem with so many digits is enough to tell it; of shorter ones it takes two."""


def problem_number(content: Content, context: Context) -> Iterator[Flag]:
    """Numbers of the one problem that an entry rests on, outside what it quotes from its rollouts."""
    if len(context.sources) != 1 or not context.sources[0].problem:
        return
    source = context.sources[0]
    assert source.problem is not None
    here = {value for value, _, _ in context.numbers}
    shared = {n for n in here & numbers_of(source.problem) if not is_general(n) and len(n) > 1}
    if not _telling(shared):
        return
    quoted = _quoted_parts(context.text, frozenset((*(place.quote for place in context.evidence), *source.quotes)))
    left = sorted(shared - numbers_of(quoted))
    if _telling(left):
        shown = ", ".join(left[:4])
        yield Flag(rule="problem_number", reason=f"holds numbers of problem {source.problem_id} alone: {shown}")


def _telling(numbers: Collection[str]) -> bool:
    """Whether these numbers of a problem are enough to tell it."""
    return len(numbers) >= 2 or any(sum(map(str.isdigit, n)) >= DISTINCT_DIGITS for n in numbers)


def _quoted_parts(text: str, quotes: frozenset[str]) -> str:
    """What of a text it shares with a quote, `QUOTED_TOKENS` in a row or more."""
    grams = _grams(quotes)
    places = [match.span() for match in _TOKEN.finditer(text)]
    tokens = [text[start:end] for start, end in places]
    parts = []
    for size in sorted({len(gram) for gram in grams} - {0}):
        for n, gram in enumerate(_windows(tokens, size)):
            if gram in grams:
                end = places[n + size - 1][1]
                while end < len(text) and (text[end].isdigit() or text[end] in ".,"):
                    end += 1  # a number is quoted whole
                parts.append(text[places[n][0] : end])
    return "\n".join(parts)


@lru_cache(maxsize=256)
def _grams(quotes: frozenset[str]) -> frozenset[tuple[str, ...]]:
    """`QUOTED_TOKENS` in a row of each quote, or all of it where it has fewer; the entries of a problem share them."""
    grams: set[tuple[str, ...]] = set()
    for quote in quotes:
        tokens = _TOKEN.findall(quote)
        size = min(QUOTED_TOKENS, len(tokens))
        grams.update(_windows(tokens, size))
    return frozenset(grams)


def _windows(tokens: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Each `size` tokens in a row."""
    return zip(*(tokens[n:] for n in range(size)), strict=False)


def guided(content: Content, context: Context) -> Iterator[Flag]:
    """Mined from rollouts whose prompt contained skills: the bank would learn its own words."""
    if not context.guided:
        return
    rollouts = {place.rollout_id for place in context.evidence}
    if rollouts and rollouts <= context.guided:
        yield Flag(rule="guided", reason="rests only on rollouts whose prompt held skills")
