r"""`choice`: multiple choice, A to E: `\boxed{B}`, `\boxed{\text{(B) } 12}`, `\text{(B)}`, `the answer is (B)`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sgsd.records import Problem, Verdict
from sgsd.verify.answers import OPEN_THINKING, final_text, last_boxed

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|rm|bf)(?![a-zA-Z])|[{}$*]|\\[()\s]|\\[,;:!]")
_LETTER = re.compile(r"\(([A-Ea-e])\).*|([A-Ea-e])(?:[.):].*)?", re.DOTALL)
_IN_TEXT = re.compile(
    r"\\(?:text|textbf|mathrm)\s*\{\s*\(?([A-E])\)?[\s.:]*\}"
    r"|(?:[Aa]nswer|[Oo]ption|[Cc]hoice)\s*(?:is|:)?\s*:?\s*(?:\*\*)?(?:\\\(|\$)?\(?([A-E])(?![A-Za-z0-9])"
)


def choice_letter(text: str) -> str | None:
    """The letter that an answer such as `B`, `(B)`, `\\text{(B) } 12` or `B. 12` names; None when it names none."""
    match = _LETTER.fullmatch(_WRAPPER.sub("", text).strip())
    return (match[1] or match[2]).upper() if match else None


class ChoiceVerifier:
    """Compares letters. A reference that is no letter makes the item unverifiable."""

    def verify_many(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        return [_verify(text, problem) for text, problem in zip(completions, problems, strict=True)]

    def close(self) -> None:
        """Nothing to release."""


def _verify(completion: str, problem: Problem) -> Verdict:
    reference = choice_letter(problem.answer)
    if reference is None:
        return Verdict("unverifiable", None, f"the reference {problem.answer[:80]!r} is not a letter from A to E")
    text = final_text(completion)
    if text is None:
        return Verdict("wrong", None, OPEN_THINKING)
    boxed = last_boxed(text)
    if boxed is not None:
        letter = choice_letter(boxed)
        return Verdict("correct" if letter == reference else "wrong", letter or boxed)
    named = [match[1] or match[2] for match in _IN_TEXT.finditer(text)]
    if not named:
        return Verdict("wrong", None, "no choice from A to E is named")
    return Verdict("correct" if named[-1] == reference else "wrong", named[-1])
