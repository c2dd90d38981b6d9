"""Whole next-token distributions of a student and a teacher, at each completion token of a batch of rows.

`sgsd.score` makes one number a token of one network; here two networks meet. The teacher's pass keeps hidden states and
the head that belongs to them, the student's pass makes logits of both sides, chunk by chunk (`sgsd.paired`).

`_R` rows, `_T` completion tokens, `_N` all completion tokens of a pass, `_c` those of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sgsd.paired import Side, paired_values
from sgsd.score import ScoreRow, read_completions

TokenRead = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student's logits [c, V], teacher's logits [c, V], sampled tokens [c]) -> values [c] or [c, M]."""


def teacher_sides(model: nn.Module, rows: Sequence[ScoreRow], *, token_budget: int | None = None) -> list[Side]:
    """A network's hidden states at the completion tokens of each row, [T, H], and its head. No gradient.

    The head is not copied: it is the weights under which the states came about as long as no optimiser step is taken.
    """
    heads: list[Side] = []

    def read(hidden_NH: Tensor, head: nn.Linear, options: Any, _: Any) -> tuple[Tensor, ...]:
        heads[:] = [Side(hidden_NH[:0], head.weight, **options)]
        return (hidden_NH,)

    (hidden_RTH,) = read_completions(model, rows, read, token_budget=token_budget, grad=False)
    head = replace(heads[0], weight_VH=heads[0].weight_VH.detach(), bias_V=_detached(heads[0].bias_V))
    return [
        replace(head, hidden_NH=hidden_TH[: len(row.completion_ids)])
        for row, hidden_TH in zip(rows, hidden_RTH, strict=True)
    ]


def score_against(
    model: nn.Module, rows: Sequence[ScoreRow], sides: Sequence[Side], read: TokenRead, *, grad: bool = True
) -> Tensor:
    """What `read` makes of the student's and the teacher's logits at each completion token, [R, T] or [R, T, M]; 0
    beyond a row's completion. `sides` are the teacher's, row for row, all with one head. Gradient in the student."""
    hidden_RTH = torch.nn.utils.rnn.pad_sequence([side.hidden_NH for side in sides], batch_first=True)

    def values(hidden_NH: Tensor, head: nn.Linear, options: Any, batch: Any) -> tuple[Tensor, ...]:
        student = Side(hidden_NH, head.weight, **options)
        teacher = replace(sides[0], hidden_NH=hidden_RTH[batch.row_N, batch.token_N].to(hidden_NH.device))
        return (paired_values(student, teacher, lambda part, ours, theirs: read(ours, theirs, batch.target_N[part])),)

    return read_completions(model, rows, values, token_budget=None, grad=grad)[0]


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
