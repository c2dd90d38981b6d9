r"""`math`: is the last `\boxed{}` of the final answer equal to the reference, as mathematics?

The box is found here; math-verify compares, in a worker process under a time limit. It is given the whole content of
the box inside a box, never bare LaTeX: bare, its number pattern reads `10\sqrt{2}` as 10 and `2^{10}` as 2
(docs/method.md, pitfall 5). Most answers of competition problems are plain integers; those are compared at once, with
the same verdict.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sgsd.errors import VerifierError
from sgsd.records import Problem, Verdict
from sgsd.verify.answers import NO_BOX, OPEN_THINKING, final_text, fold, last_boxed
from sgsd.verify.process import WorkerProcess

_INTEGER = re.compile(r"-?[0-9]{1,15}")  # 15 digits: beyond, the comparison is left to sympy
_THIN = r"(?:\\[,;:! ]|\{,\}|~|[ \u00a0\u2009\u202f])"
_THOUSANDS = re.compile(rf"(?<![0-9.])[0-9]{{1,3}}(?:{_THIN}[0-9]{{3}})+(?![0-9])")
_MIXED = re.compile(r"(?<![0-9.])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)")
_APART = re.compile(rf"[0-9](?:{_THIN}|\s)+[0-9]")


class MathVerifier:
    """`verify_many` never raises for what a completion says; time-outs and crashes are `unverifiable`."""

    def __init__(self, timeout_s: float) -> None:
        self._worker = WorkerProcess("math", timeout_s)

    def verify_many(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        return [self._verify(text, problem) for text, problem in zip(completions, problems, strict=True)]

    def _verify(self, completion: str, problem: Problem) -> Verdict:
        text = final_text(completion)
        if text is None:
            return Verdict("wrong", None, OPEN_THINKING)
        answer = last_boxed(text)
        if answer is None:
            return Verdict("wrong", None, NO_BOX)
        return compare_at_once(answer, problem.answer) or self._worker.ask(
            {"answer": answer, "reference": problem.answer}, answer=answer
        )

    def close(self) -> None:
        """Ends the worker process. A later `verify_many` starts another."""
        self._worker.close()


def compare_at_once(answer: str, reference: str) -> Verdict | None:
    """The verdict on plain integers and equal texts, which need no mathematics; None for everything else."""
    if not answer:
        return Verdict("wrong", "", "the box is empty")
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(reference):
        return Verdict("correct" if int(answer) == int(reference) else "wrong", answer)
    return Verdict("correct", answer) if fold(answer) == fold(reference) else None


def compare(answer: str, reference: str) -> Verdict:
    """The verdict of math-verify. Slow, and may not return: called in the worker process only.

    An answer that cannot be read is wrong (the reference can be, so they differ); a reference that cannot be read makes
    the item unverifiable, and so does an error in the comparison.
    """
    from math_verify import verify

    gold = _parse(reference)
    if not gold:
        return Verdict("unverifiable", answer, f"the reference {reference[:80]!r} is not readable as mathematics")
    target = _parse(answer)
    if not target:
        return Verdict("wrong", answer, "the answer is not readable as mathematics")
    try:
        equal = verify(list(gold), list(target), timeout_seconds=None, raise_on_error=True)
    except Exception as error:  # noqa: BLE001 - sympy raises anything at all; the reason is kept, the outcome is 0
        return Verdict("unverifiable", answer, f"the comparison failed: {type(error).__name__}: {str(error)[:120]}")
    return Verdict("correct" if equal else "wrong", answer)


@lru_cache(maxsize=4096)  # one reference meets many completions
def _parse(text: str) -> tuple[Any, ...]:
    from math_verify import LatexExtractionConfig, parse

    # The library warns once a process that it runs without a time limit of its own. The worker has one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    math = as_one_expression(text)
    if math is None:
        return ()
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    return tuple(parse(f"\\boxed{{{math}}}", config, fallback_mode="no_fallback", parsing_timeout=None))


def as_one_expression(text: str) -> str | None:
    """Spell out what math-verify misreads: `1\\,000` (it reads 0), `3 1/2` (2), a full stop after the answer (nothing).

    None when numbers stand side by side with no meaning that we know; math-verify would add them (`12 34` as 46).
    """
    text = text.strip().removesuffix(".").strip()
    text = _THOUSANDS.sub(lambda match: re.sub(_THIN, "", match[0]), text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    return None if _APART.search(text) else text


def warm_up() -> None:
    """Pay the first comparison's imports (0.2 s) before the clock of a real one runs, and see that the library works.

    Raises VerifierError when it does not: every answer would be wrong, silently.
    """
    said = compare("\\frac{\\sqrt{4}}{4}", "0.5")
    if said.outcome != "correct":
        raise VerifierError(f"math-verify finds sqrt(4)/4 and 0.5 {said.outcome}: install math-verify 0.9")
