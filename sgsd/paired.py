"""Two networks' logits of the same tokens, side by side and chunk by chunk: whole distributions without a [N, V].

A divergence needs all of both distributions at every token. Here one chunk of both sides' logits lives at a time; what
is made of it is kept, one number or a few a token, and the backward pass makes the student's and the teacher's chunk
again. Dtypes, scales and soft-caps are those of `sgsd.logits`.

`_N` tokens, `_H` hidden (the two sides may differ), `_V` vocabulary, `_c` tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sgsd.logits import Head, product

Read = Callable[[slice, Tensor, Tensor], Tensor]
"""(tokens of the chunk, student's logits [c, V], teacher's logits [c, V]) -> values [c] or [c, M].

Has to be a function of its arguments alone, differentiable in the student's logits where gradient is wanted: it is
called again in the backward pass."""


@dataclass(frozen=True)
class Side:
    """Hidden states of the tokens, and the head that makes logits of them."""

    hidden_NH: Tensor
    weight_VH: Tensor
    bias_V: Tensor | None = None
    logit_scale: float = 1.0
    softcap: float | None = None

    @property
    def head(self) -> Head:
        return Head.of(self.hidden_NH, self.weight_VH, self.bias_V, self.logit_scale, self.softcap)


def paired_values(student: Side, teacher: Side, read: Read, *, chunk_tokens: int | None = None) -> Tensor:
    """What `read` makes of both sides' logits at each token, [N] or [N, M], in float32 (float64 for float64 inputs).

    Differentiable in the student's hidden states, head and bias, as `sgsd.logits.token_logprobs`; the teacher's side
    gets none. Where one head is wider than the other (padding of the vocabulary), the entries of the narrower count.
    ValueError when the sides have unequal numbers of tokens.
    """
    if len(student.hidden_NH) != len(teacher.hidden_NH):
        raise ValueError(
            f"{len(student.hidden_NH)} tokens of the student, {len(teacher.hidden_NH)} of the teacher: give the same"
        )
    # Two sides of logits, and as much again for what a divergence makes of them.
    chunk = chunk_tokens or max(1, min(student.head.default_chunk(), teacher.head.default_chunk()) // 4)
    values: Tensor = _Paired.apply(student.hidden_NH, student.weight_VH, student.bias_V, student, teacher, read, chunk)  # type: ignore[no-untyped-call]
    return values


class _Paired(torch.autograd.Function):
    """Saves its inputs alone."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        student: Side,
        teacher: Side,
        read: Read,
        chunk: int,
    ) -> Tensor:
        values = [read(part, *_common(ours, theirs)) for part, ours, theirs in _chunks(student, teacher, chunk)]
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V)
        ctx.head, ctx.teacher, ctx.read, ctx.chunk = student.head, teacher, read, chunk
        return torch.cat(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V = ctx.saved_tensors
        head: Head = ctx.head
        student = Side(hidden_NH, weight_VH, bias_V, head.scale, head.softcap)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_NH) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VH, dtype=head.result) if needs_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=head.result) if needs_bias else None
        weight = weight_VH.to(head.operand) if needs_hidden else None
        for part, ours_cV, theirs_cV in _chunks(student, ctx.teacher, ctx.chunk):
            grad_cV = _slope(ctx.read, part, ours_cV, theirs_cV, grad_values[part])
            if head.softcap is not None:
                grad_cV *= 1 - (ours_cV / head.softcap).square_()
            if head.scale != 1.0:
                grad_cV *= head.scale
            if grad_bias is not None:
                grad_bias += grad_cV.sum(dim=0)
            grad_cV = grad_cV.to(head.operand)
            with torch.autocast(hidden_NH.device.type, enabled=False):
                if grad_hidden is not None and weight is not None:
                    product(grad_cV, weight, grad_hidden[part])
                if grad_weight is not None:
                    product(grad_cV.t(), hidden_NH[part].to(head.operand), grad_weight, add=True)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VH.dtype),
            None if grad_bias is None else grad_bias.to(bias_V.dtype),
            *(None,) * 4,
        )


def _chunks(student: Side, teacher: Side, chunk: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    sides = [side.head.chunks(side.hidden_NH, side.weight_VH, side.bias_V, chunk) for side in (student, teacher)]
    for (part, ours_cV), (_, theirs_cV) in zip(*sides, strict=True):
        yield part, ours_cV, theirs_cV


def _common(ours_cV: Tensor, theirs_cV: Tensor) -> tuple[Tensor, Tensor]:
    width = min(ours_cV.shape[1], theirs_cV.shape[1])
    return ours_cV[:, :width], theirs_cV[:, :width]


def _slope(read: Read, part: slice, ours_cV: Tensor, theirs_cV: Tensor, grad_values: Tensor) -> Tensor:
    """Gradient in the student's logits, [c, V]."""
    with torch.enable_grad():
        leaf_cV = ours_cV.detach().requires_grad_()
        values = read(part, *_common(leaf_cV, theirs_cV))
    (grad_cV,) = torch.autograd.grad(values, leaf_cV, grad_values)
    return grad_cV
