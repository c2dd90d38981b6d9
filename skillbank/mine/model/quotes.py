"""Finding what a writer quotes in what an attempt says. White space may differ, nothing else.

A quote that is found gives evidence with its place. One that is nowhere is no evidence of a place: the entry then rests
on the whole attempt, with no words of the writer's passed off as the attempt's.
"""

from __future__ import annotations

import re

MIN_QUOTE = 4
"""Characters besides white space: a shorter quote is found anywhere and says nothing."""
_ENDS = " \t\r\n\"'`“”‘’«»…"
_ELLIPSIS = re.compile(r"^(?:\[?\.{3}\]?)+|(?:\[?\.{3}\]?)+$")


def find_quote(quote: str, completion: str) -> tuple[int, int] | None:
    """Span [start, end) of the quote's first place in the completion, None when it is not there.

    Quotation marks and dots of omission around the quote are the writer's, unless they are in the completion too.
    """
    for candidate in (quote.strip(), _ELLIPSIS.sub("", quote.strip(_ENDS)).strip(_ENDS)):
        words = candidate.split()
        if sum(map(len, words)) < MIN_QUOTE:
            continue
        start = completion.find(candidate)
        if start >= 0:
            return start, start + len(candidate)
        found = re.search(r"\s+".join(map(re.escape, words)), completion)
        if found is not None:
            return found.span()
    return None
