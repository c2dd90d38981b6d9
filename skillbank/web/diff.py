"""Two texts side by side: which words they share, which each has alone."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import NamedTuple

_PIECES = re.compile(r"\s+|\w+|[^\w\s]")
LONGEST = 20_000
"""Characters beyond which two texts are shown whole: comparing takes time that grows with their product."""


class Piece(NamedTuple):
    """Some words of a text."""

    text: str
    alone: bool
    """Whether the other text lacks them."""


class Diff(NamedTuple):
    """Each text in pieces, which joined are the text."""

    before: list[Piece]
    after: list[Piece]


def text_diff(before: str, after: str) -> Diff:
    """What two texts share and what not, word by word."""
    if before == after:
        return Diff([Piece(before, False)], [Piece(after, False)])
    if max(len(before), len(after)) > LONGEST:
        return Diff([Piece(before, True)], [Piece(after, True)])
    one, other = _PIECES.findall(before), _PIECES.findall(after)
    diff = Diff([], [])
    for op, i, j, k, m in SequenceMatcher(a=one, b=other, autojunk=False).get_opcodes():
        alone = op != "equal"
        if i < j:
            diff.before.append(Piece("".join(one[i:j]), alone))
        if k < m:
            diff.after.append(Piece("".join(other[k:m]), alone))
    return diff
