"""Which teachers are asked. Most of a pool has nothing to say, and asking costs a pass.

Two screens, off unless asked for. By the ledger: a teacher whose pair is shown to be useless, silent or harmful, is
left out; what the ledger knows little of is asked, and so is every pair on a fixed share of the problems, so that it
can recover. By a prefix: all teachers read the first tokens of a completion, and those that hardly disagree with the
student there are not asked about the others. A teacher that is left out has no opinion: it adds nothing to the loss,
the others keep their weights, and it is counted.

Nothing here draws: what is left out follows from ledger, rollouts and weights, so a resumed run repeats it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence, Set
from dataclasses import replace

import torch
from torch import Tensor, nn

from sgsd.objectives.gated import GatedSettings
from sgsd.score import ScoreRow, score
from sgsd.shards import sharded
from sgsd.teachers import Example
from skillbank.store import Bank
from skillbank.usage import estimates

EXPLORED = 0.1
"""Share of the problems on which a pair that was shown to be useless is asked all the same."""
HALF_LIFE_STEPS = 100.0
"""A use of a pair counts half as much as one so many optimiser steps later, as the student changes."""

Pair = tuple[int, int]
"""Ids of a skill and a mistake."""


def useless_pairs(bank: Bank, among: Set[Pair], min_usefulness: float) -> set[Pair]:
    """The pairs whose utility, (helpful - harmful) / uses, the ledger shows to be below a bound: all of its 95 %
    interval over problems is. A pair that was never used, or on few problems, is none of them."""
    ids = {entry for pair in among for entry in pair}
    below = {
        (found.skill_id, found.mistake_id)
        for found in estimates(bank, of="pair", ids=ids, half_life_steps=HALF_LIFE_STEPS)
        if found.high < min_usefulness
    }
    return {pair for pair in among if pair in below}


def by_ledger(bank: Bank, examples: Sequence[Example], min_usefulness: float) -> list[Example]:
    """The examples of a window without the teachers whose pairs are useless."""
    useless = useless_pairs(bank, {_pair(t.label) for e in examples for t in e.teachers}, min_usefulness)
    return [
        _keep(example, [_pair(t.label) not in useless or _explored(example, _pair(t.label)) for t in example.teachers])
        for example in examples
    ]


def by_prefix(
    model: nn.Module,
    examples: Sequence[Example],
    tokens: int,
    settings: GatedSettings,
    mask: Callable[[Sequence[int]], Tensor],
    *,
    token_budget: int | None = None,
) -> list[Example]:
    """The examples without the teachers whose mean |delta|, clipped as the support is, is at most eps over the first
    `tokens` of the completion: their support there is no larger, so they would be neutral if the rest were like it.

    `mask` says which tokens of a completion count. A completion that is no longer, or of whose first tokens none
    counts, is left as it is. `model` is read as the student too, so the teachers have to have its weights.
    """
    screened = [i for i, example in enumerate(examples) if example.teachers and len(example) > tokens]
    masks = {i: mask(examples[i].rollout.completion.token_ids[:tokens]) for i in screened}
    screened = [i for i in screened if masks[i].any()]
    rows = [
        ScoreRow(prompt, examples[i].rollout.completion.token_ids[:tokens])
        for i in screened
        for prompt in (examples[i].rollout.prompt_ids, *(teacher.prompt_ids for teacher in examples[i].teachers))
    ]
    if not rows and not sharded(model):  # else the others' passes want this rank's
        return list(examples)
    parts = torch.split(
        score(model, rows, token_budget=token_budget), [1 + len(examples[i].teachers) for i in screened]
    )
    found = list(examples)
    lengths = iter(map(len, rows))
    for i, part_RT in zip(screened, parts, strict=True):
        delta_KT = (part_RT[1:] - part_RT[:1])[:, masks[i].to(part_RT.device)]
        disagreement_K = delta_KT.clamp(-settings.clip, settings.clip).abs().mean(dim=1)
        read = sum(next(lengths) for _ in part_RT)
        found[i] = _keep(examples[i], (disagreement_K > settings.eps).tolist(), read)
    return found


def _keep(example: Example, kept: Sequence[bool], read_tokens: int = 0) -> Example:
    teachers = tuple(teacher for teacher, keep in zip(example.teachers, kept, strict=True) if keep)
    skipped = example.skipped + len(example.teachers) - len(teachers)
    return replace(example, teachers=teachers, skipped=skipped, read_tokens=example.read_tokens + read_tokens)


def _explored(example: Example, pair: Pair) -> bool:
    """The same problem explores the same pairs whenever it comes."""
    text = f"{example.rollout.problem.problem_id} {pair[0]} {pair[1]}"
    return zlib.crc32(text.encode()) < EXPLORED * 2**32


def _pair(label: dict[str, int]) -> Pair:
    return label["skill_id"], label["mistake_id"]
