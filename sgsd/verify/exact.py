"""`exact`: the answer is the reference, letter for letter, whitespace folded."""

from __future__ import annotations

from collections.abc import Sequence

from sgsd.records import Problem, Verdict
from sgsd.verify.answers import OPEN_THINKING, final_text, fold, last_boxed, last_line


class ExactVerifier:
    """Compares the last box, or the last line when there is no box, with the reference."""

    def verify_many(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        return [_verify(text, problem) for text, problem in zip(completions, problems, strict=True)]

    def close(self) -> None:
        """Nothing to release."""


def _verify(completion: str, problem: Problem) -> Verdict:
    text = final_text(completion)
    if text is None:
        return Verdict("wrong", None, OPEN_THINKING)
    answer = last_boxed(text)
    if answer is None:
        answer = last_line(text)
    if answer is None:
        return Verdict("wrong", None, "the completion is empty")
    return Verdict("correct" if fold(answer) == fold(problem.answer) else "wrong", answer)
