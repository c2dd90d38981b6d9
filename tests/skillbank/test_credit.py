"""Credit: what an entry did on its own. Against dense equations, by hand, and on ledgers whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from skillbank.records import Outcome
from skillbank.store import Bank, UsageRow
from skillbank.usage import Credit, KeepRule, credit, estimates
from skillbank.usage.credit import Fit, Observations, credits, fit
from skillbank.usage.ledger import LedgerRows

from .test_usage import row

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def rows_of(skill_N: Ints, mistake_N: Ints, problem_N: Ints, support_N: Floats, outcome_N: Floats) -> LedgerRows:
    nothing_N = np.zeros(len(skill_N))
    return LedgerRows(
        skill_N=skill_N, mistake_N=mistake_N, problem_N=problem_N, outcome_N=outcome_N, support_N=support_N,
        polarity_N=nothing_N, gate_mass_N=nothing_N, age_N=nothing_N.astype(np.int64),
        placebo_support_N=nothing_N, placebo_polarity_N=nothing_N,
    )  # fmt: skip


class Made:
    """A ledger of pools of eight over entries whose effects are known: skills 0, 1, ..., mistakes 1000, 1001, ..."""

    def __init__(
        self, seed: int, *, skills: int = 30, mistakes: int = 40, pools: int = 120, noise: float = 0.15
    ) -> None:
        rng = np.random.default_rng(seed)
        outcome_G = np.where(rng.random(pools) < 0.4, 1.0, -1.0)
        drawn = [rng.permutation(n)[:8] for n in [skills, mistakes] * pools]
        self.skill_N, self.mistake_N = np.concatenate(drawn[::2]), 1000 + np.concatenate(drawn[1::2])
        self.problem_N = np.repeat(np.arange(pools), 8)
        self.outcome_N = np.repeat(outcome_G, 8)
        effect_2E = rng.normal(0, 0.08, (2, skills)), rng.normal(0, 0.05, (2, mistakes))
        self.credit: dict[int, float] = {}
        for first, (right, wrong) in zip((0, 1000), effect_2E, strict=True):
            credit = (right - wrong) / 2
            self.credit |= dict(enumerate((credit - credit.mean()).tolist(), first))
        side_N = (self.outcome_N < 0).astype(int)
        self.support_N = (
            np.where(side_N, -0.12, -0.05) + effect_2E[0][side_N, self.skill_N]
            + effect_2E[1][side_N, self.mistake_N - 1000] + rng.normal(0, 0.1, pools)[self.problem_N]
            + rng.normal(0, noise, 8 * pools)
        )  # fmt: skip

    @property
    def rows(self) -> LedgerRows:
        return rows_of(self.skill_N, self.mistake_N, self.problem_N, self.support_N, self.outcome_N)


def observed(made: Made, outcome: int, weight_N: Floats) -> Observations:
    at_N = np.flatnonzero(made.outcome_N == outcome)
    return Observations.of(made.rows.at(at_N), weight_N[at_N], np.unique(made.skill_N), np.unique(made.mistake_N))


# ------------------------------------------------------------------------------------------------------- what it is


class Dense:
    """The same model with every effect written out, problems too, for given variances."""

    def __init__(self, made: Made, outcome: int, weight_N: Floats) -> None:
        at_N = made.outcome_N == outcome
        columns = (made.skill_N, made.mistake_N, made.problem_N)
        self.Z = np.concatenate([(names[at_N, None] == np.unique(names)).astype(float) for names in columns], axis=1)
        self.sizes = [len(np.unique(names)) for names in columns]
        self.y, self.w = made.support_N[at_N], weight_N[at_N]

    def adjusted_likelihood(self, variances: Sequence[float]) -> float:
        """Logarithm of the restricted likelihood times the variances of skills and of mistakes."""
        *effects, noise = variances
        V = self.Z @ np.diag(np.repeat(effects, self.sizes)) @ self.Z.T + np.diag(noise / self.w)
        whole = np.linalg.inv(V)
        level = whole.sum(axis=0) @ self.y / whole.sum()
        rest = self.y - level
        likelihood = -0.5 * (np.linalg.slogdet(V)[1] + np.log(whole.sum()) + rest @ whole @ rest)
        return float(likelihood + np.log(effects[0]) + np.log(effects[1]))

    def predictions(self, variances: Sequence[float]) -> tuple[Floats, Floats]:
        """Skills and mistakes, each less the mean of its kind, and the variances of that. Least squares in which each
        effect is an observation of 0 as well, and what is uncertain in the prior."""
        found, covariance = self._squares(variances)
        effects, added = [], []
        for which, at in enumerate((slice(0, self.sizes[0]), slice(self.sizes[0], sum(self.sizes[:2])))):
            n = self.sizes[which]
            contrast = np.eye(n) - np.full((n, n), 1 / n)
            effects.append(contrast @ found[at])
            determined = 1 - covariance[at, at].diagonal() / variances[which]
            slope = found[at] * (1 - determined) / variances[which]
            of_prior = 2 * variances[which] ** 2 / np.sum(determined**2)
            added.append((contrast @ covariance[at, at] @ contrast.T).diagonal() + slope**2 * of_prior)
        return np.concatenate(effects), np.concatenate(added)

    def _squares(self, variances: Sequence[float]) -> tuple[Floats, Floats]:
        *effects, noise = variances
        prior = np.sqrt(1 / np.repeat(effects, self.sizes))
        X = np.c_[self.Z, np.ones(len(self.y))]
        scale = np.sqrt(self.w / noise)
        stacked = np.r_[X * scale[:, None], np.c_[np.diag(prior), np.zeros(len(prior))]]
        found = np.linalg.lstsq(stacked, np.r_[self.y * scale, np.zeros(len(prior))], rcond=None)[0]
        return found, np.linalg.inv(stacked.T @ stacked)


def variances(found: Fit) -> list[float]:
    return [found.skill, found.mistake, found.problem, found.noise]


@pytest.mark.parametrize("outcome", [1, -1])
@pytest.mark.parametrize("weighted", [False, True])
def test_effects_are_those_of_the_model_written_out(outcome: int, weighted: bool) -> None:
    made = Made(3, skills=12, mistakes=14, pools=60)
    weight_N = 0.5 ** (np.arange(60) / 20)[made.problem_N] if weighted else np.ones(480)
    found = fit(observed(made, outcome, weight_N))
    effect_E, variance_E = Dense(made, outcome, weight_N).predictions(variances(found))
    assert found.effect_E == pytest.approx(effect_E, rel=1e-7, abs=1e-10)
    assert found.variance_E == pytest.approx(variance_E, rel=1e-7)


@pytest.mark.parametrize("weighted", [False, True])
def test_variances_maximise_the_adjusted_likelihood(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credit, "TOLERANCE", 1e-5)
    made = Made(4, skills=12, mistakes=14, pools=60)
    weight_N = 0.5 ** (np.arange(60) / 20)[made.problem_N] if weighted else np.ones(480)
    found = variances(fit(observed(made, -1, weight_N)))
    dense = Dense(made, -1, weight_N)
    best = dense.adjusted_likelihood(found)
    for which in range(4):
        for factor in (0.9, 1.1):
            other = [v * factor if i == which else v for i, v in enumerate(found)]
            assert dense.adjusted_likelihood(other) < best


def test_variances_are_those_of_evenly_spread_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    made, weight_N = Made(8, skills=12, mistakes=14, pools=160), np.ones(1280)
    seen = observed(made, -1, weight_N)
    problems = int(seen.problem_O.max()) + 1
    monkeypatch.setattr(credit, "ENOUGH_PROBLEMS", problems // 3)
    found = fit(seen)
    some_N = np.isin(made.problem_N, np.unique(made.problem_N[made.outcome_N < 0])[::4])
    theirs = Observations.of(
        made.rows.at(np.flatnonzero(some_N)), np.ones(some_N.sum()), np.arange(12), np.unique(made.mistake_N)
    )
    assert variances(found) == pytest.approx(variances(fit(theirs)), rel=0.01)
    effect_E, variance_E = Dense(made, -1, weight_N).predictions(variances(found))  # but the effects are of them all
    assert found.effect_E == pytest.approx(effect_E, rel=1e-7, abs=1e-10)
    assert found.variance_E == pytest.approx(variance_E, rel=1e-7)


def test_five_skills_by_hand() -> None:
    """Balanced and one-way: five skills, two observations of each, one mistake. With S_b and S_w the sums of squares
    between skills and within, L = 2 v_skill + v and v the variance of an observation, the likelihood is
    -2 log L - S_b / 2L - 5/2 log v - S_w / 2v + log v_skill. It is highest at L = 32, v = 2 for the sums below, and a
    skill's mean less the level is drawn in by 1 - v / L = 15 / 16."""
    between, within = 2048 * (1 / 16 - 1 / 30), 8 * (5 / 4 + 1 / 30)
    mean_E = np.sqrt(between / 20) * np.arange(-2, 3)
    support_N = np.repeat(mean_E, 2) + np.sqrt(within / 10) * np.tile([-1, 1], 5)
    skill_E, nine_N = np.arange(1, 6), np.full(10, 9)
    one_way = rows_of(np.repeat(skill_E, 2), nine_N, np.arange(10), support_N, np.ones(10))
    found = fit(Observations.of(one_way, np.ones(10), skill_E, nine_N[:1]))
    assert found.effect_E == pytest.approx([*(mean_E * 15 / 16), 0.0], rel=0.005, abs=1e-9)
    assert found.skill == pytest.approx(15, rel=0.05)  # (32 - 2) / 2
    assert found.problem + found.noise == pytest.approx(2, rel=0.02)  # each observation is a problem of its own


def test_rows_of_a_pair_and_a_problem_are_one_observation() -> None:
    made, weights = Made(5), np.ones(960)
    once = credits(made.rows, weights, 0.9)
    again = credits(made.rows.at(np.repeat(np.arange(960), 7)), np.ones(7 * 960), 0.9)
    assert set(once) == set(made.credit)
    for entry_id, one in once.items():
        assert [one.value, one.low, one.high, one.z] == pytest.approx(list(again[entry_id].model_dump().values()))
        assert one.z == pytest.approx(1.6448536 * one.value / (one.high - one.value), rel=1e-6)


def test_the_order_of_rows_and_the_numbers_of_entries_say_nothing() -> None:
    made = Made(6)
    order = np.random.default_rng(0).permutation(960)
    renamed = rows_of(
        5000 - made.skill_N[order], 5000 + made.mistake_N[order], 119 - made.problem_N[order],
        made.support_N[order], made.outcome_N[order],
    )  # fmt: skip
    there, back = credits(made.rows, np.ones(960), 0.9), credits(renamed, np.ones(960), 0.9)
    for entry_id, one in there.items():
        assert one.value == pytest.approx(back[5000 - entry_id if entry_id < 1000 else 5000 + entry_id].value, abs=1e-9)


# --------------------------------------------------------------------------------------------------- whether it is true


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held: dict[str, list[bool]] = {"skill": [], "mistake": []}
    for seed in range(40):
        made = Made(seed)
        for entry_id, found in credits(made.rows, np.ones(960), 0.9).items():
            held["skill" if entry_id < 1000 else "mistake"].append(found.low <= made.credit[entry_id] <= found.high)
    # One standard error of 1,200 and of 1,600 nearly independent entries is below a point.
    assert {kind: float(np.mean(of_kind)) for kind, of_kind in held.items()} == pytest.approx(
        {"skill": 0.9, "mistake": 0.9}, abs=0.025
    )


def test_a_right_skill_is_known_among_misleading_mistakes() -> None:
    """Skills 0 to 4 are right and always beside a misleading mistake, 5 to 9 are nothing and beside right ones: the
    supports of their teachers rank them the wrong way round, their credit does not."""
    rng = np.random.default_rng(1)
    pools = 200
    skill_N = np.concatenate([rng.permutation(10)[:6] for _ in range(pools)])
    misleading_N = np.where(skill_N < 5, rng.random(6 * pools) < 0.85, rng.random(6 * pools) < 0.15)
    mistake_N = 1000 + np.where(misleading_N, 0, 6) + rng.integers(0, 6, 6 * pools)
    outcome_N = np.repeat(np.where(rng.random(pools) < 0.4, 1.0, -1.0), 6)
    support_N = outcome_N * (0.08 * (skill_N < 5) - 0.2 * misleading_N) + rng.normal(0, 0.07, 6 * pools)
    made = rows_of(skill_N, mistake_N, np.repeat(np.arange(pools), 6), support_N, outcome_N)
    together = [float(np.mean((outcome_N * support_N)[skill_N == i])) for i in range(10)]
    assert max(together[:5]) < min(together[5:])
    found = credits(made, np.ones(6 * pools), 0.95)
    assert min(found[i].low for i in range(5)) > max(found[i].high for i in range(5, 10))
    assert max(found[1000 + i].high for i in range(6)) < 0 < min(found[1006 + i].low for i in range(6))


def test_what_little_was_seen_of_is_drawn_to_nothing() -> None:
    made = Made(7)
    skill_N, support_N = made.skill_N.copy(), made.support_N.copy()
    skill_N[0], support_N[0] = 999, 0.5  # seen once, and loudly
    found = credits(rows_of(skill_N, made.mistake_N, made.problem_N, support_N, made.outcome_N), np.ones(960), 0.95)
    others = [one.high - one.low for i, one in found.items() if i < 999]
    assert found[999].high - found[999].low > max(others)
    assert 0 < abs(found[999].value) < 0.1


# ------------------------------------------------------------------------------------------------------- in the ledger


def taught(bank: Bank, outcomes: Sequence[Outcome] = ("correct", "wrong")) -> list[UsageRow]:
    """40 problems of three teachers each: skill 1 right, 4 misleading, 7 silent, beside mistakes in turn."""
    rng = np.random.default_rng(2)
    rows = []
    for problem in range(40):
        outcome = outcomes[problem % len(outcomes)]
        sign = 1 if outcome == "correct" else -1
        for skill, effect, mistake in zip((1, 4, 7), (0.2, -0.2, 0.0), rng.permutation([2, 5, 8]), strict=True):
            support = sign * effect + float(rng.normal(0, 0.05))
            rows.append(row(skill, int(mistake), 0, problem=f"p{problem}", outcome=outcome, support=support))
    bank.record_usage(rows)
    return rows


def by_id(bank: Bank, **how: object) -> dict[int | None, Credit | None]:
    return {one.entry_id: one.credit for one in estimates(bank, credit=True, **how)}  # type: ignore[arg-type]


def test_estimates_carry_the_credit(bank: Bank) -> None:
    rows = taught(bank)
    found = by_id(bank)
    one, four, seven = (found[i] for i in (1, 4, 7))
    assert one is not None
    assert four is not None
    assert seven is not None
    assert one.low > seven.high > seven.low > four.high
    assert (one.value - four.value, one.value - seven.value) == pytest.approx((0.4, 0.2), abs=0.05)
    assert found[3] is None  # a pair is its two sides
    assert by_id(bank, ids=[4]) == {4: four}  # however many are asked about
    assert all(estimate.credit is None for estimate in estimates(bank))
    assert all(estimate.credit is None for estimate in estimates(bank, of="pair", credit=True))
    of_four = [r.support for r in rows if r.skill_id == 4 and r.outcome == "correct"]
    (four_as_well,) = [estimate for estimate in estimates(bank, ids=[4]) if estimate.entry_id == 4]
    assert four_as_well.support_right == pytest.approx(np.mean(of_four))


def test_rules_go_by_the_credit(bank: Bank) -> None:
    taught(bank)
    found = list(estimates(bank, credit=True))

    def fits(rule: str) -> list[int | None]:
        return [one.entry_id for one in found if one.kind == "skill" and KeepRule.parse(rule).fits(one)]

    assert fits("credit:<-0.1") == [4]
    assert fits("credit_z:>3") == [1]
    assert fits("credit_z:<1 support_right:<0") == [4] + [7] * (support_right(bank, 7) < 0)
    assert fits("support_right:>0.1") == [1]


def support_right(bank: Bank, entry_id: int) -> float:
    (found,) = [one.support_right for one in estimates(bank, ids=[entry_id]) if one.entry_id == entry_id]
    assert found is not None
    return found


@pytest.mark.parametrize("outcomes", [("correct",), ("wrong",), ("unverifiable",), ("correct", "unverifiable")])
def test_no_credit_without_both_outcomes(bank: Bank, outcomes: tuple[Outcome, ...]) -> None:
    taught(bank, outcomes)
    assert set(by_id(bank).values()) == {None}
    seen = {one.support_right is None for one in estimates(bank)}
    assert seen == {"correct" not in outcomes}


def test_no_credit_where_supports_never_vary(bank: Bank) -> None:
    bank.record_usage(
        row(1, 2, 1, problem=f"p{i}", outcome=outcome) for i in range(9) for outcome in ("correct", "wrong")
    )
    assert by_id(bank) == {1: None, 2: None, 3: None}


def test_no_credit_of_more_entries_than_can_be_taken_apart(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    taught(bank)
    monkeypatch.setattr(credit, "MAX_ENTRIES", 6)
    assert by_id(bank)[1] is not None
    monkeypatch.setattr(credit, "MAX_ENTRIES", 5)
    assert set(by_id(bank).values()) == {None}


def test_rows_too_old_to_count_are_left_out(bank: Bank) -> None:
    """With a half-life of a step, what lies two thousand steps back weighs less than can be told from nothing."""
    rows = taught(bank)
    bank.record_usage(one.model_copy(update={"step": 2000, "support": -one.support}) for one in rows)
    found = by_id(bank, half_life_steps=1.0)
    one, four = found[1], found[4]
    assert one is not None
    assert four is not None
    assert one.high < four.low


def test_a_ledger_of_nothing(bank: Bank) -> None:
    assert by_id(bank) == {}
