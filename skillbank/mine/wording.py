"""How a contrast between a right step and a wrong one is put into words.

One place, because whoever trains or tests on mined text must write exactly what the miner writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from skillbank.mine.purpose import purpose
from skillbank.mine.steps import (
    NUMBER,
    Calculation,
    normal_number,
    numbers_in,
    terms,
)
from skillbank.records import Mistake, Skill


def skill_from_step(step: str, terms: Sequence[str]) -> Skill:
    """The step that right attempts share; `terms` are the words it has in common with the problem."""
    topic = ", ".join(terms)
    return Skill(
        title=f"Step on {topic}" if topic else "Step that right attempts share",
        principle=step,
        when_to_apply=f"The problem mentions {topic}." if topic else "",
    )


def mistake_from_step(wrong: str, right: str) -> Mistake:
    """The step at which a wrong attempt departs, and the one that belongs there."""
    return Mistake(
        description=wrong,
        why_it_happens="Wrong attempts depart here from what the right ones share.",
        how_to_avoid=f"Instead: {right}",
    )


# --------------------------------------------------------------------------------------------- steps with calculations


@dataclass(frozen=True)
class Lesson:
    """A right calculation and the wrong one it stands against, with what is needed to put them into words."""

    problem: str
    reference: str | None
    right: str
    right_calculation: Calculation
    wrong: str
    wrong_calculation: Calculation
    stopped_short: bool = False
    """The wrong attempt did nothing wrong but end here."""

    @cached_property
    def answer(self) -> str | None:
        """The reference answer, if it is a number."""
        numbers = numbers_in(self.reference or "")
        return numbers[-1] if numbers else None

    @cached_property
    def answer_is_given(self) -> bool:
        """Whether the problem itself gives the number that is the answer."""
        word = _NUMBER_WORDS.get(self.answer or "", "-")
        return self.answer in numbers_in(self.problem) or word in self.problem.lower()

    @cached_property
    def right_shown(self) -> str:
        """The right step without the answer."""
        return hide_answer(self.right, self)

    @property
    def skipped(self) -> bool:
        """The wrong calculation does not stand in the right one's place, so that comparing the two would mislead: they
        have no operand in common, or another operation on other quantities too."""
        wrong, right = set(self.wrong_calculation.operands), set(self.right_calculation.operands)
        if operation(self.wrong_calculation) == operation(self.right_calculation):
            return not wrong & right
        return not (wrong <= right or right <= wrong)


def skill_from_calculation(lesson: Lesson) -> Skill:
    """The operation, what it is for, and the step as its example; the reference answer reads "the result"."""
    advice = operation(lesson.right_calculation)
    example = lesson.right_shown
    topic = ", ".join(terms(lesson.right, lesson.problem))
    return Skill(
        title=f"{advice} to find {purpose(example)}",
        principle=example if _IMPERATIVE.search(example) else f"{advice}, as in: {example}",
        when_to_apply=f"The problem mentions {topic}." if topic else "",
    )


def mistake_from_calculation(lesson: Lesson) -> Mistake:
    """The wrong step, how its calculation differs from the right one, and the right step."""
    wrong, right = hide_answer(lesson.wrong, lesson), lesson.right_shown
    if lesson.stopped_short:
        advice = f"Go on and {operation(lesson.right_calculation).lower()}"
    elif lesson.skipped:
        advice = f"Do not leave out this step, {operation(lesson.right_calculation).lower()}"
    elif operation(lesson.wrong_calculation) != operation(lesson.right_calculation):
        advice = f"Instead, {operation(lesson.right_calculation).lower()}"
    else:
        advice = "Instead"
    return Mistake(
        description=f"Stops after: {wrong}" if lesson.stopped_short else wrong,
        why_it_happens=_difference(lesson),
        how_to_avoid=f"{advice}: {right}",
    )


def hide_answer(text: str, lesson: Lesson) -> str:
    """The reference answer reads "the result", except where it is a number that the problem itself gives."""
    answer, given = lesson.answer, lesson.answer_is_given

    def replace(match: re.Match[str]) -> str:
        if normal_number(match["number"]) != answer or (given and not match["equals"]):
            return match.group()
        return "= the result" if match["equals"] else "the result"

    return _VALUE.sub(replace, text) if answer is not None else text


_NUMBER_WORDS = {
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
    "10": "ten",
    "12": "dozen",
}
_VALUE = re.compile(rf"(?P<equals>=\s*[$€£]?\s*-?)?[$€£]?(?<![\d.,])(?P<number>{NUMBER})(?!\d|[.,]\d)")


# ---------------------------------------------------------------------------------------------------------- operations

_VERBS = {
    "+": ("add", "adds"),
    "-": ("subtract", "subtracts"),
    "*": ("multiply", "multiplies"),
    "/": ("divide", "divides"),
}
_PERCENT = frozenset({"100", "0.01"})


def operation(calculation: Calculation) -> str:
    """The operations of a calculation as advice: "Multiply", "Multiply and subtract", "Take the percentage"."""
    return _verbs(calculation, third_person=False).capitalize()


@lru_cache(maxsize=4096)
def _verbs(calculation: Calculation, third_person: bool) -> str:
    operators, operands = set(calculation.operators), calculation.operands
    take = "takes" if third_person else "take"
    if "*" in operators and operators <= {"*", "/"} and len(operands) > 2:
        if _PERCENT & set(operands[1:]):
            return f"{take} the percentage"
        if calculation.fraction and operators == {"*"}:
            return f"{take} the fraction"
    verbs = [forms[third_person] for operator, forms in _VERBS.items() if operator in operators]
    return " and ".join([", ".join(verbs[:-1]), verbs[-1]] if len(verbs) > 1 else verbs)


def _difference(lesson: Lesson) -> str:
    wrong, right = lesson.wrong_calculation, lesson.right_calculation
    theirs = _verbs(right, third_person=False)
    if lesson.stopped_short:
        return f"The attempt ends too early; right attempts go on and {theirs}."
    if lesson.skipped:
        return f"The attempt goes on without it; right attempts {theirs} here."
    if operation(wrong) != operation(right):
        return f"The attempt {_verbs(wrong, third_person=True)} where right attempts {theirs}."
    extra = [number for number in wrong.operands if number not in right.operands]
    lacking = [number for number in right.operands if number not in wrong.operands]
    if len(extra) == len(lacking) == 1 and lesson.answer not in (*extra, *lacking):
        return f"The operation is right, a quantity is not: {extra[0]} in place of {lacking[0]}."
    if sorted(wrong.operands) == sorted(right.operands):
        return "The operation is right, the order of the quantities is not."
    return "The operation is right, the quantities are not."


_IMPERATIVE = re.compile(
    r"^(?:(?:first|then|next|now|finally|and|also|so|lastly)\b,?\s*)*"
    r"(?:find|add|subtract|multiply|divide|calculate|determine|compute|figure out|convert|combine|take|use|simplify)\b",
    re.IGNORECASE,
)
