"""The divergences of OPSD against NumPy in float64, gradients against finite differences, and cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sgsd.objectives.divergence import DivergenceSettings, divergence, sampled_loss

VARIANTS = [
    DivergenceSettings(),
    DivergenceSettings(clip=None),
    DivergenceSettings(beta=1.0, clip=None),
    DivergenceSettings(beta=1.0, clip=0.03),
    DivergenceSettings(beta=0.3, clip=None),
    DivergenceSettings(beta=0.5, clip=0.02),
    DivergenceSettings(clip=None, top_k=4),
    DivergenceSettings(beta=0.5, clip=0.05, top_k=3, temperature=1.1),
    DivergenceSettings(beta=0.0, clip=None, temperature=0.6),
]


def logits(n: int = 6, v: int = 11, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(n, v, generator=g, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def restated(student: np.ndarray, teacher: np.ndarray, s: DivergenceSettings) -> float:
    """Of one token, entry by entry."""
    entries = list(np.argsort(-teacher)[: s.top_k]) if s.top_k else list(range(len(teacher)))
    p_s = np.exp(student[entries] / s.temperature)
    p_t = np.exp(teacher[entries] / s.temperature)
    p_s, p_t = p_s / p_s.sum(), p_t / p_t.sum()
    total = 0.0
    for a, b in zip(p_s, p_t, strict=True):
        if s.beta == 0:
            term = b * math.log(b / a)
        elif s.beta == 1:
            term = a * math.log(a / b)
        else:
            m = s.beta * b + (1 - s.beta) * a
            term = s.beta * b * math.log(b / m) + (1 - s.beta) * a * math.log(a / m)
        total += term if s.clip is None else min(term, s.clip)
    return total


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_value_and_gradient_equal_the_formula(settings: DivergenceSettings) -> None:
    student, teacher = logits()
    student.requires_grad_()
    values = divergence(student, teacher, settings)
    expected = [restated(s, t, settings) for s, t in zip(student.detach().numpy(), teacher.numpy(), strict=True)]
    assert values.tolist() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    rows, step = student.detach().numpy(), 1e-6
    for n, v in [(0, 0), (1, 3), (2, 10), (5, 7)]:
        up, down = rows[n].copy(), rows[n].copy()
        up[v] += step
        down[v] -= step
        slope = (restated(up, teacher[n].numpy(), settings) - restated(down, teacher[n].numpy(), settings)) / (2 * step)
        assert gradient[n, v].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_worked_by_hand() -> None:
    """Teacher 3/4 and 1/4, student even: KL(T||S) = log 2 - H(3/4)."""
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]).double(), torch.zeros(1, 2).double()
    forward = divergence(student, teacher, DivergenceSettings(clip=None)).item()
    assert forward == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    reverse = divergence(student, teacher, DivergenceSettings(beta=1.0, clip=None)).item()
    assert reverse == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    # Clipped at 0.05: the entry that the teacher raised adds 0.05, the other its negative term.
    clipped = divergence(student, teacher, DivergenceSettings()).item()
    assert clipped == pytest.approx(0.05 + 0.25 * math.log(0.5))


def test_clip_takes_the_gradient_of_what_it_cuts() -> None:
    student, teacher = torch.zeros(1, 2).double().requires_grad_(), torch.tensor([[math.log(3.0), 0.0]]).double()
    (gradient,) = torch.autograd.grad(divergence(student, teacher, DivergenceSettings()).sum(), student)
    # Only -T_1 log S_1 is left: its gradient is -T_1 (onehot - S).
    assert gradient[0].tolist() == pytest.approx([0.25 * 0.5, -0.25 * 0.5])


def test_teacher_gets_no_gradient_and_equals_diverge_by_nothing() -> None:
    student, teacher = logits()
    teacher.requires_grad_()
    for beta in (0.0, 0.5, 1.0):
        assert not divergence(student, teacher, DivergenceSettings(beta=beta)).requires_grad
        same = divergence(student, student, DivergenceSettings(beta=beta))
        assert same.abs().max().item() < 1e-12


def test_sampled_gradient_is_the_reverse_kl_in_expectation() -> None:
    student, teacher = logits(n=1)
    student.requires_grad_()
    p, q = student.log_softmax(-1), teacher.log_softmax(-1)
    losses = sampled_loss(p[0], q[0])  # of each token, had it been drawn
    (sampled,) = torch.autograd.grad((p[0].exp().detach() * losses).sum(), student, retain_graph=True)
    (exact,) = torch.autograd.grad((p.exp() * (p - q)).sum(), student)
    assert torch.allclose(sampled, exact, atol=1e-12)


def test_wrong_settings_and_shapes_are_told() -> None:
    with pytest.raises(ValueError, match=r"beta = 1\.5 is outside"):
        DivergenceSettings(beta=1.5)
    with pytest.raises(ValueError, match="clip = 0"):
        DivergenceSettings(clip=0)
    with pytest.raises(ValueError, match="temperature = 0"):
        DivergenceSettings(temperature=0)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        divergence(torch.zeros(2, 3), torch.zeros(2, 4), DivergenceSettings())
    with pytest.raises(ValueError, match="one shape"):
        sampled_loss(torch.zeros(2), torch.zeros(3))
