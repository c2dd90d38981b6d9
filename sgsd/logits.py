"""Hidden states and the head, to per-token values: log-probs of given tokens, top-k, entropy, logits of a support.

The logits of a sequence, [N, V], are the largest tensor of a training step and nothing needs all of them at once. Here
they are made in chunks of tokens, and made again in the backward pass, so that what lives is one chunk of [c, V]. The
log-softmax is in float32 whatever the model's dtype (float64 stays float64): in bfloat16 its mean error is half of the
polarity threshold (docs/method.md, pitfall 3). Half-precision operands are multiplied into float32 as well.

`_N` tokens, `_H` hidden, `_V` vocabulary, `_S` tokens of a local support, `_c` tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 256 * 2**20
"""Bytes that one chunk may take: 441 tokens of float32 logits at Qwen3's vocabulary of 151,936."""


class TopK(NamedTuple):
    ids_NK: Tensor
    """The K likeliest tokens, best first; int64."""
    logp_NK: Tensor
    """Their full-vocabulary log-probs."""


def token_logprobs(
    hidden_NH: Tensor,
    head_weight_VH: Tensor,
    target_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk_tokens: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """log softmax(cap(scale * (hidden W^T + b)))[target], [N], float32 (float64 for float64 inputs).

    Differentiable in the hidden states, and in the head and its bias where these require gradient (a frozen head costs
    none). Under autocast the product takes the autocast dtype, the rest does not. `softcap` c is z -> c tanh(z / c).
    `chunk_tokens` defaults to what CHUNK_BYTES hold.
    """
    head = Head.of(hidden_NH, head_weight_VH, bias_V, logit_scale, softcap)
    if target_N.shape != hidden_NH.shape[:1]:
        raise ValueError(
            f"target_N has shape {tuple(target_N.shape)}, hidden_NH {tuple(hidden_NH.shape)}: give [N] ids"
        )
    chunk = chunk_tokens or head.default_chunk()
    logp_N: Tensor = _TokenLogprobs.apply(hidden_NH, head_weight_VH, bias_V, target_N, head, chunk)  # type: ignore[no-untyped-call]
    return logp_N


@torch.no_grad()
def topk_logprobs(
    hidden_NH: Tensor,
    head_weight_VH: Tensor,
    k: int,
    *,
    bias_V: Tensor | None = None,
    chunk_tokens: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> TopK:
    """The k likeliest tokens and their log-probs. No gradient."""
    head = Head.of(hidden_NH, head_weight_VH, bias_V, logit_scale, softcap)
    if not 1 <= k <= head.vocabulary:
        raise ValueError(f"k = {k} is outside 1 ... {head.vocabulary}, the vocabulary")
    ids_NK = hidden_NH.new_empty(len(hidden_NH), k, dtype=torch.int64)
    logp_NK = hidden_NH.new_empty(len(hidden_NH), k, dtype=head.result)
    for part, z_cV in head.chunks(hidden_NH, head_weight_VH, bias_V, chunk_tokens or head.default_chunk()):
        top_cK, ids_NK[part] = z_cV.topk(k, dim=-1)
        logp_NK[part] = top_cK - _logsumexp_(z_cV)[:, None]
    return TopK(ids_NK, logp_NK)


@torch.no_grad()
def token_entropy(
    hidden_NH: Tensor,
    head_weight_VH: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk_tokens: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Entropy of the next-token distribution in nats, [N]. No gradient."""
    head = Head.of(hidden_NH, head_weight_VH, bias_V, logit_scale, softcap)
    entropy_N = hidden_NH.new_empty(len(hidden_NH), dtype=head.result)
    for part, z_cV in head.chunks(hidden_NH, head_weight_VH, bias_V, chunk_tokens or head.default_chunk()):
        entropy_N[part] = torch.special.entr(z_cV.softmax(dim=-1)).sum(dim=-1)
    return entropy_N


def support_logits(
    hidden_NH: Tensor,
    head_weight_VH: Tensor,
    ids_NS: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk_tokens: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Logits of each token's own support, [N, S], from those rows of the head alone.

    Differentiable as `token_logprobs`. The rows that a chunk gathers, [c, S, H], keep to CHUNK_BYTES unless
    `chunk_tokens` says otherwise.
    """
    head = Head.of(hidden_NH, head_weight_VH, bias_V, logit_scale, softcap)
    if ids_NS.dim() != 2 or len(ids_NS) != len(hidden_NH):
        raise ValueError(f"ids_NS has shape {tuple(ids_NS.shape)}, hidden_NH {tuple(hidden_NH.shape)}: give [N, S] ids")
    row_bytes = ids_NS.shape[1] * hidden_NH.shape[1] * head.result.itemsize
    chunk = chunk_tokens or max(1, CHUNK_BYTES // max(1, row_bytes))
    z_NS: Tensor = _SupportLogits.apply(hidden_NH, head_weight_VH, ids_NS, head.result, chunk)  # type: ignore[no-untyped-call]
    if bias_V is not None:
        z_NS = z_NS + bias_V[ids_NS]
    z_NS = z_NS * logit_scale
    return z_NS if softcap is None else softcap * torch.tanh(z_NS / softcap)


@dataclass(frozen=True)
class Head:
    """How logits come from the product of hidden states and head weight, and in which dtypes."""

    vocabulary: int
    scale: float
    softcap: float | None
    operand: torch.dtype
    """Of the two factors of the product."""
    result: torch.dtype
    """Of the product and of all that follows."""

    @staticmethod
    def of(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None) -> Head:
        if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
            raise ValueError(
                f"hidden {tuple(hidden.shape)} and head {tuple(weight.shape)} do not fit: [N, H] and [V, H]"
            )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias {tuple(bias.shape)} does not fit the head {tuple(weight.shape)}: give [V]")
        operand = torch.promote_types(hidden.dtype, weight.dtype)
        device = hidden.device.type
        if operand != torch.float64 and torch.is_autocast_enabled(device):
            operand = torch.get_autocast_dtype(device)
        if device != "cuda" and operand != torch.float64:
            operand = torch.float32  # only CUDA multiplies half-precision factors into float32
        return Head(len(weight), scale, softcap, operand, torch.promote_types(operand, torch.float32))

    def default_chunk(self) -> int:
        return max(1, CHUNK_BYTES // (self.vocabulary * self.result.itemsize))

    def chunks(
        self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, chunk: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """(tokens, their logits [c, V]), chunk by chunk; a caller may overwrite what it gets."""
        if chunk < 1:
            raise ValueError(f"chunk_tokens = {chunk} is below 1")
        weight_HV = weight_VH.to(self.operand).t()
        for start in range(0, len(hidden_NH), chunk):
            part = slice(start, min(start + chunk, len(hidden_NH)))
            with torch.autocast(hidden_NH.device.type, enabled=False):
                z_cV = product(hidden_NH[part].to(self.operand), weight_HV, self.result)
            if bias_V is not None:
                z_cV += bias_V
            if self.scale != 1.0:
                z_cV *= self.scale
            if self.softcap is not None:
                z_cV.div_(self.softcap).tanh_().mul_(self.softcap)
            yield part, z_cV


def product(left: Tensor, right: Tensor, result: torch.dtype) -> Tensor:
    """left @ right, accumulated and returned in `result`."""
    return left @ right if left.dtype == result else torch.mm(left, right, out_dtype=result)


def _logsumexp_(z_cV: Tensor) -> Tensor:
    """log sum exp over the vocabulary, [c]; overwrites its input, so that no second [c, V] is made."""
    top_c1 = z_cV.amax(dim=-1, keepdim=True)
    return z_cV.sub_(top_c1).exp_().sum(dim=-1).log_().add_(top_c1[:, 0])


class _TokenLogprobs(torch.autograd.Function):
    """Saves its inputs and one number a token; the backward pass makes each chunk's softmax again."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, head: Head, chunk: int
    ) -> Tensor:
        logp_N = hidden_NH.new_empty(len(hidden_NH), dtype=head.result)
        lse_N = torch.empty_like(logp_N)
        for part, z_cV in head.chunks(hidden_NH, weight_VH, bias_V, chunk):
            target_c = z_cV.gather(1, target_N[part, None])[:, 0]
            lse_N[part] = _logsumexp_(z_cV)
            logp_N[part] = target_c - lse_N[part]
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, target_N, lse_N)
        ctx.head, ctx.chunk = head, chunk
        return logp_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, target_N, lse_N = ctx.saved_tensors
        head: Head = ctx.head
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_NH) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VH, dtype=head.result) if needs_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=head.result) if needs_bias else None
        weight = weight_VH.to(head.operand) if needs_hidden else None
        for part, z_cV in head.chunks(hidden_NH, weight_VH, bias_V, ctx.chunk):
            slope_cV = None if head.softcap is None else 1 - (z_cV / head.softcap).square_()
            # d logp / d z = onehot(target) - softmax(z), times the incoming gradient
            grad_c1 = grad_N[part, None]
            grad_cV = z_cV.sub_(lse_N[part, None]).exp_().mul_(-grad_c1)
            grad_cV.scatter_add_(1, target_N[part, None], grad_c1)
            if slope_cV is not None:
                grad_cV *= slope_cV
            if head.scale != 1.0:
                grad_cV *= head.scale
            if grad_bias is not None:
                grad_bias += grad_cV.sum(dim=0)
            grad_cV = grad_cV.to(head.operand)
            with torch.autocast(hidden_NH.device.type, enabled=False):
                if grad_hidden is not None and weight is not None:
                    grad_hidden[part] = product(grad_cV, weight, head.result)
                if grad_weight is not None:
                    grad_weight += product(grad_cV.t(), hidden_NH[part].to(head.operand), head.result)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VH.dtype),
            None if grad_bias is None else grad_bias.to(bias_V.dtype),
            None,
            None,
            None,
        )


class _SupportLogits(torch.autograd.Function):
    """hidden_n . W[ids_ns], gathered chunk by chunk in both directions, so that no [N, S, H] lives."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, ids_NS: Tensor, result: torch.dtype, chunk: int
    ) -> Tensor:
        z_NS = hidden_NH.new_empty(ids_NS.shape, dtype=result)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for start in range(0, len(ids_NS), chunk):
                part = slice(start, start + chunk)
                rows_cSH = weight_VH[ids_NS[part]].to(result)
                z_NS[part] = (rows_cSH @ hidden_NH[part, :, None].to(result))[:, :, 0]
        ctx.save_for_backward(hidden_NH, weight_VH, ids_NS)
        ctx.result, ctx.chunk = result, chunk
        return z_NS

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_NS: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, ids_NS = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden_NH) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VH, dtype=ctx.result) if needs_weight else None
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for start in range(0, len(ids_NS), ctx.chunk):
                part = slice(start, start + ctx.chunk)
                if grad_hidden is not None:
                    rows_cSH = weight_VH[ids_NS[part]].to(ctx.result)
                    grad_hidden[part] = (grad_NS[part, None, :] @ rows_cSH)[:, 0]
                if grad_weight is not None:
                    outer_cSH = grad_NS[part, :, None] * hidden_NH[part, None, :].to(ctx.result)
                    grad_weight.index_add_(0, ids_NS[part].flatten(), outer_cSH.flatten(0, 1))
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight_VH.dtype), None, None, None
