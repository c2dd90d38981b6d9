"""Verifiers: from a completion and its problem to a verdict of `correct`, `wrong` or `unverifiable`.

    math              math-verify on the last box of the final answer
    exact             string equality
    choice            letters from A to E
    module:function   your own

Unverifiable is what the verifier could not decide: a time-out, a crash, a reference that cannot be read. It never means
that the student failed (docs/method.md, pitfall 4). Light to import: torch is not needed to verify.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from sgsd.errors import VerifierError
from sgsd.records import Completion, Problem, Verdict

if TYPE_CHECKING:
    from sgsd.config import VerifierConfig

TruncationPolicy = Literal["grade", "wrong", "ignore"]


class Verifier(Protocol):
    """What decides outcomes."""

    def verify_many(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """One verdict a completion; `completions[i]` answers `problems[i]`."""
        ...

    def close(self) -> None:
        """Release processes. Not an end: a closed verifier may be used again."""
        ...


def load_verifier(config: VerifierConfig) -> Verifier:
    """The verifier that `config.name` names. Raises VerifierError for a name that is none."""
    from sgsd.verify.choice import ChoiceVerifier
    from sgsd.verify.exact import ExactVerifier
    from sgsd.verify.function import FunctionVerifier
    from sgsd.verify.math import MathVerifier

    match config.name:
        case "math":
            return MathVerifier(config.timeout_s)
        case "exact":
            return ExactVerifier()
        case "choice":
            return ChoiceVerifier()
    module, colon, function = config.name.partition(":")
    if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise VerifierError(
            f"verifier {config.name!r} is unknown: take math, exact, choice or your own as module:function"
        )
    return FunctionVerifier(config.name, config.timeout_s)


def apply_truncation(verdict: Verdict, truncated: bool, policy: TruncationPolicy) -> Verdict:
    """What a verdict is worth when the completion was cut off at the length limit (docs/method.md, step 2)."""
    if not truncated or policy == "grade":
        return verdict
    outcome: Literal["wrong", "unverifiable"] = "wrong" if policy == "wrong" else "unverifiable"
    return Verdict(outcome, verdict.answer, "cut off at the length limit")


def grade(
    verifier: Verifier, completions: Sequence[Completion], problems: Sequence[Problem], policy: TruncationPolicy
) -> list[Verdict]:
    """Verify what a generator returned, the truncation policy applied. The one way from completions to outcomes."""
    verdicts = verifier.verify_many([completion.text for completion in completions], problems)
    return [
        apply_truncation(verdict, completion.truncated, policy)
        for verdict, completion in zip(verdicts, completions, strict=True)
    ]
