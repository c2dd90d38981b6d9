"""What the usage ledger says of entries: against plain loops, by hand, and on ledgers whose truth is known."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from skillbank.errors import InvalidOption
from skillbank.records import Outcome
from skillbank.store import Bank, UsageRow
from skillbank.usage import Estimate, estimates
from skillbank.usage.clusters import Clusters, bounded_mean, correlation, mean

Z = 1.959963984540054


def row(
    skill_id: int,
    mistake_id: int,
    polarity: int,
    *,
    problem: str = "p",
    step: int = 1,
    run: str = "r",
    outcome: Outcome = "correct",
    support: float = 0.5,
    placebo: bool = False,
) -> UsageRow:
    return UsageRow(
        run=run, step=step, problem_id=problem, outcome=outcome, skill_id=skill_id, mistake_id=mistake_id,
        support=support, polarity=polarity, gate_mass=0.2, weight=0.5, revision=1, placebo=placebo,
    )  # fmt: skip


def random_rows(seed: int, count: int = 400, skills: Sequence[int] = (1, 4, 7)) -> list[UsageRow]:
    """Teachers at random on 30 problems and 40 steps of two runs, a third of the rollouts with a placebo."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count // 4):
        outcome: Outcome = rng.choice(("correct", "correct", "wrong", "unverifiable"))
        place = {"problem": f"p{rng.randrange(30)}", "step": rng.randrange(1, 41), "run": rng.choice("ab")}
        for _ in range(4):
            support = rng.gauss(0, 0.2)
            sign = {"correct": 1, "wrong": -1, "unverifiable": 0}[outcome]
            polarity = 0 if abs(support) < 0.05 else round(sign * math.copysign(1, support))
            skill, mistake = rng.choice(skills), rng.choice((2, 5, 8))
            rows.append(row(skill, mistake, polarity, outcome=outcome, support=support, **place))  # type: ignore[arg-type]
        if rng.random() < 0.3:
            rows.append(row(0, 0, rng.choice((-1, 0, 1)), outcome=outcome, support=0.1, placebo=True, **place))  # type: ignore[arg-type]
    return rows


def by_id(bank: Bank, **how: object) -> dict[int, Estimate]:
    return {one.entry_id: one for one in estimates(bank, **how) if one.entry_id is not None}  # type: ignore[arg-type]


def restated(rows: Iterable[UsageRow], mine: Iterable[UsageRow], half_life: float | None) -> dict[str, float]:
    """The formulas of docs/usage.md in plain loops, of the teachers' rows `mine` among all rows of the ledger."""
    rows = list(rows)
    last: dict[str, int] = defaultdict(int)
    neutral: dict[tuple[str, int, str], list[UsageRow]] = defaultdict(list)
    for one in rows:
        last[one.run] = max(last[one.run], one.step)
        if one.placebo:
            neutral[one.run, one.step, one.problem_id].append(one)
    sign = {"correct": 1, "wrong": -1, "unverifiable": 0}
    W, X = defaultdict(float), defaultdict(float)
    judged: list[tuple[str, float, float, int]] = []
    beyond: list[tuple[str, float, float]] = []
    for one in mine:
        w = 1.0 if half_life is None else 0.5 ** ((last[one.run] - one.step) / half_life)
        W[one.problem_id] += w
        X[one.problem_id] += w * one.polarity
        r = sign[one.outcome]
        if r:
            judged.append((one.problem_id, w, one.support, r))
        if placebos := neutral[one.run, one.step, one.problem_id]:
            other = sum(p.support for p in placebos) / len(placebos)
            beyond.append((one.problem_id, w, r * (one.support - other)))
    total, total_X = sum(W.values()), sum(X.values())
    typical = sum(w * w for w in W.values()) / total
    centre = total_X / (total + 2 * typical)
    squares = sum((X[p] - centre * W[p]) ** 2 for p in W) + 2 * typical**2 * (1 + centre**2)
    half = Z * math.sqrt(squares) / (total + 2 * typical)
    weight = sum(w for _, w, _, _ in judged)
    mean_s = sum(w * s for _, w, s, _ in judged) / weight
    mean_r = sum(w * r for _, w, _, r in judged) / weight
    shares: dict[str, float] = defaultdict(float)
    for problem, w, s, r in judged:
        shares[problem] += w * (s - mean_s) * (r - mean_r)
    var_s = sum(w * (s - mean_s) ** 2 for _, w, s, _ in judged)
    var_r = sum(w * (r - mean_r) ** 2 for _, w, _, r in judged)
    return {
        "utility": total_X / total,
        "low": max(-1, centre - half),
        "high": min(1, centre + half),
        "correlation": sum(shares.values()) / math.sqrt(var_s * var_r),
        "z": sum(shares.values()) / math.sqrt(sum(share**2 for share in shares.values())),
        "benefit": sum(w * x for _, w, x in beyond) / sum(w for _, w, _ in beyond),
        "matched": len(beyond),
        "problems": len(W),
    }


def told(one: Estimate) -> dict[str, float]:
    assert one.correlation is not None
    assert one.placebo is not None
    return {
        "utility": one.utility,
        "low": one.low,
        "high": one.high,
        "correlation": one.correlation.value,
        "z": one.correlation.z,
        "benefit": one.placebo.support.value,
        "matched": one.placebo.uses,
        "problems": one.problems,
    }


# ------------------------------------------------------------------------------------------------------- what it is


@pytest.mark.parametrize("half_life", [None, 7.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_estimates_are_the_formulas(bank: Bank, seed: int, half_life: float | None) -> None:
    rows = random_rows(seed)
    bank.record_usage(rows)
    teachers = [one for one in rows if not one.placebo]
    found = by_id(bank, half_life_steps=half_life)
    assert set(found) == {1, 2, 3, 4, 5, 6, 7, 8, 9}  # of the pair entries those whose two sides taught together
    for entry_id, one in found.items():
        sides = {1: (entry_id, None), 2: (None, entry_id), 0: (entry_id - 2, entry_id - 1)}[entry_id % 3]
        mine = [u for u in teachers if sides[0] in (None, u.skill_id) and sides[1] in (None, u.mistake_id)]
        assert told(one) == pytest.approx(restated(rows, mine, half_life), rel=1e-9, abs=1e-12)
        assert (one.uses, one.helpful, one.harmful) == (
            len(mine), sum(u.polarity > 0 for u in mine), sum(u.polarity < 0 for u in mine),
        )  # fmt: skip
        assert one.uses == one.helpful + one.harmful + one.neutral
    pairs = list(estimates(bank, of="pair", half_life_steps=half_life))
    assert [(one.skill_id, one.mistake_id) for one in pairs] == [(s, m) for s in (1, 4, 7) for m in (2, 5, 8)]
    assert [one.entry_id for one in pairs] == [3, None, None, None, 6, None, None, None, 9]
    for one in pairs:
        mine = [u for u in teachers if (u.skill_id, u.mistake_id) == (one.skill_id, one.mistake_id)]
        assert told(one) == pytest.approx(restated(rows, mine, half_life), rel=1e-9, abs=1e-12)


def test_of_some_entries_and_of_one_run(bank: Bank) -> None:
    rows = random_rows(3)
    bank.record_usage(rows)
    whole = by_id(bank)
    some = by_id(bank, ids=[4, 9])
    assert set(some) == {4, 9}
    (pair,) = estimates(bank, of="pair", ids=[9])
    for one in (*some.values(), pair):
        assert one.entry_id is not None
        expected = whole[one.entry_id]
        assert told(one) == pytest.approx(told(expected))
        assert (one.kind, one.uses, one.age_steps) == (expected.kind, expected.uses, expected.age_steps)
    only = [one for one in rows if one.run == "a"]
    assert told(by_id(bank, run="a")[4]) == pytest.approx(
        restated(only, [one for one in only if one.skill_id == 4 and not one.placebo], None)
    )
    assert list(estimates(bank, run="never")) == []


def test_an_empty_ledger_and_bounds_of_the_options(bank: Bank) -> None:
    assert list(estimates(bank)) == list(estimates(bank, of="pair")) == list(estimates(bank, ids=[1])) == []
    with pytest.raises(InvalidOption, match="level 95 is not between 0 and 1"):
        estimates(bank, level=95)
    with pytest.raises(InvalidOption, match="half-life 0 is not above 0 steps"):
        estimates(bank, half_life_steps=0)


def test_a_survivor_has_the_uses_of_those_it_stands_for(bank: Bank) -> None:
    bank.record_usage([row(1, 2, 1), row(4, 2, -1, problem="q"), row(4, 5, 1, problem="s")])
    with bank.change(actor="me", reason="same") as change:
        change.supersede(4, by=1)
    found = by_id(bank)
    assert (found[1].uses, found[1].helpful, found[1].harmful, found[1].problems) == (3, 2, 1, 3)
    assert 4 not in found
    assert (found[3].uses, found[2].uses, found[5].uses) == (2, 2, 1)
    assert by_id(bank, ids=[1])[1] == found[1]


def test_age_is_counted_within_a_run(bank: Bank) -> None:
    bank.record_usage(
        [row(1, 2, 1, step=3), row(1, 5, 1, step=9), row(4, 5, 1, step=10), row(1, 5, 1, run="other", step=500)]
    )
    found = by_id(bank)
    assert (found[1].age_steps, found[1].idle_steps) == (7, 0)
    assert (found[2].age_steps, found[2].idle_steps) == (7, 7)
    assert found[4].age_steps == 0
    # 2^-7 / 2^-1 ... : three of the four uses are helpful; the harmful one, twenty half-lives old, hardly counts
    bank.record_usage([row(7, 8, -1, run="late", step=1, problem="a"), row(7, 8, 1, run="late", step=41, problem="b")])
    assert by_id(bank, half_life_steps=2)[7].utility == pytest.approx((1 - 2**-20) / (1 + 2**-20))


def test_what_never_varies_has_no_correlation(bank: Bank) -> None:
    bank.record_usage([row(1, 2, 1, problem=p, support=0.1) for p in "abc"])
    bank.record_usage([row(4, 5, 1, problem=p, support=s) for p, s in (("a", 0.1), ("b", 0.2))])
    bank.record_usage([row(7, 8, 0, problem=p, outcome="unverifiable", support=s) for p, s in (("a", 0.1), ("b", 1))])
    assert [one.correlation for one in estimates(bank)] == [None] * 9
    assert [one.placebo for one in estimates(bank)] == [None] * 9


# --------------------------------------------------------------------------------------- intervals, and what they hold


def clusters_of(sizes: Sequence[int]) -> Clusters:
    problem_N = np.repeat(np.arange(len(sizes)), sizes)
    return Clusters.of(np.zeros(len(problem_N), dtype=np.int64), problem_N)


@pytest.mark.parametrize(("helpful", "harmful", "neutral"), [(3, 0, 0), (5, 2, 4), (0, 0, 7), (1, 9, 0)])
def test_independent_rows_have_the_interval_of_bonett_and_price(helpful: int, harmful: int, neutral: int) -> None:
    n = helpful + harmful + neutral
    value_N = np.repeat([1.0, -1.0, 0.0], [helpful, harmful, neutral])
    _, low, high = bounded_mean(clusters_of([1] * n), np.ones(n), value_N, 0.95)
    p, q = (helpful + 1) / (n + 2), (harmful + 1) / (n + 2)
    half = Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    assert low[0] == pytest.approx(max(-1, p - q - half))
    assert high[0] == pytest.approx(min(1, p - q + half))


def test_the_same_problem_again_proves_nothing_more() -> None:
    values = np.array([1.0, -1.0, 1.0, 1.0, 0.0])
    once = bounded_mean(clusters_of([1] * 5), np.ones(5), values, 0.95)
    often = bounded_mean(clusters_of([20] * 5), np.ones(100), np.repeat(values, 20), 0.95)
    assert np.concatenate(often) == pytest.approx(np.concatenate(once))
    x, y = np.array([0.1, -0.3, 0.2, 0.4, -0.1]), np.array([1.0, -1.0, 1.0, -1.0, -1.0])
    once_2 = correlation(clusters_of([1] * 5), np.ones(5), x, y)
    often_2 = correlation(clusters_of([20] * 5), np.ones(100), np.repeat(x, 20), np.repeat(y, 20))
    assert np.concatenate(often_2) == pytest.approx(np.concatenate(once_2))
    assert once_2[0][0] == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_a_mean_without_bounds_is_students_where_rows_are_alone() -> None:
    values = np.array([0.3, 0.1, -0.2, 0.6])
    value, low, high = mean(clusters_of([1] * 4), np.ones(4), values, 0.95)
    half = 3.182446305284263 * values.std(ddof=1) / 2  # t with 3 degrees of freedom
    assert (value[0], low[0], high[0]) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))
    assert all(np.isnan(bound[0]) for bound in mean(clusters_of([4]), np.ones(4), values, 0.95)[1:])


@pytest.mark.parametrize(
    ("problems", "rows", "likeness", "shares"),
    [
        pytest.param(4, 1, 0.0, (0.2, 0.1), id="few problems"),
        pytest.param(15, 1, 0.0, (0.05, 0.6), id="one row a problem"),
        pytest.param(15, 6, 0.6, (0.3, 0.3), id="rows of a problem alike"),
        pytest.param(60, 3, 0.6, (0.02, 0.7), id="many problems, mostly harmful"),
    ],
)
@pytest.mark.parametrize("half_life", [None, 20.0])
def test_intervals_hold_the_truth_as_often_as_they_say(
    problems: int, rows: int, likeness: float, shares: tuple[float, float], half_life: float | None
) -> None:
    """2,000 entries of known utility; a problem's rows share their value with probability `likeness`."""
    rng, entries = np.random.default_rng(problems + rows), 2000
    shape = (entries, problems, rows)
    probabilities = (*shares, 1 - sum(shares))
    own, common = (rng.choice([1.0, -1.0, 0.0], size=size, p=probabilities) for size in (shape, (*shape[:2], 1)))
    value = np.where(rng.random((*shape[:2], 1)) < likeness, common, own).ravel()
    age = rng.integers(0, 60, size=shape).ravel()
    entry_N, problem_N = (axis.ravel() for axis in np.indices(shape)[:2])
    weight_N = np.ones(len(value)) if half_life is None else 0.5 ** (age / half_life)
    _, low, high = bounded_mean(Clusters.of(entry_N, problem_N), weight_N, value, 0.95)
    truth = shares[0] - shares[1]
    assert np.mean((low <= truth) & (truth <= high)) >= 0.93
    naive = np.abs(value.reshape(entries, -1).mean(axis=1) - truth) <= Z * value.reshape(entries, -1).std(axis=1) / (
        math.sqrt(problems * rows)
    )
    if likeness and half_life is None:
        assert np.mean(naive) < 0.9  # what rows taken for independent would come to


def test_z_is_standard_normal_where_nothing_is_correlated() -> None:
    rng, entries, problems, rows = np.random.default_rng(5), 2000, 40, 4
    shape = (entries, problems, rows)
    difficulty = rng.normal(size=(entries, problems, 1))  # moves the outcomes of a problem together
    outcome = np.where(rng.normal(size=shape) + 2 * difficulty > 0, 1.0, -1.0).ravel()
    support = (rng.normal(size=shape) + rng.normal(size=(entries, problems, 1))).ravel()
    entry_N, problem_N = (axis.ravel() for axis in np.indices(shape)[:2])
    _, z_E = correlation(Clusters.of(entry_N, problem_N), np.ones(len(support)), support, outcome)
    assert abs(z_E.mean()) < 0.1
    assert z_E.std() == pytest.approx(1, abs=0.06)
    assert np.mean(np.abs(z_E) > Z) == pytest.approx(0.05, abs=0.02)


# ----------------------------------------------------------------------------------------------- ledgers of known truth


def simulated(bank: Bank, steps: int, seed: int = 0) -> None:
    """Skill 1 and mistake 2 know the task, 4 and 5 mislead, 7 and 8 are about something else: what they say of a
    rollout is noise. Supports are biased downwards, as they are where the student samples itself."""
    rng = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        for _ in range(4):
            r = 1 if rng.random() < 0.4 else -1
            outcome: Outcome = "correct" if r > 0 else "wrong"
            place = {"problem": f"p{rng.randrange(200)}", "step": step, "outcome": outcome}
            for skill, mistake, lean in ((1, 2, 0.12), (4, 5, -0.12), (7, 8, 0.0)):
                s = lean * r + rng.gauss(-0.02, 0.15)
                polarity = 0 if abs(s) <= 0.05 else round(r * math.copysign(1, s))
                rows.append(row(skill, mistake, polarity, support=s, **place))  # type: ignore[arg-type]
            if rng.random() < 0.3:
                rows.append(row(0, 0, 0, support=rng.gauss(-0.02, 0.03), placebo=True, **place))  # type: ignore[arg-type]
    bank.record_usage(rows)


def test_helpful_harmful_and_irrelevant_are_told_apart(tmp_path: Path, bank: Bank) -> None:
    simulated(bank, steps=60)
    found = by_id(bank)
    for right, wrong, beside in ((1, 4, 7), (2, 5, 8), (3, 6, 9)):
        assert found[right].low > 0 > found[wrong].high
        for bad, sign in ((found[right], 1), (found[wrong], -1)):
            assert bad.correlation is not None
            assert bad.placebo is not None
            assert sign * bad.correlation.z > 5
            assert sign * bad.placebo.support.value == pytest.approx(0.12, abs=0.05)
            assert (bad.placebo.support.low > 0) if sign > 0 else (bad.placebo.support.high < 0)
        neither = found[beside].correlation
        assert neither is not None
        assert abs(neither.z) < 3
        assert abs(found[beside].utility) < 0.25
