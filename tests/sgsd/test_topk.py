"""The objective of OPD and its diagnostics against sets and sums written out, token by token."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from sgsd.objectives.topk import Strategy, Weighting, agreement, choose, topk_loss

N, V, K = 7, 13, 4


def logps(seed: int = 0, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    student, teacher = (spread * torch.randn(N, V, generator=g, dtype=torch.float64) for _ in range(2))
    return student.log_softmax(-1), teacher.log_softmax(-1)


def top(row: Tensor) -> set[int]:
    return set(sorted(range(V), key=lambda v: -row[v].item())[:K])


def sets(p: Tensor, q: Tensor, strategy: Strategy) -> set[int]:
    mine, theirs = top(p), top(q)
    return {
        "student": mine,
        "teacher": theirs,
        "intersection": mine & theirs,
        "union": mine | theirs,
        "union-intersection": mine ^ theirs,
    }[strategy]


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_chosen_sets(strategy: Strategy) -> None:
    p, q = logps()
    ids, counts = choose(p, q, K, strategy)
    for n in range(N):
        members = [i for i, there in zip(ids[n].tolist(), counts[n].tolist(), strict=True) if there]
        assert len(members) == len(set(members))
        assert set(members) == sets(p[n], q[n], strategy)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("weighting", get_args(Weighting))
@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_loss_and_gradient(strategy: Strategy, weighting: Weighting, normalise: bool) -> None:
    p, q = logps(seed=1)
    p.requires_grad_()
    ids, counts = choose(p, q, K, strategy)
    loss = topk_loss(p.gather(1, ids), q.gather(1, ids), counts, weighting, normalise=normalise)
    (gradient,) = torch.autograd.grad(loss.sum(), p)
    for n in range(N):
        members = sets(p[n], q[n], strategy)
        weights = (
            {v: {"student_p": p, "teacher_p": q}[weighting][n, v].exp().item() for v in members}
            if (weighting != "none")
            else dict.fromkeys(members, 1.0)
        )
        if normalise and weighting != "none":
            weights = {v: w / sum(weights.values()) for v, w in weights.items()}
        advantage = {v: w * (q[n, v] - p[n, v]).item() for v, w in weights.items()}
        assert loss[n].item() == pytest.approx(-sum(a * p[n, v].item() for v, a in advantage.items()), abs=1e-12)
        assert gradient[n].tolist() == pytest.approx([-advantage.get(v, 0.0) for v in range(V)], abs=1e-12)


def test_whole_vocabulary_weighted_by_the_student_is_the_reverse_kl() -> None:
    g = torch.Generator().manual_seed(3)
    z = torch.randn(N, V, generator=g, dtype=torch.float64, requires_grad=True)
    q = torch.randn(N, V, generator=g, dtype=torch.float64).log_softmax(-1)
    p = z.log_softmax(-1)
    ids, counts = choose(p, q, V, "student")
    loss = topk_loss(p.gather(1, ids), q.gather(1, ids), counts, "student_p").sum()
    (ours,) = torch.autograd.grad(loss, z, retain_graph=True)
    (exact,) = torch.autograd.grad((p.exp() * (p - q)).sum(), z)
    assert torch.allclose(ours, exact, atol=1e-12)


def test_sides_that_share_nothing_have_an_empty_intersection() -> None:
    student = torch.tensor([[5.0, 4.0, -5.0, -6.0]], dtype=torch.float64).log_softmax(-1).requires_grad_()
    teacher = student.detach().flip(-1)
    ids, counts = choose(student, teacher, 2, "intersection")
    assert not counts.any()
    loss = topk_loss(student.gather(1, ids), teacher.gather(1, ids), counts, "student_p")
    assert loss.item() == 0.0
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient.abs().max() == 0
    seen = agreement(student, teacher, 2)
    assert [seen.overlap_N.item(), seen.student_mass_N.item(), seen.advantage_N.item()] == [0, 0, 0]


def test_agreement_token_by_token() -> None:
    p, q = logps(seed=4)
    seen = agreement(p, q, K)
    for n in range(N):
        shared = top(p[n]) & top(q[n])
        mass_p, mass_q = (sum(side[n, v].exp().item() for v in shared) for side in (p, q))
        advantage = sum(
            p[n, v].exp().item() / mass_p * (q[n, v].item() - math.log(mass_q) - p[n, v].item() + math.log(mass_p))
            for v in shared
        )
        entropy = [-sum(side[n, v].exp().item() * side[n, v].item() for v in range(V)) for side in (p, q)]
        assert seen.overlap_N[n].item() == len(shared) / K
        assert seen.student_mass_N[n].item() == pytest.approx(mass_p)
        assert seen.teacher_mass_N[n].item() == pytest.approx(mass_q)
        assert seen.advantage_N[n].item() == pytest.approx(advantage, abs=1e-12)
        assert seen.entropy_gap_N[n].item() == pytest.approx(abs(entropy[0] - entropy[1]))


def test_equals_agree_wholly() -> None:
    p, _ = logps()
    seen = agreement(p, p, K)
    assert seen.overlap_N.eq(1).all()
    assert seen.advantage_N.abs().max() < 1e-12
    assert seen.entropy_gap_N.max() == 0


def test_k_beyond_the_vocabulary_is_told() -> None:
    p, q = logps()
    with pytest.raises(ValueError, match=r"k = 14 is outside 1 \.\.\. 13"):
        choose(p, q, 14, "union")
