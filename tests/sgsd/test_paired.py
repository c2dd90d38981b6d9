"""Paired chunks against whole logits, in value, gradient and memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sgsd.logits import token_logprobs
from sgsd.objectives.divergence import DivergenceSettings, divergence
from sgsd.paired import Side, paired_values

N, V = 23, 37
SETTINGS = DivergenceSettings(beta=0.4, clip=0.05)


def side(hidden: int, vocabulary: int = V, seed: int = 0, **options: Any) -> Side:
    g = torch.Generator().manual_seed(seed)
    shapes = ((N, hidden), (vocabulary, hidden), (vocabulary,))
    return Side(*(torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes), **options)


def plain(of: Side) -> Tensor:
    z = torch.nn.functional.linear(of.hidden_NH, of.weight_VH, of.bias_V) * of.logit_scale
    return z if of.softcap is None else of.softcap * torch.tanh(z / of.softcap)


def read(part: slice, student: Tensor, teacher: Tensor) -> Tensor:
    return divergence(student, teacher, SETTINGS)


@pytest.mark.parametrize("chunk", [None, 1, 5, 100])
@pytest.mark.parametrize("options", [{}, {"logit_scale": 0.25}, {"softcap": 2.0, "logit_scale": 3.0}], ids=str)
def test_value_and_gradients_equal_those_of_whole_logits(chunk: int | None, options: dict[str, Any]) -> None:
    student, teacher = side(8, seed=1, **options), side(5, seed=2, softcap=4.0)
    leaves = [tensor.requires_grad_() for tensor in (student.hidden_NH, student.weight_VH, student.bias_V)]
    incoming = torch.linspace(-1, 2, N, dtype=torch.float64)
    ours = paired_values(student, teacher, read, chunk_tokens=chunk)
    whole = divergence(plain(student), plain(teacher), SETTINGS)
    assert torch.allclose(ours, whole, atol=1e-12)
    pairs = zip(torch.autograd.grad(ours, leaves, incoming), torch.autograd.grad(whole, leaves, incoming), strict=True)
    for mine, theirs in pairs:
        assert torch.allclose(mine, theirs, atol=1e-11)


def test_a_frozen_head_costs_no_gradient_and_several_values_a_token_are_laid_out() -> None:
    student, teacher = side(8, seed=1), side(8, seed=2)
    student.hidden_NH.requires_grad_()

    def two(part: slice, ours: Tensor, theirs: Tensor) -> Tensor:
        return torch.stack([ours.logsumexp(-1), (ours * theirs).sum(-1)], dim=-1)

    values = paired_values(student, teacher, two, chunk_tokens=4)
    assert values.shape == (N, 2)
    (mine,) = torch.autograd.grad(values.sum(), student.hidden_NH)
    z = plain(student)
    (theirs,) = torch.autograd.grad((z.logsumexp(-1) + (z * plain(teacher)).sum(-1)).sum(), student.hidden_NH)
    assert torch.allclose(mine, theirs, atol=1e-11)
    assert student.weight_VH.grad is None


@pytest.mark.parametrize("widths", [(V, V + 3), (V + 3, V)])
def test_padding_of_the_wider_vocabulary_is_left_out(widths: tuple[int, int]) -> None:
    student, teacher = side(8, widths[0], seed=1), side(8, widths[1], seed=2)
    student.weight_VH.requires_grad_()
    ours = paired_values(student, teacher, read)
    whole = divergence(plain(student)[:, :V], plain(teacher)[:, :V], SETTINGS)
    assert torch.allclose(ours, whole, atol=1e-12)
    (mine,) = torch.autograd.grad(ours.sum(), student.weight_VH)
    (theirs,) = torch.autograd.grad(whole.sum(), student.weight_VH)
    assert torch.allclose(mine, theirs, atol=1e-11)


def test_a_chunk_knows_its_tokens() -> None:
    student, teacher = side(8, seed=1), side(8, seed=2)
    target = torch.arange(N) % V

    def sampled(part: slice, ours: Tensor, theirs: Tensor) -> Tensor:
        return ours.log_softmax(-1).gather(1, target[part, None])[:, 0]

    expected = token_logprobs(student.hidden_NH, student.weight_VH, target, bias_V=student.bias_V)
    assert torch.allclose(paired_values(student, teacher, sampled, chunk_tokens=3), expected, atol=1e-12)


class Largest(TorchDispatchMode):
    """The most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_tensor_of_all_tokens_and_the_whole_vocabulary() -> None:
    student, teacher = side(2, seed=1), side(2, seed=2)
    student.hidden_NH.requires_grad_()
    with Largest() as seen:
        paired_values(student, teacher, read, chunk_tokens=4).sum().backward()
    assert seen.elements == 4 * V


def test_unequal_numbers_of_tokens_are_told() -> None:
    student, teacher = side(8), side(8)
    with pytest.raises(ValueError, match="23 tokens of the student, 22 of the teacher"):
        paired_values(student, Side(teacher.hidden_NH[:-1], teacher.weight_VH), read)
