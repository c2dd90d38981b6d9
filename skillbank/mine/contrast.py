"""Mining without a language model: success against failure on the same problem.

Each wrong attempt at a problem that also has a right one gives at most one pair: the skill is the step which the right
attempts have in common where the wrong one departs (`departure.py` says how that is found), the mistake is the wrong
step. Evidence of the skill is every right attempt that has the step, evidence of the mistake the wrong attempt, both
with the words and their place in the completion. Everything dropped is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from skillbank.mine import wording
from skillbank.mine.departure import Attempt, Departure, find_departure
from skillbank.mine.steps import Step, split_steps, terms
from skillbank.records import Evidence, MinedPair, Mistake, Record, Rollout, Skill

MIN_WORDS = {"rule": 2, "calculation": 3, "omission": 3}
"""A right step with fewer content words says too little to be a lesson; a wrong step needs two."""
MAX_CHARACTERS = 240
"""A longer step is a paragraph, not a step."""


class ContrastReport(Record):
    """What the miner saw, made and dropped: contrasted = pairs + the wrong attempts among `dropped`."""

    rollouts: int
    problems: int
    problems_with_both: int
    contrasted: int
    """Wrong attempts at problems that also have a right one."""
    pairs: int
    dropped: dict[str, int]
    """Reason -> number, of rollouts for the reasons that start with `rollout`, of wrong attempts for the others."""


def mine_contrast(rollouts: Iterable[Rollout]) -> tuple[list[MinedPair], ContrastReport]:
    """Skill-mistake pairs from the problems that have both outcomes.

    Holds the rollouts in memory, as any problem's other outcome may come last. Their order changes nothing.
    """
    dropped: Counter[str] = Counter()
    statistics = _RuleStatistics()
    by_problem: dict[str, list[Rollout]] = {}
    seen = 0
    for rollout in rollouts:
        seen += 1
        statistics.add(rollout)
        by_problem.setdefault(rollout.problem_id, []).append(rollout)
    pairs: list[MinedPair] = []
    both = contrasted = 0
    for _, attempts in sorted(by_problem.items()):
        attempts.sort(key=lambda rollout: (rollout.rollout_id, rollout.completion))
        right = [rollout for rollout in attempts if rollout.outcome == "correct"]
        wrong = [rollout for rollout in attempts if rollout.outcome == "wrong"]
        dropped["rollout unverifiable"] += len(attempts) - len(right) - len(wrong)
        if not right or not wrong:
            dropped["rollout of a problem with one outcome only"] += len(right) + len(wrong)
            continue
        both += 1
        contrasted += len(wrong)
        pairs += _mine_problem(right, wrong, statistics, dropped)
    return pairs, ContrastReport(
        rollouts=seen,
        problems=len(by_problem),
        problems_with_both=both,
        contrasted=contrasted,
        pairs=len(pairs),
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
    )


class _RuleStatistics:
    """How often a rule stands in right attempts, over all problems.

    Majority within a problem cannot see that its one right attempt was right by accident; other problems can.
    """

    def __init__(self) -> None:
        self._right: Counter[tuple[str, ...]] = Counter()
        self._all: Counter[tuple[str, ...]] = Counter()

    def add(self, rollout: Rollout) -> None:
        if rollout.outcome == "unverifiable":
            return
        for key in {step.key for step in split_steps(rollout.completion) if step.kind == "rule"}:
            self._all[key] += 1
            self._right[key] += rollout.outcome == "correct"

    def contradict(self, departure: Departure) -> bool:
        return self._right_share(departure.right) < self._right_share(departure.wrong)

    def _right_share(self, rule: Step) -> float:
        return self._right[rule.key] / self._all[rule.key]


def _mine_problem(
    right: Sequence[Rollout], wrong: Sequence[Rollout], statistics: _RuleStatistics, dropped: Counter[str]
) -> list[MinedPair]:
    rights = [Attempt.read(rollout) for rollout in right]
    pairs: dict[tuple[Skill, Mistake], MinedPair] = {}
    for rollout in wrong:
        attempt = Attempt.read(rollout)
        departure = find_departure(attempt, rights)
        reason = departure if isinstance(departure, str) else _objection(departure, statistics)
        if isinstance(departure, str) or reason is not None:
            dropped[str(reason)] += 1
            continue
        pair = _pair(departure, rollout, rights)
        known = pairs.get((pair.skill, pair.mistake))
        if known is None:
            pairs[pair.skill, pair.mistake] = pair
            continue
        dropped["repeated within the problem (evidence added)"] += 1
        evidence = known.mistake_evidence + pair.mistake_evidence
        pairs[pair.skill, pair.mistake] = known.model_copy(update={"mistake_evidence": evidence})
    return list(pairs.values())


def _objection(departure: Departure, statistics: _RuleStatistics) -> str | None:
    """Why a departure is no lesson, or None."""
    if len(departure.right.words) < MIN_WORDS[departure.kind] or len(departure.wrong.words) < 2:
        return "trivial step"
    if max(len(departure.right.text), len(departure.wrong.text)) > MAX_CHARACTERS:
        return "step too long"
    if departure.kind == "rule" and statistics.contradict(departure):
        return "contradicted by other problems"
    return None


# --------------------------------------------------------------------------------------------------------------- pairs


def _pair(departure: Departure, wrong: Rollout, rights: Sequence[Attempt]) -> MinedPair:
    skill, mistake = _words(departure, wrong)
    return MinedPair(
        skill=skill,
        mistake=mistake,
        skill_evidence=tuple(_skill_evidence(departure, rights)),
        mistake_evidence=(_evidence(wrong, departure.wrong),),
    )


def _words(departure: Departure, rollout: Rollout) -> tuple[Skill, Mistake]:
    right, wrong = departure.right, departure.wrong
    if departure.right_calculation is None or departure.wrong_calculation is None:
        topic = terms(right.text, rollout.problem)
        return wording.skill_from_step(right.text, topic), wording.mistake_from_step(wrong.text, right.text)
    lesson = wording.Lesson(
        problem=rollout.problem,
        reference=rollout.reference,
        right=right.text,
        right_calculation=departure.right_calculation,
        wrong=wrong.text,
        wrong_calculation=departure.wrong_calculation,
        stopped_short=departure.kind == "omission",
    )
    return wording.skill_from_calculation(lesson), wording.mistake_from_calculation(lesson)


def _skill_evidence(departure: Departure, rights: Sequence[Attempt]) -> list[Evidence]:
    """The step in every right attempt that has it: the same rule, or a calculation with the same value."""
    evidence = []
    for attempt in rights:
        for step in attempt.steps:
            if departure.right_calculation is None:
                same = step.kind == "rule" and step.key == departure.right.key
            else:
                same = any(item.value == departure.right_calculation.value for item in step.calculations)
            if same:
                evidence.append(_evidence(attempt.rollout, step))
                break
    return evidence


def _evidence(rollout: Rollout, step: Step) -> Evidence:
    return Evidence(
        rollout_id=rollout.rollout_id,
        problem_id=rollout.problem_id,
        outcome=rollout.outcome,
        quote=step.quote,
        span=(step.start, step.end),
        source=rollout.source,
    )
