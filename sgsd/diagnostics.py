"""How alike a student and a teacher are on states that the student visits: what tells a pairing's promise.

"Rethinking On-Policy Distillation" (arXiv 2604.13016): at each token of the student's own rollouts, with S_p and S_q
the k likeliest tokens of student p and teacher q,

    overlap ratio       |S_p and S_q| / k
    overlap mass        the student's, and the teacher's, probability of the shared tokens
    overlap advantage   sum over shared v of p_v (log q_v - log p_v), both renormalised there: minus a KL, tending to 0
    entropy gap         |H_q - H_p|, in nats

Sums over tokens, so that they add up over micro-batches and ranks; one pass of each network, no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from sgsd.config import SGSDConfig
from sgsd.distributions import score_against, teacher_sides
from sgsd.layout import ScoreRow
from sgsd.objectives.topk import agreement
from sgsd.paired import Side
from sgsd.teachers import Example

NAMES = ("overlap", "student_mass", "teacher_mass", "overlap_advantage", "entropy_gap")
POSITIONS = 8
"""Equal parts of the longest completion allowed, by which advantage is told by position."""

COUNTED = (
    "agreement_tokens",
    *(f"agreement/{name}" for name in NAMES),
    *(f"agreement/{what}_{part}" for part in range(POSITIONS) for what in ("advantage", "tokens")),
)
"""Every sum, so that all ranks add up the same ones."""


def agreement_rows(student: nn.Module, rows: Sequence[ScoreRow], sides: Sequence[Side], *, k: int) -> Tensor:
    """[R, T, 5] in the order of NAMES, 0 beyond a row's completion. `sides` are the teacher's of the same completions
    (`sgsd.distributions.teacher_sides`)."""

    def read(ours_cV: Tensor, theirs_cV: Tensor, _: Tensor) -> Tensor:
        seen = agreement(ours_cV, theirs_cV, min(k, ours_cV.shape[1]))
        return torch.stack(
            [seen.overlap_N, seen.student_mass_N, seen.teacher_mass_N, seen.advantage_N, seen.entropy_gap_N], dim=-1
        )

    return score_against(student, rows, sides, read, grad=False)


def agreement_sums(values_RTM: Tensor, lengths: Sequence[int], *, max_new_tokens: int) -> dict[str, float]:
    """Sums over the tokens of all rows, and of the advantage by the part of the completion that a token stands in."""
    sums = dict.fromkeys(COUNTED, 0.0)
    sums["agreement_tokens"] = float(sum(lengths))
    for name, total in zip(NAMES, values_RTM.double().sum(dim=(0, 1)).tolist(), strict=True):
        sums[f"agreement/{name}"] = total
    advantage_RT = values_RTM[..., NAMES.index("overlap_advantage")].double()
    for part in range(POSITIONS):
        start, end = (max_new_tokens * edge // POSITIONS for edge in (part, part + 1))
        sums[f"agreement/advantage_{part}"] = float(advantage_RT[:, start:end].sum())
        sums[f"agreement/tokens_{part}"] = float(sum(min(max(length - start, 0), end - start) for length in lengths))
    return sums


def agreement_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Means over tokens under the names that logs carry; nothing where nothing was measured. A part of the completion
    that no token reached has no advantage."""
    tokens = sums["agreement_tokens"]
    if not tokens:
        return {}
    means = {f"agreement/{name}": sums[f"agreement/{name}"] / tokens for name in NAMES}
    return means | {
        f"agreement/advantage_{part}": sums[f"agreement/advantage_{part}"] / sums[f"agreement/tokens_{part}"]
        for part in range(POSITIONS)
        if sums[f"agreement/tokens_{part}"]
    }


class AgreementMeter:
    """Measures while training, every `diagnostics.every_steps` optimiser steps; then `counted` are its sums."""

    def __init__(self, config: SGSDConfig) -> None:
        self.config = config.diagnostics
        self.longest = config.rollout.max_new_tokens
        self.token_budget = config.teacher.token_budget
        self.counted = COUNTED if self.config.every_steps else ()

    def measure(
        self,
        step: int,
        student: nn.Module,
        teacher: nn.Module,
        examples: Sequence[Example],
        as_teacher: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """Sums over the first teacher of some examples of optimiser step `step` (from 1); empty when it is not due.
        Within `as_teacher` the student's network has the teachers' weights."""
        taught = [example for example in examples[: self.config.examples] if example.teachers and len(example)]
        if not taught or not self.counted or step % self.config.every_steps:
            return {}
        rows = [example.row(example.rollout.prompt_ids) for example in taught]
        with as_teacher():
            theirs = [example.row(example.teachers[0].prompt_ids) for example in taught]
            sides = teacher_sides(teacher, theirs, token_budget=self.token_budget)
        values_RTM = agreement_rows(student, rows, sides, k=self.config.k)
        return agreement_sums(values_RTM, list(map(len, taught)), max_new_tokens=self.longest)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return agreement_metrics(sums) if self.counted else {}
