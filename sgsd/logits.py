"""Hidden states and the head, to per-token values: log-probs of given tokens, top-k, entropy, logits of a support.

The logits of a sequence, [N, V], are the largest tensor of a training step and nothing needs all of them at once. Here
they are made in tiles of the vocabulary, each for all tokens, and made again in the backward pass, so that what lives
is one tile, [N, v]. Tiles of the vocabulary, because then each row of the head is read once a call and its gradient
written once, in place; and small ones on a CPU, where a tile is exponentiated while the cache holds it. The log-softmax
is in float32 whatever the model's dtype (float64 stays float64): in bfloat16 its mean error is half of the polarity
threshold (docs/method.md, pitfall 3). Half-precision operands are multiplied into float32 as well.

Top-k and entropy want all of a distribution at once: they take chunks of tokens, [c, V].

`_N` tokens, `_H` hidden, `_V` vocabulary, `_S` tokens of a local support, `_v` vocabulary of one tile, `_c` tokens of
one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE_BYTES = 256 * 2**20
"""Bytes that one tile, one chunk or the gathered rows of a support may take: 8,192 columns of 8,192 tokens in float32,
or 441 tokens over Qwen3's vocabulary of 151,936."""
CPU_TILE_BYTES = 4 * 2**20
"""The same on a CPU: a core's share of the last cache."""
NARROWEST = 256
"""Columns below which a product wastes more than a tile of so many saves; such tiles are small beside [N, H]."""


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
    tile: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """log softmax(cap(scale * (hidden W^T + b)))[target], [N], float32 (float64 for float64 inputs).

    Differentiable in the hidden states, and in the head and its bias where these require gradient (a frozen head costs
    none). Under autocast the product takes the autocast dtype, the rest does not. `softcap` c is z -> c tanh(z / c).
    `tile` is the vocabulary of one tile, by default what TILE_BYTES hold.
    """
    head = Head.of(hidden_NH, head_weight_VH, bias_V, logit_scale, softcap)
    if target_N.shape != hidden_NH.shape[:1]:
        raise ValueError(
            f"target_N has shape {tuple(target_N.shape)}, hidden_NH {tuple(hidden_NH.shape)}: give [N] ids"
        )
    width = head.width(hidden_NH, tile)
    logp_N: Tensor = _TokenLogprobs.apply(hidden_NH, head_weight_VH, bias_V, target_N, head, width)  # type: ignore[no-untyped-call]
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
        total = _LogSumExp(z_cV[:, 0])
        total.add_(z_cV)
        logp_NK[part] = top_cK - total.value()[:, None]
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

    Differentiable as `token_logprobs`. The rows that a chunk gathers, [c, S, H], keep to TILE_BYTES unless
    `chunk_tokens` says otherwise.
    """
    head = Head.of(hidden_NH, head_weight_VH, bias_V, logit_scale, softcap)
    if ids_NS.dim() != 2 or len(ids_NS) != len(hidden_NH):
        raise ValueError(f"ids_NS has shape {tuple(ids_NS.shape)}, hidden_NH {tuple(hidden_NH.shape)}: give [N, S] ids")
    row_bytes = ids_NS.shape[1] * hidden_NH.shape[1] * head.result.itemsize
    chunk = chunk_tokens or max(1, TILE_BYTES // max(1, row_bytes))
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

    def width(self, hidden_NH: Tensor, tile: int | None) -> int:
        """Vocabulary of one tile."""
        if tile is None:
            budget = CPU_TILE_BYTES if hidden_NH.device.type == "cpu" else TILE_BYTES
            tile = max(NARROWEST, budget // (max(1, len(hidden_NH)) * self.result.itemsize))
        if tile < 1:
            raise ValueError(f"tile = {tile} is below 1: give the vocabulary of one tile")
        return min(tile, self.vocabulary)

    def tiles(
        self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, width: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """(part of the vocabulary, all tokens' logits there [N, v]), tile by tile. A caller may overwrite what it gets,
        and has it until it asks for the next: tiles share their memory."""
        left_NH = hidden_NH.to(self.operand)
        room = hidden_NH.new_empty(len(hidden_NH) * width, dtype=self.result)
        for start in range(0, self.vocabulary, width):
            part = slice(start, min(start + width, self.vocabulary))
            size = (len(hidden_NH), part.stop - start)
            z_Nv = room[: size[0] * size[1]].view(size)
            self._logits(left_NH, weight_VH[part].to(self.operand), None if bias_V is None else bias_V[part], z_Nv)
            yield part, z_Nv

    def default_chunk(self) -> int:
        """Tokens whose logits over the whole vocabulary TILE_BYTES hold."""
        return max(1, TILE_BYTES // (self.vocabulary * self.result.itemsize))

    def chunks(
        self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, chunk: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """(tokens, their logits [c, V]), chunk by chunk: for what needs all of a distribution at once."""
        if chunk < 1:
            raise ValueError(f"chunk_tokens = {chunk} is below 1")
        right_VH = weight_VH.to(self.operand)
        for start in range(0, len(hidden_NH), chunk):
            part = slice(start, min(start + chunk, len(hidden_NH)))
            z_cV = hidden_NH.new_empty(part.stop - start, self.vocabulary, dtype=self.result)
            self._logits(hidden_NH[part].to(self.operand), right_VH, bias_V, z_cV)
            yield part, z_cV

    def _logits(self, left: Tensor, right: Tensor, bias: Tensor | None, out: Tensor) -> None:
        with torch.autocast(out.device.type, enabled=False):
            product(left, right.t(), out)
        if bias is not None:
            out += bias
        if self.scale != 1.0:
            out *= self.scale
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)


def product(left: Tensor, right: Tensor, out: Tensor, *, add: bool = False) -> None:
    """out = left @ right, or out += left @ right. Half-precision factors, which CUDA alone gets, make float32."""
    if left.dtype == out.dtype:
        if add:
            out.addmm_(left, right)
        else:
            torch.mm(left, right, out=out)
        return
    wide = left @ right if left.dtype.itemsize > 2 else torch.mm(left, right, out_dtype=torch.float32)
    if add:
        out += wide
    else:
        out.copy_(wide)


class _LogSumExp:
    """log sum exp over the vocabulary, [N], of logits that come tile by tile; the sum is relative to the largest."""

    def __init__(self, like_N: Tensor) -> None:
        self.top_N = torch.full_like(like_N, -torch.inf)
        self.sum_N = torch.zeros_like(like_N)

    def add_(self, z_Nv: Tensor) -> None:
        """Overwrites its input, so that no second tile is made."""
        top_N = torch.maximum(self.top_N, z_Nv.amax(dim=-1))
        self.sum_N *= (self.top_N - top_N).exp_()
        self.sum_N += z_Nv.sub_(top_N[:, None]).exp_().sum(dim=-1)
        self.top_N = top_N

    def value(self) -> Tensor:
        return self.sum_N.log() + self.top_N


class _TokenLogprobs(torch.autograd.Function):
    """Saves its inputs and one number a token; the backward pass makes each tile's softmax again."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, head: Head, width: int
    ) -> Tensor:
        logit_N = hidden_NH.new_zeros(len(hidden_NH), dtype=head.result)
        total = _LogSumExp(logit_N)
        for part, z_Nv in head.tiles(hidden_NH, weight_VH, bias_V, width):
            column_N1, here_N = _columns(target_N, part)
            logit_N = torch.where(here_N, z_Nv.gather(1, column_N1)[:, 0], logit_N)
            total.add_(z_Nv)
        lse_N = total.value()
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, target_N, lse_N)
        ctx.head, ctx.width = head, width
        return logit_N - lse_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, target_N, lse_N = ctx.saved_tensors
        head: Head = ctx.head
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden_NH, dtype=head.result) if needs_hidden else None
        grad_weight = torch.empty_like(weight_VH) if needs_weight else None
        grad_bias = torch.empty_like(bias_V) if needs_bias else None
        left_NH = hidden_NH.to(head.operand)
        for part, z_Nv in head.tiles(hidden_NH, weight_VH, bias_V, ctx.width):
            slope_Nv = None if head.softcap is None else 1 - (z_Nv / head.softcap).square_()
            # d logp / d z = onehot(target) - softmax(z), times the incoming gradient
            grad_Nv = z_Nv.sub_(lse_N[:, None]).exp_().mul_(-grad_N[:, None])
            column_N1, here_N = _columns(target_N, part)
            grad_Nv.scatter_add_(1, column_N1, torch.where(here_N, grad_N, 0.0)[:, None])
            if slope_Nv is not None:
                grad_Nv *= slope_Nv
            if head.scale != 1.0:
                grad_Nv *= head.scale
            if grad_bias is not None:
                grad_bias[part] = grad_Nv.sum(dim=0)
            grad_Nv = grad_Nv.to(head.operand)
            with torch.autocast(hidden_NH.device.type, enabled=False):
                if grad_hidden is not None:
                    product(grad_Nv, weight_VH[part].to(head.operand), grad_hidden, add=True)
                if grad_weight is not None:
                    product(grad_Nv.t(), left_NH, grad_weight[part])
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden_NH.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _columns(target_N: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Each target's column within a tile, [N, 1], any where it is in another; and whether it is in this one, [N]."""
    column_N = target_N - part.start
    width = part.stop - part.start
    return column_N.clamp(0, width - 1)[:, None], (column_N >= 0) & (column_N < width)


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
