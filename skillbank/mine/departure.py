"""Where a wrong attempt first departs from the right ones, and the right step that belongs there.

* A *rule* (words alone) departs when fewer than half of the right attempts state it; its counterpart is the rule on the
  same subject that most right attempts state and the wrong one does not. Majority, because a right answer can be an
  accident.
* A *calculation* departs when no right attempt reaches its value, unless a later step that a right attempt shares
  builds on it (then it was another way to the same place); its counterpart is a calculation of the best aligned right
  attempt that the wrong one lacks and that builds on nothing else the wrong one lacks.
* No departing step, but a calculation missing at the end: the wrong attempt stopped short.

A calculation with the expression of a right one and another value is a slip; what follows from it is not compared,
rules are. Steps that are neither rule nor calculation (figures in words, answers) are not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from skillbank.mine.steps import Calculation, Step, numbers_in, split_steps, terms
from skillbank.records import Rollout

MIN_OVERLAP = 1 / 3
"""Share of the shorter step's content words that two rules on one subject must have in common."""

NoDeparture = Literal[
    "no departure",
    "slip in calculation",
    "steps differ in figures only",
    "nothing in common among right attempts",
    "right attempts disagree",
    "unrelated steps",
]


@dataclass(frozen=True)
class Attempt:
    """A rollout and its steps."""

    rollout: Rollout
    steps: list[Step]

    @classmethod
    def read(cls, rollout: Rollout) -> Attempt:
        return cls(rollout, split_steps(rollout.completion))

    @cached_property
    def calculations(self) -> list[tuple[Step, Calculation]]:
        return [(step, calculation) for step in self.steps for calculation in step.calculations]

    @cached_property
    def values(self) -> frozenset[str]:
        return frozenset(calculation.value for _, calculation in self.calculations)

    @cached_property
    def words(self) -> frozenset[str]:
        """Stems of the content words of all steps."""
        return frozenset[str]().union(*(step.words for step in self.steps))

    @cached_property
    def rules(self) -> dict[tuple[str, ...], Step]:
        """First statement of each rule, by key."""
        rules: dict[tuple[str, ...], Step] = {}
        for step in self.steps:
            if step.kind == "rule":
                rules.setdefault(step.key, step)
        return rules


@dataclass(frozen=True)
class Departure:
    """The wrong step, the right step that belongs there, and their calculations unless they are rules."""

    kind: Literal["rule", "calculation", "omission"]
    wrong: Step
    right: Step
    wrong_calculation: Calculation | None = None
    right_calculation: Calculation | None = None


def find_departure(wrong: Attempt, rights: Sequence[Attempt]) -> Departure | NoDeparture:
    """The first departure of `wrong` for which the right attempts have a counterpart, or why there is none.

    `rights` must not be empty, and in an order that does not depend on how the rollouts came in.
    """
    given = frozenset(numbers_in(wrong.rollout.problem))
    reasons: list[NoDeparture] = []
    departing = _departing_calculation(wrong, rights, given)
    for step in wrong.steps:
        found: Departure | NoDeparture | None = None
        if step.kind == "rule":
            found = _rule_departure(step, wrong, rights)
        elif departing is not None and step is departing[0]:
            found = _calculation_departure(step, departing[1], wrong, rights, given)
        if isinstance(found, Departure):
            return found
        if found is not None:
            reasons.append(found)
    if departing is None and (omission := _omission(wrong, rights, given)) is not None:
        return omission
    if reasons:
        return reasons[0]
    return "steps differ in figures only" if _figures_differ(wrong, rights) else "no departure"


# --------------------------------------------------------------------------------------------------------------- rules


def _rule_departure(step: Step, wrong: Attempt, rights: Sequence[Attempt]) -> Departure | NoDeparture | None:
    """None when the step is no departure, or none that the right attempts answer with a rule on the same subject."""
    stated = sum(step.key in right.rules for right in rights)
    if 2 * stated >= len(rights):
        return None
    support: Counter[tuple[str, ...]] = Counter()
    wordings: dict[tuple[str, ...], Counter[str]] = {}
    steps: dict[tuple[tuple[str, ...], str], Step] = {}
    for right in rights:
        for key, candidate in right.rules.items():
            if key not in wrong.rules and _same_subject(step, candidate, wrong.rollout.problem):
                support[key] += 1
                wordings.setdefault(key, Counter())[candidate.text] += 1
                steps.setdefault((key, candidate.text), candidate)
    if not support:
        return None
    (best, count), *others = sorted(support.items(), key=lambda item: (-item[1], -_overlap(step, item[0]), item[0]))
    if 2 * count < len(rights) or count <= stated:
        return "nothing in common among right attempts"
    if others and others[0][1] == count and 2 * count <= len(rights):
        return "right attempts disagree"
    text = min(wordings[best].items(), key=lambda item: (-item[1], item[0]))[0]
    return Departure("rule", wrong=step, right=steps[best, text])


def _same_subject(one: Step, other: Step, problem: str) -> bool:
    subject = set(terms(one.text, problem))
    shared = subject & set(terms(other.text, problem)) if subject else one.words & other.words
    return bool(shared) and _overlap(one, other.key) >= MIN_OVERLAP


def _overlap(step: Step, key: tuple[str, ...]) -> float:
    words = set(key)
    smaller = min(len(step.words), len(words))
    return len(step.words & words) / smaller if smaller else 0.0


# -------------------------------------------------------------------------------------------------------- calculations


def _departing_calculation(
    wrong: Attempt, rights: Sequence[Attempt], given: frozenset[str]
) -> tuple[Step, Calculation] | None:
    """The first calculation of the wrong attempt that leads nowhere a right attempt goes."""
    reached = frozenset[str]().union(*(right.values for right in rights))
    fine = _with_sources(wrong.calculations, reached, given)
    return next((pair for pair, ok in zip(wrong.calculations, fine, strict=True) if not ok), None)


def _with_sources(
    calculations: Sequence[tuple[Step, Calculation]], shared: frozenset[str], given: frozenset[str]
) -> list[bool]:
    """Which calculations have a shared value, or feed one that does.

    Walks backwards: an operand that the problem does not give comes from the last calculation before with its value.
    """
    fine = [calculation.value in shared for _, calculation in calculations]
    for later in range(len(calculations) - 1, -1, -1):
        if not fine[later]:
            continue
        for operand in set(calculations[later][1].operands) - given:
            for earlier in range(later - 1, -1, -1):
                if calculations[earlier][1].value == operand:
                    fine[earlier] = True
                    break
    return fine


def _calculation_departure(
    step: Step, calculation: Calculation, wrong: Attempt, rights: Sequence[Attempt], given: frozenset[str]
) -> Departure | NoDeparture:
    if any(calculation.expression == other.expression for right in rights for _, other in right.calculations):
        return "slip in calculation"
    before = _values_before(wrong, step)
    common = False
    for right in sorted(rights, key=lambda right: -_alignment(wrong, right, before)):
        candidates = list(_missing(wrong, right, given))
        shared = [pair for pair in candidates if 2 * _holders(pair[1], rights) >= len(rights)]
        common = common or bool(shared)
        related = [pair for pair in shared if _similarity(step, calculation, *pair) > 0]
        if related:
            # The likeliest counterpart; among equals the earliest, because max() keeps the first.
            best, its = max(related, key=lambda pair: _similarity(step, calculation, *pair))
            return Departure("calculation", step, best, calculation, its)
    return "unrelated steps" if common else "nothing in common among right attempts"


def _omission(wrong: Attempt, rights: Sequence[Attempt], given: frozenset[str]) -> Departure | None:
    if not wrong.calculations:
        return None
    last, its = wrong.calculations[-1]
    for right in sorted(rights, key=lambda right: -_alignment(wrong, right, wrong.values)):
        for candidate, calculation in _missing(wrong, right, given):
            # Only what goes on from where the wrong attempt stopped.
            if its.value in calculation.operands and 2 * _holders(calculation, rights) >= len(rights):
                return Departure("omission", last, candidate, its, calculation)
    return None


def _missing(wrong: Attempt, right: Attempt, given: frozenset[str]) -> Iterator[tuple[Step, Calculation]]:
    """True calculations of a right attempt that the wrong one lacks and that build on no other such calculation."""
    had = _with_sources(right.calculations, wrong.values, given)
    lacking: set[str] = set()
    for pair, present in zip(right.calculations, had, strict=True):
        if present:
            continue
        if pair[1].sound and not (set(pair[1].operands) - given) & lacking:
            yield pair
        lacking.add(pair[1].value)


def _values_before(wrong: Attempt, departure: Step) -> frozenset[str]:
    return frozenset(calculation.value for step, calculation in wrong.calculations if step.start < departure.start)


def _alignment(wrong: Attempt, right: Attempt, values: frozenset[str]) -> float:
    """How well a right attempt goes along with the wrong one: shared values, then shared words."""
    together = len(wrong.words & right.words) / max(1, len(wrong.words | right.words))
    return len(values & right.values) + together


def _holders(calculation: Calculation, rights: Sequence[Attempt]) -> int:
    return sum(calculation.value in right.values for right in rights)


def _similarity(one: Step, its: Calculation, other: Step, others: Calculation) -> float:
    """0 when two calculations share neither a word nor an operand; the likelier they serve one purpose, the higher."""
    words = len(one.words & other.words) / max(1, len(one.words | other.words))
    operands = len(set(its.operands) & set(others.operands)) / max(len(its.operands), len(others.operands))
    return words + operands


def _figures_differ(wrong: Attempt, rights: Sequence[Attempt]) -> bool:
    ours = {step.key for step in wrong.steps if step.kind == "figures"}
    theirs = {step.key for right in rights for step in right.steps if step.kind == "figures"}
    return bool(ours - theirs)
