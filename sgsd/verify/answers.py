"""Reading the final answer out of a completion. Text in, text out; no judgement.

The *last* complete box after the thinking block counts (docs/method.md, pitfall 5): earlier boxes are drafts, and
what stands inside the thinking block is not an answer yet.
"""

from __future__ import annotations

import re

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

NO_BOX = "no \\boxed{} answer"
OPEN_THINKING = "the thinking block is not closed, so there is no final answer"


def final_text(completion: str) -> str | None:
    """What follows the last closed thinking block; all of it without one; None when a block is left open.

    A completion whose `<think>` stands in the prompt shows only the closing tag, which is enough. Cut off inside such a
    block it shows neither tag, and is read as it stands.
    """
    after = completion.rpartition("</think>")[2]
    return None if "<think>" in after else after


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` whose braces balance, stripped; None when there is none.

    Of nested boxes it is the inner one. A box that was cut off before its closing brace is passed over.
    """
    for match in reversed(list(_BOX.finditer(text))):
        end = _closing_brace(text, match.end())
        if end is not None:
            return text[match.end() : end].strip()
    return None


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for token in _BRACE.finditer(text, start):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return token.start()
    return None


def last_line(text: str) -> str | None:
    """The last line that is not blank, stripped."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def fold(text: str) -> str:
    """Runs of whitespace as one space, none at the ends."""
    return " ".join(text.split())
