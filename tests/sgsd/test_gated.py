"""The gated objective against an independent restatement in loops, and against cases worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from sgsd.objectives.gated import (
    GatedCounts,
    GatedResult,
    GatedSettings,
    gate,
    gate_slope,
    gated_local_loss,
    gated_loss,
    local_support_mask,
)

PAPER = GatedSettings()
VARIANTS = [
    PAPER,
    GatedSettings(tau=0.4, clip=1.0, eps=0.2),
    GatedSettings(polarity="off"),
    GatedSettings(gate="quadratic", tau=2.0),
    GatedSettings(polarity="off", gate="quadratic"),
    GatedSettings(support_baseline="pool"),
    GatedSettings(support_baseline="placebo"),
]


# ---- an independent restatement: float64, loops, the gradient written out -------------------------------------------


def restated_gate(d: float, s: GatedSettings) -> tuple[float, float]:
    """l(d) and dl/dd."""
    if s.gate == "quadratic":
        return d * d / (4 * s.tau), d / (2 * s.tau)
    u = d * d / (2 * s.tau)
    return math.log(2) - math.log1p(math.exp(-u)), (d / s.tau) * math.exp(-u) / (1 + math.exp(-u))


def restated_polarity(deltas: list[float], baselines: list[float], r: int, s: GatedSettings) -> float:
    if not deltas or r == 0:
        return 0.0
    if s.polarity == "off":
        return 1.0
    support = sum(min(max(d - b, -s.clip), s.clip) for d, b in zip(deltas, baselines, strict=True)) / len(deltas)
    return 0.0 if abs(support) <= s.eps else r * math.copysign(1.0, support)


def restated(batch: dict[str, np.ndarray], s: GatedSettings, n: int) -> tuple[float, np.ndarray]:
    """Loss and its gradient in the student's log-probs [B, T]."""
    student, teacher, weight = batch["student"], batch["teacher"], batch["weight"]
    loss, gradient = 0.0, np.zeros_like(student)
    for b in range(len(student)):
        tokens = [t for t in range(student.shape[1]) if batch["mask"][b, t]]
        pool = [k for k in range(weight.shape[1]) if weight[b, k] != 0]
        for k in pool:
            baselines = []
            for t in tokens:
                if s.support_baseline == "pool":
                    baselines.append(sum(teacher[b, j, t] - student[b, t] for j in pool) / len(pool))
                elif s.support_baseline == "placebo":
                    baselines.append(batch["placebo"][b, t] - student[b, t])
                else:
                    baselines.append(0.0)
            deltas = [teacher[b, k, t] - student[b, t] for t in tokens]
            rho = restated_polarity(deltas, baselines, int(batch["outcome"][b]), s)
            for t, d in zip(tokens, deltas, strict=True):
                value, slope = restated_gate(d, s)
                loss += weight[b, k] * rho * value / len(tokens) / n
                gradient[b, t] -= weight[b, k] * rho * slope / len(tokens) / n
    return loss, gradient


def make_batch(seed: int, B: int = 5, K: int = 3, T: int = 7) -> dict[str, np.ndarray]:
    """Rows with all outcomes, teachers missing, tokens missing, and (row 0) no token at all."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.1, 1.0, (B, K)) * (rng.uniform(size=(B, K)) > 0.25)
    mask = rng.uniform(size=(B, T)) > 0.3
    mask[0] = False
    student = -rng.exponential(1.0, (B, T))
    return {
        "student": student,
        "teacher": student[:, None] + rng.normal(0, 1, (B, K, 1)) + rng.normal(0, 1.5, (B, K, T)),
        "placebo": student + rng.normal(0, 0.5, (B, T)),
        "mask": mask,
        "outcome": rng.integers(-1, 2, B),
        "weight": weight,
    }


def run(batch: dict[str, np.ndarray], s: GatedSettings, n: int) -> tuple[GatedResult, Tensor]:
    """The result and the gradient in the student's log-probs."""
    t = {name: torch.from_numpy(np.array(value)) for name, value in batch.items()}
    student = t["student"].requires_grad_()
    placebo = t["placebo"] if s.support_baseline == "placebo" else None
    result = gated_loss(
        student, t["teacher"], t["mask"], t["outcome"], t["weight"], s, num_examples=n, placebo_logp_BT=placebo
    )
    (gradient,) = torch.autograd.grad(result.loss, student)
    return result, gradient


@pytest.mark.parametrize("s", VARIANTS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_the_restatement(s: GatedSettings, seed: int) -> None:
    batch = make_batch(seed)
    result, gradient = run(batch, s, n=7)
    loss, expected = restated(batch, s, 7)
    assert result.loss.item() == pytest.approx(loss, abs=1e-12)
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-12)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("s", VARIANTS, ids=str)
def test_torch_agrees_that_the_gradient_is_that_of_the_value(s: GatedSettings) -> None:
    # Polarity is piecewise constant, so finite differences see the same function.
    batch = make_batch(4)
    t = {name: torch.from_numpy(value) for name, value in batch.items()}

    def loss(student: Tensor) -> Tensor:
        placebo = t["placebo"] if s.support_baseline == "placebo" else None
        return gated_loss(
            student, t["teacher"], t["mask"], t["outcome"], t["weight"], s, num_examples=5, placebo_logp_BT=placebo
        ).loss

    assert torch.autograd.gradcheck(loss, (t["student"].clone().requires_grad_(),))


def test_a_case_worked_by_hand() -> None:
    # One problem, solved (r = +1), two tokens that count and one that does not; two teachers of weights 3/4 and 1/4.
    # Teacher 1: delta = (1, 5); clipped (1, 3); support 2 > 0.05, so it supported a success: rho = +1.
    #   l(1) = log 2 - log(1 + e^-0.5)  = 0.693147181 - 0.474076984 = 0.219070197
    #   l(5) = log 2 - log(1 + e^-12.5) = 0.693147181 - 0.000003727 = 0.693143454
    #   mean = 0.456106825;  3/4 of it = 0.342080119
    # Teacher 2: delta = (-0.5, 0.5); support 0, so it is neutral: nothing.
    # N = 2 (another example of the step is elsewhere): loss = 0.171040060
    # Slopes: l'(1) = 1 / (1 + e^0.5) = 0.377540669; the gradient in the student's first token is -3/4 * that / 2 / 2.
    student = torch.tensor([[-1.0, -6.0, -1.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[[0.0, -1.0, 9.0], [-1.5, -5.5, 9.0]]], dtype=torch.float64)
    result = gated_loss(
        student,
        teacher,
        torch.tensor([[True, True, False]]),
        torch.tensor([1]),
        torch.tensor([[0.75, 0.25]], dtype=torch.float64),
        PAPER,
        num_examples=2,
    )
    assert result.loss.item() == pytest.approx(0.171040060, abs=1e-9)
    (gradient,) = torch.autograd.grad(result.loss, student)
    assert gradient[0, 0].item() == pytest.approx(-0.377540669 * 0.75 / 4, abs=1e-9)
    assert gradient[0, 2].item() == 0
    d = result.diagnostics
    assert d.support_BK.tolist() == [[2.0, 0.0]]
    assert d.polarity_BK.tolist() == [[1.0, 0.0]]
    assert d.delta_BKT.tolist() == [[[1.0, 5.0, 0.0], [-0.5, 0.5, 0.0]]]
    assert d.clipped_share_BK.tolist() == [[0.5, 0.0]]
    assert d.gate_BKT[0, 0, 0].item() == pytest.approx(0.377540669, abs=1e-9)
    assert d.gate_mass_BK[0, 0].item() == pytest.approx((0.377540669 + 5 / (1 + math.exp(12.5))) / 2, abs=1e-9)
    assert d.counts == GatedCounts(teachers=2, below_threshold=1, judged=2, helpful=1, harmful=0, tokens=4, clipped=1)
    assert d.counts.shares == {"helpful": 0.5, "harmful": 0, "neutral": 0.5, "below_threshold": 0.5, "clipped": 0.25}


@pytest.mark.parametrize(("r", "support", "polarity"), [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1), (0, 1, 0)])
def test_polarity_of_each_stance(r: int, support: int, polarity: int) -> None:
    student = torch.zeros(1, 2)
    result = gated_loss(
        student, student[:, None] + support, student == 0, torch.tensor([r]), torch.ones(1, 1), PAPER, num_examples=1
    )
    assert result.diagnostics.polarity_BK.item() == polarity
    assert result.loss.item() == pytest.approx(polarity * 0.219070197, abs=1e-6)


def test_support_at_the_threshold_is_neutral_and_above_it_is_not() -> None:
    student = torch.zeros(2, 1, dtype=torch.float64)
    teacher = torch.tensor([[[0.25]], [[0.2500001]]], dtype=torch.float64)
    s = GatedSettings(eps=0.25)
    result = gated_loss(student, teacher, student == 0, torch.ones(2), torch.ones(2, 1), s, num_examples=2)
    assert result.diagnostics.polarity_BK.tolist() == [[0.0], [1.0]]


def test_gate_has_the_figures_of_the_method() -> None:
    d = torch.tensor([0.0, 1.216, -1.216, 3.0, 20.0], dtype=torch.float64)
    assert gate_slope(d, PAPER).tolist() == pytest.approx([0, 0.393, 0.393, 0.033, 0], abs=1e-3)
    assert gate(d, PAPER)[[0, 4]].tolist() == [0.0, pytest.approx(math.log(2))]
    fine = torch.linspace(1.2, 1.23, 301, dtype=torch.float64)
    assert fine[gate_slope(fine, PAPER).argmax()].item() == pytest.approx(1.216, abs=1e-3)
    assert gate(torch.zeros(1), PAPER).item() == 0.0  # float32 too: agreement costs exactly nothing


def test_ablated_gate_has_the_same_curvature_at_zero() -> None:
    for tau in (0.5, 1.0, 3.0):
        curvatures = []
        for kind in ("bounded", "quadratic"):
            x = torch.zeros((), dtype=torch.float64, requires_grad=True)
            (slope,) = torch.autograd.grad(gate(x, GatedSettings(tau=tau, gate=kind)), x, create_graph=True)
            curvatures.append(torch.autograd.grad(slope, x)[0].item())
        assert curvatures == pytest.approx([1 / (2 * tau)] * 2)


@pytest.mark.parametrize("s", [PAPER, GatedSettings(support_baseline="pool"), GatedSettings(gate="quadratic")], ids=str)
def test_flipped_outcome_flips_loss_and_gradient(s: GatedSettings) -> None:
    batch = make_batch(5)
    result, gradient = run(batch, s, n=5)
    flipped, flipped_gradient = run({**batch, "outcome": -batch["outcome"]}, s, n=5)
    assert result.loss.item() == pytest.approx(-flipped.loss.item(), abs=1e-15) != 0
    torch.testing.assert_close(gradient, -flipped_gradient)
    counts, other = result.diagnostics.counts, flipped.diagnostics.counts
    assert (counts.helpful, counts.harmful, counts.neutral) == (other.harmful, other.helpful, other.neutral)


@pytest.mark.parametrize("s", VARIANTS, ids=str)
def test_order_of_teachers_and_padding_change_nothing(s: GatedSettings) -> None:
    batch = make_batch(6)
    result, gradient = run(batch, s, n=5)
    order = [2, 0, 1]
    permuted, permuted_gradient = run(
        {**batch, "teacher": batch["teacher"][:, order], "weight": batch["weight"][:, order]}, s, n=5
    )
    torch.testing.assert_close(permuted.loss, result.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(permuted_gradient, gradient, rtol=0, atol=1e-15)
    torch.testing.assert_close(permuted.diagnostics.support_BK, result.diagnostics.support_BK[:, order])

    # Padding of tokens and of teachers holds garbage, infinities and NaN included.
    B, K, T = batch["teacher"].shape
    teacher = np.full((B, K + 2, T + 3), np.nan)
    teacher[:, :K, :T] = batch["teacher"]
    tail = np.full((B, 3), -np.inf)
    padded, padded_gradient = run(
        {
            "student": np.concatenate([batch["student"], tail], 1),
            "teacher": teacher,
            "placebo": np.concatenate([batch["placebo"], tail], 1),
            "mask": np.concatenate([batch["mask"], tail > 0], 1),
            "outcome": batch["outcome"],
            "weight": np.concatenate([batch["weight"], np.zeros((B, 2))], 1),
        },
        s,
        n=5,
    )
    torch.testing.assert_close(padded.loss, result.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(padded_gradient[:, :T], gradient, rtol=0, atol=1e-15)
    assert padded_gradient[:, T:].abs().max() == 0
    assert padded.diagnostics.counts == result.diagnostics.counts


def test_pool_in_one_call_equals_a_call_a_teacher() -> None:
    batch = make_batch(7)
    result, gradient = run(batch, PAPER, n=5)
    singles = [
        run({**batch, "teacher": batch["teacher"][:, [k]], "weight": batch["weight"][:, [k]]}, PAPER, n=5)
        for k in range(3)
    ]
    torch.testing.assert_close(sum(r.loss for r, _ in singles), result.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(sum(g for _, g in singles), gradient, rtol=0, atol=1e-15)


@pytest.mark.parametrize("s", VARIANTS, ids=str)
def test_any_split_of_the_batch_adds_up(s: GatedSettings) -> None:
    batch = make_batch(8, B=6)
    result, gradient = run(batch, s, n=6)
    parts = [run({k: v[rows] for k, v in batch.items()}, s, n=6) for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    torch.testing.assert_close(sum(r.loss for r, _ in parts), result.loss, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient, rtol=0, atol=1e-15)
    assert sum((r.diagnostics.counts for r, _ in parts), GatedCounts()) == result.diagnostics.counts


@pytest.mark.parametrize("s", VARIANTS, ids=str)
def test_a_batch_without_teachers_backpropagates_zeros(s: GatedSettings) -> None:
    batch = make_batch(9)
    for empty in ({"weight": 0 * batch["weight"]}, {"outcome": 0 * batch["outcome"]}, {"mask": batch["mask"] & False}):
        result, gradient = run({**batch, **empty}, s, n=5)
        assert result.loss.item() == 0
        assert gradient.abs().max() == 0
    no_teachers = {**batch, "teacher": batch["teacher"][:, :0], "weight": batch["weight"][:, :0]}
    result, gradient = run(no_teachers, s, n=5)
    assert (result.loss.item(), gradient.abs().max().item()) == (0, 0)
    assert result.diagnostics.counts == GatedCounts()


def test_ledger_sees_the_verdict_when_polarity_is_off() -> None:
    batch = make_batch(10)
    on, _ = run(batch, PAPER, n=5)
    off, _ = run(batch, replace(PAPER, polarity="off"), n=5)
    assert torch.equal(on.diagnostics.polarity_BK, off.diagnostics.polarity_BK)
    assert on.diagnostics.counts == off.diagnostics.counts
    assert off.loss.item() > abs(on.loss.item())


def test_polarity_carries_no_gradient_and_the_teacher_none_either() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    teacher = torch.full((1, 1, 3), 1.0, requires_grad=True)
    result = gated_loss(student, teacher, student == 0, torch.ones(1), torch.ones(1, 1), PAPER, num_examples=1)
    result.loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    # Three equal tokens share the slope at 1 between them.
    assert student.grad.tolist() == [pytest.approx([-0.377540669 / 3] * 3)]
    for value in (result.diagnostics.delta_BKT, result.diagnostics.gate_BKT, result.diagnostics.support_BK):
        assert not value.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["bounded", "quadratic"])
def test_huge_disagreement_is_finite(dtype: torch.dtype, kind: str) -> None:
    deltas = torch.tensor([[1e4, -1e4, 50.0, -50.0, 1e-30, 0.0]], dtype=dtype)
    student = torch.zeros_like(deltas, requires_grad=True)
    s = GatedSettings(gate=kind, eps=0.0, polarity="off")
    result = gated_loss(student, deltas[None], deltas == deltas, torch.ones(1), torch.ones(1, 1), s, num_examples=1)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert torch.isfinite(student.grad).all()
    assert student.grad[0, 5] == 0
    if kind == "bounded":
        assert student.grad[0, :4].tolist() == [0, 0, 0, 0]
        assert result.loss.item() == pytest.approx(4 * math.log(2) / 6)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 4),
    K=st.integers(0, 4),
    T=st.integers(0, 5),
    seed=st.integers(0, 10**6),
    s=st.sampled_from(VARIANTS),
)
def test_any_shape_equals_the_restatement(B: int, K: int, T: int, seed: int, s: GatedSettings) -> None:
    batch = make_batch(seed, B, K, T)
    result, gradient = run(batch, s, n=B + 1)
    loss, expected = restated(batch, s, B + 1)
    assert result.loss.item() == pytest.approx(loss, abs=1e-10)
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-10)
    assert result.diagnostics.delta_BKT.shape == (B, K, T)


# ---- local support ---------------------------------------------------------------------------------------------------


def make_local_batch(seed: int, B: int = 4, K: int = 3, T: int = 5, n: int = 4, V: int = 11) -> dict[str, np.ndarray]:
    """Full-vocabulary logits, the teachers' top-n, and the sampled token (often in it)."""
    rng = np.random.default_rng(seed)
    student = rng.normal(0, 2, (B, T, V))
    teacher = student[:, None] + rng.normal(0, 1.5, (B, K, T, V))
    sampled = rng.integers(0, V, (B, T))
    ids = np.concatenate(
        [np.argsort(-teacher, -1)[..., :n], np.broadcast_to(sampled[:, None, :, None], (B, K, T, 1))], -1
    )
    batch = make_batch(seed, B, K, T)
    return {"student_full": student, "teacher_full": teacher, "ids": ids, **batch}


def restated_local(batch: dict[str, np.ndarray], s: GatedSettings, N: int) -> tuple[float, np.ndarray]:
    """Loss and its gradient in the student's full-vocabulary logits [B, T, V]: dKL/dz = q - p on the support."""
    student, teacher, weight = batch["student_full"], batch["teacher_full"], batch["weight"]
    loss, gradient = 0.0, np.zeros_like(student)
    for b in range(len(student)):
        tokens = [t for t in range(student.shape[1]) if batch["mask"][b, t]]
        for k in range(weight.shape[1]):
            if weight[b, k] == 0 or not tokens:
                continue
            deltas, kls, slopes = [], [], []
            for t in tokens:
                chosen = int(batch["ids"][b, k, t, -1])
                support = sorted({int(i) for i in batch["ids"][b, k, t]})
                p = np.exp(teacher[b, k, t, support])
                p /= p.sum()
                q = np.exp(student[b, t, support])
                q /= q.sum()
                here = support.index(chosen)
                deltas.append(math.log(p[here]) - math.log(q[here]))
                kls.append(float((p * np.log(p / q)).sum()))
                slopes.append((support, q - p))
            rho = restated_polarity(deltas, [0.0] * len(deltas), int(batch["outcome"][b]), s)
            for t, kl, (support, kl_slope) in zip(tokens, kls, slopes, strict=True):
                value, slope = restated_gate(kl, s)
                loss += weight[b, k] * rho * value / len(tokens) / N
                gradient[b, t, support] += weight[b, k] * rho * slope * kl_slope / len(tokens) / N
    return loss, gradient


@pytest.mark.parametrize("s", [PAPER, GatedSettings(gate="quadratic"), GatedSettings(polarity="off", tau=0.3)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_local_support_equals_the_restatement(s: GatedSettings, seed: int) -> None:
    batch = make_local_batch(seed)
    t = {name: torch.from_numpy(value.copy()) for name, value in batch.items()}
    student = t["student_full"].requires_grad_()
    support = local_support_mask(t["ids"])
    assert 0 < (~support).sum() < support.sum()  # duplicates do occur
    result = gated_local_loss(
        student[:, None].expand_as(t["teacher_full"]).gather(-1, t["ids"]),
        t["teacher_full"].log_softmax(-1).gather(-1, t["ids"]),  # log-probs serve as well as logits
        support,
        t["mask"],
        t["outcome"],
        t["weight"],
        s,
        num_examples=6,
    )
    (gradient,) = torch.autograd.grad(result.loss, student)
    loss, expected = restated_local(batch, s, 6)
    assert result.loss.item() == pytest.approx(loss, abs=1e-12)
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-12)
    assert np.abs(expected).max() > 1e-3


def test_local_support_counts_the_sampled_token_once() -> None:
    # Top-2 = {7, 3} and the sampled token is 3: S = {7, 3}, teacher (3/4, 1/4), student (1/2, 1/2).
    # delta = log(1/4) - log(1/2) = -log 2; KL = 3/4 log(3/2) + 1/4 log(1/2) = 0.130812036.
    # r = -1 and support -0.69 suppresses a failure: rho = +1; l(KL) = log 2 - log(1 + e^(-KL^2/2)) = 0.0042686
    ids = torch.tensor([[[[7, 3, 3]]]])
    assert local_support_mask(ids).tolist() == [[[[True, False, True]]]]
    teacher = torch.tensor([[[[0.75, 0.25, 0.25]]]], dtype=torch.float64).log()
    student = torch.tensor([[[[0.5, 0.5, 0.5]]]], dtype=torch.float64).log()
    one = torch.ones(1, 1)
    result = gated_local_loss(student, teacher, local_support_mask(ids), one, -one[0], one, PAPER, num_examples=1)
    assert result.diagnostics.delta_BKT.item() == pytest.approx(-math.log(2))
    assert result.diagnostics.polarity_BK.item() == 1
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert result.loss.item() == pytest.approx(math.log(2) - math.log1p(math.exp(-kl * kl / 2)), abs=1e-15)
    assert result.loss.item() == pytest.approx(0.0042686, abs=1e-6)


def test_local_support_of_agreeing_teachers_teaches_nothing_and_padding_is_not_read() -> None:
    logits = torch.randn(1, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    student = logits.clone()
    student[0, 0, 2] = torch.nan  # a token out of the mask
    student.requires_grad_()
    mask = torch.tensor([[True, True, False]])
    whole = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    s = GatedSettings(polarity="off")
    result = gated_local_loss(student, logits, whole, mask, torch.ones(1), torch.ones(1, 1), s, num_examples=1)
    (gradient,) = torch.autograd.grad(result.loss, student)
    assert result.loss.item() == 0
    assert gradient.abs().max() == 0


# ---- wrong input -----------------------------------------------------------------------------------------------------


def test_wrong_shapes_and_settings_are_refused() -> None:
    student, teacher = torch.zeros(2, 3), torch.zeros(2, 1, 3)
    mask, outcome, weight = student == 0, torch.ones(2), torch.ones(2, 1)
    cases = [
        ((torch.zeros(2, 1), teacher, mask, outcome, weight), "student_logp_BT"),
        ((student, student, mask, outcome, weight), "teacher_logp_BKT"),
        ((student, teacher, mask[:1], outcome, weight), "mask_BT"),
        ((student, teacher, mask, outcome[:1], weight), "outcome_B"),
        ((student, teacher, mask, outcome, weight[:, 0]), "weight_BK"),
    ]
    for arguments, name in cases:
        with pytest.raises(ValueError, match=name):
            gated_loss(*arguments, PAPER, num_examples=2)
    with pytest.raises(ValueError, match="num_examples = 0"):
        gated_loss(student, teacher, mask, outcome, weight, PAPER, num_examples=0)
    placebo = GatedSettings(support_baseline="placebo")
    with pytest.raises(ValueError, match="none was given"):
        gated_loss(student, teacher, mask, outcome, weight, placebo, num_examples=2)
    with pytest.raises(ValueError, match="one was given"):
        gated_loss(student, teacher, mask, outcome, weight, PAPER, num_examples=2, placebo_logp_BT=student)
    with pytest.raises(ValueError, match=r"tau = 0\.0"):
        GatedSettings(tau=0.0)
