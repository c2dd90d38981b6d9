"""Contrast over problems that are near one another: for rollouts of which each problem has few, as in training.

One rollout a problem rarely shows both outcomes. What a problem's attempts lack is looked for among the attempts at the
problems nearest to it. Only rules are compared that way, steps of words alone: figures belong to one problem. All
evidence keeps the problem in which it was found. Left out: which problems are near (the caller's embedder says so).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace

from skillbank.mine.contrast import Contrast, MinedProblem, contrast_with, mine_problem
from skillbank.mine.departure import Attempt
from skillbank.records import Mistake, Rollout, Skill

FIGURES = "its counterparts are at near problems, and figures are not compared across problems"


def mine_near(
    groups: Mapping[str, Sequence[Rollout]], near: Mapping[str, Sequence[str]], fresh: Set[str]
) -> Iterator[MinedProblem]:
    """What the attempts at each problem say, those at near problems heard; problem by problem, by id.

    `groups`: problem id -> its rollouts. `near`: id of a problem without a right attempt -> the problems whose right
    attempts stand in, the nearest first. Only what one of the rollouts `fresh` has a part in is found, so that old
    rollouts are not mined again.
    """
    for problem_id, rollouts in sorted(groups.items()):
        outcomes = {rollout.outcome for rollout in rollouts}
        found = mine_problem(rollouts)  # its statements are heard in any case
        if {"correct", "wrong"} <= outcomes:
            yield replace(found, contrasts=tuple(c for c in found.contrasts if not fresh.isdisjoint(_places(c))))
            continue
        others = [rollout for other in near.get(problem_id, ()) for rollout in groups[other]]
        rights = [Attempt.read(rollout) for rollout in others if rollout.outcome == "correct"]
        wrongs = [rollout for rollout in rollouts if rollout.outcome == "wrong"]
        if any(right.rollout.rollout_id in fresh for right in rights):
            heard = wrongs
        else:
            heard = [rollout for rollout in wrongs if rollout.rollout_id in fresh]
        yield _with(found, rights, heard) if rights and heard else found


def _places(contrast: Contrast) -> set[str]:
    pair = contrast.pair
    return {place.rollout_id for place in (*pair.skill_evidence, *pair.mistake_evidence)}


def _with(found: MinedProblem, rights: Sequence[Attempt], wrongs: Sequence[Rollout]) -> MinedProblem:
    """The same problem with the contrasts of its wrong attempts against right ones at other problems."""
    reasons = dict(found.rejected)
    contrasts: dict[tuple[Skill, Mistake], Contrast] = {}
    for wrong in sorted(wrongs, key=lambda rollout: (rollout.rollout_id, rollout.completion)):
        contrast = contrast_with(Attempt.read(wrong), rights)
        if isinstance(contrast, str):
            reasons[wrong.rollout_id] = contrast
        elif contrast.rules is None:
            reasons[wrong.rollout_id] = FIGURES
        else:
            reasons.pop(wrong.rollout_id, None)
            contrast.join(contrasts)
    return replace(found, contrasts=tuple(contrasts.values()), rejected=tuple(reasons.items()), contrasted=len(wrongs))
