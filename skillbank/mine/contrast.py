"""Mining without a language model: success against failure on the same problem.

Each wrong attempt at a problem that also has a right one gives at most one pair: the skill is the step which the right
attempts have in common where the wrong one departs (`departure.py` says how that is found), the mistake is the wrong
step. Evidence of the skill is every right attempt that has the step, evidence of the mistake the wrong attempt, both
with the words and their place in the completion. Everything dropped is counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from skillbank.mine import wording
from skillbank.mine.departure import Attempt, Departure, find_departure
from skillbank.mine.steps import Step, terms
from skillbank.records import Evidence, MinedPair, Mistake, Provenance, Record, Rollout, Skill

MIN_WORDS = {"rule": 2, "calculation": 3, "omission": 3}
"""A right step with fewer content words says too little to be a lesson; a wrong step needs two."""
MAX_CHARACTERS = 240
"""A longer step is a paragraph, not a step."""
PROVENANCE = Provenance(miner="contrast")
CONTRADICTED = "contradicted by other problems"
REPEATED = "repeated within the problem (evidence added)"


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


@dataclass(frozen=True, slots=True)
class Contrast:
    """A pair that one problem gives, until the other problems are heard."""

    pair: MinedPair
    attempts: tuple[str, ...]
    """Ids of the wrong attempts that give it."""
    rules: tuple[int, int] | None = None
    """Of a contrast of rules: `rule_number` of the right and of the wrong one."""

    def join(self, found: dict[tuple[Skill, Mistake], Contrast]) -> None:
        """Adds it to those of the same problem; the same pair from another wrong attempt gains that one's evidence."""
        key = (self.pair.skill, self.pair.mistake)
        found[key] = _joined(found[key], self) if key in found else self


@dataclass(frozen=True, slots=True)
class MinedProblem:
    """All that one problem's rollouts say. Depends on nothing else, so problems may be mined anywhere, in any order."""

    contrasts: tuple[Contrast, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    """(rollout id, reason) of the attempts that give no contrast."""
    statements: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Rule number -> (right attempts that state it, attempts that state it)."""
    contrasted: int = 0
    """Wrong attempts, when there is a right one too; 0 when one outcome is missing."""


def rule_number(key: Sequence[str]) -> int:
    """A rule by its key, as a number that fits SQLite's and is the same on every machine."""
    return int.from_bytes(hashlib.blake2b(" ".join(key).encode(), digest_size=8).digest(), "big", signed=True)


def contradicted(rules: tuple[int, int], statements: Mapping[int, tuple[int, int]]) -> bool:
    """Whether the right rule of a contrast stands in right attempts less often than the wrong one, over all problems.

    Majority within a problem cannot see that its one right attempt was right by accident; other problems can.
    """
    (right, right_of), (wrong, wrong_of) = statements[rules[0]], statements[rules[1]]
    return right / right_of < wrong / wrong_of


def mine_contrast(rollouts: Iterable[Rollout]) -> tuple[list[MinedPair], ContrastReport]:
    """Skill-mistake pairs from the problems that have both outcomes; the order of the rollouts changes nothing.

    Holds the rollouts in memory, as any problem's other outcome may come last; `build.py` holds them on disk.
    """
    by_problem: dict[str, list[Rollout]] = {}
    seen = 0
    for rollout in rollouts:
        seen += 1
        by_problem.setdefault(rollout.problem_id, []).append(rollout)
    problems = [mine_problem(attempts) for _, attempts in sorted(by_problem.items())]
    statements: dict[int, tuple[int, int]] = {}
    for problem in problems:
        for rule, (right, stated) in problem.statements.items():
            before = statements.get(rule, (0, 0))
            statements[rule] = before[0] + right, before[1] + stated
    dropped = Counter(reason for problem in problems for _, reason in problem.rejected)
    pairs: list[MinedPair] = []
    for contrast in (contrast for problem in problems for contrast in problem.contrasts):
        if contrast.rules is not None and contradicted(contrast.rules, statements):
            dropped[CONTRADICTED] += len(contrast.attempts)
        else:
            dropped[REPEATED] += len(contrast.attempts) - 1
            pairs.append(contrast.pair)
    return pairs, ContrastReport(
        rollouts=seen,
        problems=len(by_problem),
        problems_with_both=sum(problem.contrasted > 0 for problem in problems),
        contrasted=sum(problem.contrasted for problem in problems),
        pairs=len(pairs),
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
    )


def mine_problem(rollouts: Iterable[Rollout]) -> MinedProblem:
    """What the rollouts of one problem say, in whatever order they come."""
    ordered = sorted(rollouts, key=lambda rollout: (rollout.rollout_id, rollout.completion))
    unclear = [rollout for rollout in ordered if rollout.outcome == "unverifiable"]
    rejected = [(rollout.rollout_id, "rollout unverifiable") for rollout in unclear]
    attempts = [Attempt.read(rollout) for rollout in ordered if rollout.outcome != "unverifiable"]
    rights = [attempt for attempt in attempts if attempt.rollout.outcome == "correct"]
    wrongs = [attempt for attempt in attempts if attempt.rollout.outcome == "wrong"]
    statements = _statements(attempts)
    if not rights or not wrongs:
        reason = "rollout of a problem with one outcome only"
        rejected += [(attempt.rollout.rollout_id, reason) for attempt in attempts]
        return MinedProblem(rejected=tuple(rejected), statements=statements)
    found: dict[tuple[Skill, Mistake], Contrast] = {}
    for wrong in wrongs:
        contrast = contrast_with(wrong, rights)
        if isinstance(contrast, str):
            rejected.append((wrong.rollout.rollout_id, contrast))
        else:
            contrast.join(found)
    return MinedProblem(tuple(found.values()), tuple(rejected), statements, contrasted=len(wrongs))


def contrast_with(wrong: Attempt, rights: Sequence[Attempt]) -> Contrast | str:
    """The pair that a wrong attempt gives against right ones, of which there is one at least; or why it gives none."""
    departure = find_departure(wrong, rights)
    if isinstance(departure, str):
        return departure
    return _objection(departure) or _contrast(departure, wrong.rollout, rights)


def _statements(attempts: Sequence[Attempt]) -> dict[int, tuple[int, int]]:
    """How many right attempts, and how many at all, state each rule."""
    stated = Counter(key for attempt in attempts for key in attempt.rules)
    right = Counter(key for attempt in attempts if attempt.rollout.outcome == "correct" for key in attempt.rules)
    return {rule_number(key): (right[key], count) for key, count in stated.items()}


def _joined(known: Contrast, again: Contrast) -> Contrast:
    """The same pair from another wrong attempt."""
    evidence = known.pair.mistake_evidence + again.pair.mistake_evidence
    pair = known.pair.model_copy(update={"mistake_evidence": evidence})
    return Contrast(pair, known.attempts + again.attempts, known.rules)


def _objection(departure: Departure) -> str | None:
    """Why a departure is no lesson, whatever other problems say, or None."""
    if len(departure.right.words) < MIN_WORDS[departure.kind] or len(departure.wrong.words) < 2:
        return "trivial step"
    if max(len(departure.right.text), len(departure.wrong.text)) > MAX_CHARACTERS:
        return "step too long"
    return None


# --------------------------------------------------------------------------------------------------------------- pairs


def _contrast(departure: Departure, wrong: Rollout, rights: Sequence[Attempt]) -> Contrast:
    skill, mistake = _words(departure, wrong)
    pair = MinedPair(
        skill=skill,
        mistake=mistake,
        skill_evidence=tuple(_skill_evidence(departure, rights)),
        mistake_evidence=(_evidence(wrong, departure.wrong),),
        provenance=PROVENANCE,
    )
    of_rules = departure.kind == "rule"
    rules = (rule_number(departure.right.key), rule_number(departure.wrong.key)) if of_rules else None
    return Contrast(pair, (wrong.rollout_id,), rules)


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
