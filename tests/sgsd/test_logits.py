"""Chunked log-probs against the plain formula, in value, gradient, dtype and memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sgsd.logits import support_logits, token_entropy, token_logprobs, topk_logprobs

N, H, V = 23, 8, 37
TRANSFORMS = [{}, {"logit_scale": 0.25}, {"softcap": 2.0}, {"logit_scale": 3.0, "softcap": 5.0}]


def make(dtype: torch.dtype = torch.float64, seed: int = 0, n: int = N) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head weight, bias, targets."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, H, generator=g, dtype=torch.float64)
    weight = torch.randn(V, H, generator=g, dtype=torch.float64)
    bias = torch.randn(V, generator=g, dtype=torch.float64)
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), torch.randint(0, V, (n,), generator=g)


def plain_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, logit_scale: float = 1.0, softcap: float | None = None
) -> Tensor:
    z = torch.nn.functional.linear(hidden, weight, bias) * logit_scale
    return z if softcap is None else softcap * torch.tanh(z / softcap)


@pytest.mark.parametrize("tile", [None, 1, 5, 37, 100])
@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradients_equal_the_plain_formula(tile: int | None, transform: dict, with_bias: bool) -> None:
    hidden, weight, bias, target = make()
    leaves = [hidden, weight, bias] if with_bias else [hidden, weight]
    for leaf in leaves:
        leaf.requires_grad_()
    bias_V = bias if with_bias else None
    upstream = torch.linspace(-1, 2, N, dtype=torch.float64)

    logp = token_logprobs(hidden, weight, target, bias_V=bias_V, tile=tile, **transform)
    expected = plain_logits(hidden, weight, bias_V, **transform).log_softmax(-1).gather(1, target[:, None])[:, 0]
    assert logp.dtype == torch.float64
    torch.testing.assert_close(logp, expected, rtol=0, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(logp, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_float32_equals_float64_to_1e_5() -> None:
    hidden, weight, _, target = make(torch.float32)
    hidden.requires_grad_()
    weight.requires_grad_()
    logp = token_logprobs(hidden, weight, target, tile=7)
    exact = token_logprobs(hidden.double(), weight.double(), target)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp.double(), exact, rtol=0, atol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(logp.sum(), [hidden, weight]),
        torch.autograd.grad(exact.sum(), [hidden, weight]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_bfloat16_inputs_are_multiplied_and_summed_in_float32() -> None:
    hidden, weight, bias, target = make(torch.bfloat16)
    for leaf in (hidden, weight, bias):
        leaf.requires_grad_()
    logp = token_logprobs(hidden, weight, target, bias_V=bias, tile=7)
    exact = token_logprobs(hidden.double(), weight.double(), target, bias_V=bias.double())
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp.double(), exact, rtol=0, atol=1e-5)
    # The same formula in bfloat16 all the way is far outside that bound: what is tested is tested.
    rounded = (hidden @ weight.t() + bias).log_softmax(-1).gather(1, target[:, None])[:, 0]
    assert (rounded.double() - exact).abs().mean() > 1e-3
    gradients = torch.autograd.grad(logp.sum(), [hidden, weight, bias])
    expected = torch.autograd.grad(exact.sum(), [hidden, weight, bias])
    for mine, theirs in zip(gradients, expected, strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, theirs, rtol=2**-7, atol=1e-3)


def test_confident_tokens_keep_their_digits() -> None:
    hidden, weight, _, _ = make(torch.float32)
    best = (hidden @ weight.t()).argmax(-1)
    logp = token_logprobs(50 * hidden, weight, best)
    exact = token_logprobs(50 * hidden.double(), weight.double(), best)
    assert exact.max() > -1e-6
    torch.testing.assert_close(logp.double(), exact, rtol=0, atol=1e-4)  # logits go to 500: float32 holds 3e-5 there
    assert (logp <= 0).all()


def test_frozen_head_gets_no_gradient_and_frozen_hidden_none() -> None:
    hidden, weight, bias, target = make()
    hidden.requires_grad_()
    token_logprobs(hidden, weight, target, bias_V=bias).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert bias.grad is None
    hidden, weight, bias, target = make()
    weight.requires_grad_()
    token_logprobs(hidden, weight, target, bias_V=bias).sum().backward()
    assert hidden.grad is None
    assert weight.grad is not None


def test_gradcheck() -> None:
    hidden, weight, bias, target = make(n=4)
    for leaf in (hidden, weight, bias):
        leaf.requires_grad_()

    def logprobs(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return token_logprobs(h, w, target, bias_V=b, tile=3, logit_scale=0.5, softcap=3.0)

    assert torch.autograd.gradcheck(logprobs, (hidden, weight, bias))


class LargestTensor(TorchDispatchMode):
    """Watches every tensor that any operation makes, in the forward and the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.shape: tuple[int, ...] = ()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            # Views share storage; what an expanded or transposed view could hold is what its storage holds.
            if isinstance(value, Tensor) and value.untyped_storage().size() // value.itemsize > self.elements:
                self.elements = value.untyped_storage().size() // value.itemsize
                self.shape = tuple(value.shape)
        return out


def test_no_tensor_is_larger_than_one_tile_or_chunk_of_logits() -> None:
    tokens, vocabulary, tile = 600, 1000, 16
    hidden, target = torch.randn(tokens, H, requires_grad=True), torch.randint(0, vocabulary, (tokens,))
    weight = torch.randn(vocabulary, H, requires_grad=True)
    with LargestTensor() as seen:
        token_logprobs(hidden, weight, target, tile=tile).sum().backward()
    assert seen.elements == tile * tokens, seen.shape  # the tile itself was seen, and nothing above it
    chunk = 16
    with LargestTensor() as seen:
        topk_logprobs(hidden.detach(), weight, 3, chunk_tokens=chunk)
        token_entropy(hidden.detach(), weight, chunk_tokens=chunk)
    assert seen.elements == chunk * vocabulary, seen.shape


def test_support_gathers_no_more_rows_than_a_chunk() -> None:
    tokens, S, vocabulary, chunk = 400, 6, 500, 16
    hidden, ids = torch.randn(tokens, 32, requires_grad=True), torch.randint(0, vocabulary, (tokens, S))
    weight = torch.randn(vocabulary, 32)  # larger than a chunk of rows, but it is an input and no operation makes it
    with LargestTensor() as seen:
        support_logits(hidden, weight, ids, chunk_tokens=chunk).sum().backward()
    assert seen.elements == max(chunk * S * 32, tokens * 32), seen.shape


def test_default_tile_follows_the_byte_budget_and_has_a_least_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgsd.logits.CPU_TILE_BYTES", 200 * 19 * 4)
    monkeypatch.setattr("sgsd.logits.NARROWEST", 10)
    hidden, weight, _, target = make(torch.float32, n=200)
    with LargestTensor() as seen:
        token_logprobs(hidden, weight, target)
    assert seen.elements == 200 * 19  # the inputs' 200 x 8 and 37 x 8 are below it
    monkeypatch.setattr("sgsd.logits.NARROWEST", 30)
    with LargestTensor() as seen:
        token_logprobs(hidden, weight, target)
    assert seen.elements == 200 * 30


def test_logits_of_any_size_in_any_order_of_tiles_stay_finite() -> None:
    """The running sum is kept relative to the largest logit so far, which may come first or last."""
    hidden = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64)
    weight = torch.tensor([[-800.0], [0.0], [799.0], [800.0]], dtype=torch.float64)
    logp = token_logprobs(hidden, weight, torch.tensor([3, 0, 2]), tile=1)
    expected = torch.tensor([-math.log1p(math.exp(-1.0)), 0.0, -math.log(4)], dtype=torch.float64)
    torch.testing.assert_close(logp, expected, rtol=0, atol=1e-12)


def test_works_without_gradient_and_in_inference_mode() -> None:
    hidden, weight, _, target = make()
    expected = token_logprobs(hidden, weight, target)
    weight.requires_grad_()
    with torch.inference_mode():
        torch.testing.assert_close(token_logprobs(hidden, weight, target), expected)
    with torch.no_grad():
        assert not token_logprobs(hidden, weight, target).requires_grad


def test_nothing_is_saved_without_gradient() -> None:
    hidden, weight, _, target = make()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        token_logprobs(hidden, weight, target)
        assert saved == []
        token_logprobs(hidden.requires_grad_(), weight, target)
        assert max(t.numel() for t in saved) == max(N * H, V * H)


def test_autocast_changes_neither_dtype_nor_value() -> None:
    hidden, weight, _, target = make(torch.float32)
    expected_hidden, expected_weight = torch.autograd.grad(
        token_logprobs(hidden.requires_grad_(), weight.requires_grad_(), target).sum(), [hidden, weight]
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp = token_logprobs(hidden, weight, target)
        z = support_logits(hidden, weight, target[:, None])
        gradients = torch.autograd.grad(logp.sum(), [hidden, weight])
    assert logp.dtype == z.dtype == torch.float32
    torch.testing.assert_close(logp, token_logprobs(hidden, weight, target))
    torch.testing.assert_close(gradients[0], expected_hidden)
    torch.testing.assert_close(gradients[1], expected_weight)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the float32 product of half-precision factors is CUDA's")
def test_cuda_multiplies_bfloat16_into_float32() -> None:
    hidden, weight, _, target = (t.cuda() for t in make(torch.bfloat16))
    hidden.requires_grad_()
    logp = token_logprobs(hidden, weight, target, tile=7)
    exact = token_logprobs(hidden.double(), weight.double(), target)
    torch.testing.assert_close(logp.double(), exact, rtol=0, atol=1e-5)
    (mine,), (theirs,) = torch.autograd.grad(logp.sum(), hidden), torch.autograd.grad(exact.sum(), hidden)
    torch.testing.assert_close(mine, theirs, rtol=2**-6, atol=1e-2)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_topk_and_entropy_equal_the_plain_formula(transform: dict) -> None:
    hidden, weight, bias, _ = make()
    logp = plain_logits(hidden, weight, bias, **transform).log_softmax(-1)
    expected = logp.topk(5, dim=-1)
    top = topk_logprobs(hidden, weight, 5, bias_V=bias, chunk_tokens=4, **transform)
    assert torch.equal(top.ids_NK, expected.indices)
    torch.testing.assert_close(top.logp_NK, expected.values, rtol=0, atol=1e-12)
    entropy = token_entropy(hidden, weight, bias_V=bias, chunk_tokens=4, **transform)
    torch.testing.assert_close(entropy, -(logp.exp() * logp).sum(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("chunk", [None, 4])
def test_support_logits_are_those_columns_with_their_gradients(transform: dict, chunk: int | None) -> None:
    hidden, weight, bias, _ = make()
    ids = torch.randint(0, V, (N, 6), generator=torch.Generator().manual_seed(1))  # repeats within a row occur
    leaves = [leaf.requires_grad_() for leaf in (hidden, weight, bias)]
    upstream = torch.linspace(-1, 1, N * 6, dtype=torch.float64).view(N, 6)
    z = support_logits(hidden, weight, ids, bias_V=bias, chunk_tokens=chunk, **transform)
    expected = plain_logits(hidden, weight, bias, **transform).gather(1, ids)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(z, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_no_tokens_at_all() -> None:
    hidden, weight, _, target = make(n=0)
    hidden.requires_grad_()
    token_logprobs(hidden, weight, target).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, H)
    assert topk_logprobs(hidden, weight, 2).ids_NK.shape == (0, 2)
    assert support_logits(hidden, weight, target[:, None]).shape == (0, 1)


def test_wrong_shapes_are_refused() -> None:
    hidden, weight, bias, target = make()
    with pytest.raises(ValueError, match="do not fit"):
        token_logprobs(hidden[:, :3], weight, target)
    with pytest.raises(ValueError, match="target_N"):
        token_logprobs(hidden, weight, target[:3])
    with pytest.raises(ValueError, match="bias"):
        token_logprobs(hidden, weight, target, bias_V=bias[:3])
    with pytest.raises(ValueError, match="ids_NS"):
        support_logits(hidden, weight, target)
    with pytest.raises(ValueError, match="k = 38"):
        topk_logprobs(hidden, weight, V + 1)
    with pytest.raises(ValueError, match="tile = -1"):
        token_logprobs(hidden, weight, target, tile=-1)
