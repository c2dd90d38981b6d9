"""What an entry did on its own, though a teacher is always two: a skill and a mistake, beside others on one rollout.

A right skill that is shown beside misleading mistakes looks half misleading, and a hard problem makes all of its
teachers look alike. So supports are taken apart, on right solutions and on wrong ones separately, as

    support = level + skill + mistake + problem + noise

with normal effects whose variances are estimated from the same ledger: a linear mixed model with crossed effects, and
its best linear unbiased predictions (Henderson, Biometrics 1975). What little was seen of an entry is drawn towards the
others as much as its noise asks for. Variances maximise the restricted likelihood, by the fixed point in Harville (JASA
1977), times those of skills and of mistakes, which keeps these from 0, where intervals would vanish (Morris and Tang,
Statistical Science 2011). The *credit* of an entry is half of its effect on right solutions minus that on wrong ones.

All rows of a pair, a problem and an outcome are one observation, their weighted mean: a problem that is tried again and
again says much the same each time. Left out: that an entry may help on some problems and mislead on others; to the
model that is noise.

Suffixes: `_N` rows, `_O` observations, `_P` effects (of skills, then of mistakes, then the level), `_G` problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from skillbank.usage.estimate import Credit

if TYPE_CHECKING:
    from skillbank.usage.clusters import Floats, Ints
    from skillbank.usage.ledger import LedgerRows

MAX_ENTRIES = 2000
"""Skills and mistakes that are taken apart at once: the equations are a dense matrix of that order."""
ENOUGH_PROBLEMS = 2000
"""The variances are estimated from about so many problems, evenly spread; more make them hardly surer."""
TOLERANCE = 0.01
"""The fixed point has been reached when no variance changes by a larger share."""
MAX_ROUNDS = 100
SMALLEST = 1e-6
"""Of a row's weight, below which it is left out, and of a variance, as a share of that of the supports."""
LARGEST = 10.0
"""Of a variance, as a share of that of the supports: two or three entries say nothing of how much such ones differ."""


def credits(rows: LedgerRows, weight_N: Floats, level: float) -> dict[int, Credit]:
    """Of every skill and mistake that was used, by id; `weight_N` tells what a row counts.

    Empty when right and wrong solutions were not both seen with supports that vary, or when more than MAX_ENTRIES
    skills and mistakes were used; and without what was the only one of its kind.
    """
    skill_E, mistake_E = np.unique(rows.skill_N), np.unique(rows.mistake_N)
    if len(skill_E) + len(mistake_E) > MAX_ENTRIES:
        return {}
    sides = []
    for outcome in (1, -1):
        at_N = np.flatnonzero((rows.outcome_N == outcome) & (weight_N > SMALLEST))
        seen = Observations.of(rows.at(at_N), weight_N[at_N], skill_E, mistake_E)
        if seen.support_O.size < 2 or not np.ptp(seen.support_O):
            return {}
        with threadpool_limits(limits=1, user_api="blas"):  # on busy cores threads only wait for each other
            sides.append(fit(seen))
    right, wrong = sides
    value_E = (right.effect_E - wrong.effect_E) / 2
    deviation_E = np.sqrt(right.variance_E + wrong.variance_E) / 2
    half_E = NormalDist().inv_cdf((1 + level) / 2) * deviation_E
    entry_E = np.r_[skill_E, mistake_E]
    told_E = np.repeat([len(skill_E) > 1, len(mistake_E) > 1], [len(skill_E), len(mistake_E)])
    with np.errstate(invalid="ignore"):
        columns = (entry_E, value_E, value_E - half_E, value_E + half_E, value_E / deviation_E)
    return {
        entry_id: Credit(value=value, low=low, high=high, z=z)
        for entry_id, value, low, high, z in zip(*(column[told_E].tolist() for column in columns), strict=True)
    }


@dataclass(frozen=True)
class Observations:
    """What pairs said of one outcome of problems, the design of the model."""

    effects_OP: csr_array
    """1 where an observation has the effect."""
    problem_O: Ints
    """Numbered from 0."""
    support_O: Floats
    weight_O: Floats
    kinds: tuple[int, int]
    """How many skills and how many mistakes there are; the last effect is the level."""

    @classmethod
    def of(cls, rows: LedgerRows, weight_N: Floats, skill_E: Ints, mistake_E: Ints) -> Observations:
        """Rows of one outcome, and all skills and mistakes in order. An observation weighs as its average row."""
        skills, mistakes = len(skill_E), len(mistake_E)
        skill_N, mistake_N = np.searchsorted(skill_E, rows.skill_N), np.searchsorted(mistake_E, rows.mistake_N)
        key_O, place_N = np.unique((rows.problem_N * skills + skill_N) * mistakes + mistake_N, return_inverse=True)
        total_O = np.bincount(place_N, weights=weight_N)
        support_O = np.bincount(place_N, weights=weight_N * rows.support_N) / total_O
        pair_O, mistake_O = np.divmod(key_O, mistakes)
        problem_O, skill_O = np.divmod(pair_O, skills)
        count, last = len(key_O), skills + mistakes
        columns_O3 = np.stack([skill_O, skills + mistake_O, np.full(count, last)], axis=1)
        effects_OP = csr_array(
            (np.ones(3 * count), columns_O3.ravel(), np.arange(0, 3 * count + 1, 3)), shape=(count, last + 1)
        )
        problem_O = np.unique(problem_O, return_inverse=True)[1]
        return cls(effects_OP, problem_O, support_O, total_O / np.bincount(place_N), (skills, mistakes))

    @property
    def blocks(self) -> tuple[slice, slice]:
        """Where the effects of skills and those of mistakes are."""
        skills, mistakes = self.kinds
        return slice(0, skills), slice(skills, skills + mistakes)

    @property
    def spread(self) -> float:
        """Variance of the supports."""
        mean = np.average(self.support_O, weights=self.weight_O)
        return float(np.average((self.support_O - mean) ** 2, weights=self.weight_O))

    def of_some_problems(self) -> Observations:
        """Those of every second, third ... problem, of about ENOUGH_PROBLEMS."""
        apart = 1 + int(self.problem_O.max()) // ENOUGH_PROBLEMS
        at_O = np.flatnonzero(self.problem_O % apart == 0)
        return Observations(
            self.effects_OP[at_O], self.problem_O[at_O] // apart, self.support_O[at_O], self.weight_O[at_O], self.kinds
        )


@dataclass(frozen=True)
class Fit:
    """The model of one outcome."""

    effect_E: Floats
    """Of skills, then of mistakes, less the mean of all of the kind."""
    variance_E: Floats
    """Of what is predicted, around the truth."""
    skill: float
    """Variances of the effects of skills, of mistakes and of problems, and of an observation of weight 1."""
    mistake: float
    problem: float
    noise: float


def fit(seen: Observations) -> Fit:
    """Effects and variances."""
    spread = seen.spread
    variances = np.full(4, spread / 4)  # skill, mistake, problem, noise
    some = _Equations(seen.of_some_problems())
    for _ in range(MAX_ROUNDS):
        before, variances = variances, np.clip(some.improved(variances), SMALLEST * spread, LARGEST * spread)
        if np.all(np.abs(np.log(variances / before)) < TOLERANCE):
            break
    found = _Equations(seen).solved(variances)
    predicted = [
        _against_the_mean(found.effect_P[at], found.posterior_PP[at, at], variance)
        for at, variance in zip(seen.blocks, variances[:2], strict=True)
    ]
    effect_E, variance_E = (np.concatenate(parts) for parts in zip(*predicted, strict=True))
    return Fit(effect_E, variance_E, *(float(v) for v in variances))


@dataclass(frozen=True)
class _Solved:
    effect_P: Floats
    posterior_PP: Floats
    problem_G: Floats
    """Predicted effects of problems."""
    left_G: Floats
    """Their variances for given effects of entries."""
    absorbed_GP: csr_array


class _Equations:
    """Those of skills, mistakes and level alone, the problems absorbed: X'WX - sum k x x' over the weighted sums x of
    the problems' rows, with k = problem / (noise + problem * weight) of each."""

    def __init__(self, seen: Observations) -> None:
        self.seen = seen
        X, group_O = seen.effects_OP, seen.problem_O
        self.wy_O = seen.weight_O * seen.support_O
        weighted = X.multiply(seen.weight_O[:, None]).tocsr()
        count = len(group_O)
        member_GO = csr_array((np.ones(count), (group_O, np.arange(count))), shape=(int(group_O.max()) + 1, count))
        self.x_GP = (member_GO @ weighted).tocsr()
        self.y_G, self.weight_G = member_GO @ self.wy_O, member_GO @ seen.weight_O
        self.gram_PP, self.moment_P = (X.T @ weighted).toarray(), X.T @ self.wy_O

    def solved(self, variances: Floats) -> _Solved:
        skill, mistake, problem, noise = variances
        skills, mistakes = self.seen.kinds
        k_G = problem / (noise + problem * self.weight_G)
        absorbed_GP = self.x_GP.multiply(k_G[:, None]).tocsr()
        equations_PP = (self.gram_PP - (self.x_GP.T @ absorbed_GP).toarray()) / noise
        precision_P = np.r_[np.full(skills, 1 / skill), np.full(mistakes, 1 / mistake), 0.0]
        posterior_PP = _inverse(equations_PP + np.diag(precision_P))
        effect_P = posterior_PP @ (self.moment_P - absorbed_GP.T @ self.y_G) / noise
        return _Solved(
            effect_P, posterior_PP, k_G * (self.y_G - self.x_GP @ effect_P), k_G * noise, absorbed_GP
        )  # fmt: skip

    def improved(self, variances: Floats) -> list[float]:
        """The next round of the fixed point: sums of squares over the numbers of effects that the data determine."""
        seen, found = self.seen, self.solved(variances)
        posterior_P = found.posterior_PP.diagonal()
        better = []
        for at, variance in zip(seen.blocks, variances[:2].tolist(), strict=True):
            squares = float(found.effect_P[at] @ found.effect_P[at])
            better.append((squares + 2 * variance) / _determined(posterior_P[at], variance))
        # A problem's effect is uncertain in itself, and through those of the entries.
        through = float(np.sum(found.posterior_PP * (found.absorbed_GP.T @ found.absorbed_GP).toarray()))
        left_G = found.left_G + through / len(found.left_G)
        better.append(float(found.problem_G @ found.problem_G) / _determined(left_G, float(variances[2])))
        residual_O = seen.support_O - seen.effects_OP @ found.effect_P - found.problem_G[seen.problem_O]
        better.append(float(self.wy_O @ residual_O) / (len(residual_O) - 1))
        return better


def _against_the_mean(effect_E: Floats, posterior_EE: Floats, prior: float) -> tuple[Floats, Floats]:
    """Effects of a kind less their mean, as the level cannot be told from it, and the variances of that. What the
    prior's own uncertainty adds is of first order: the slope of a prediction in it, squared, times its variance (Kass
    and Steffey, JASA 1989). Without it the intervals of a hundred observations would be too narrow."""
    determined_E = 1 - posterior_EE.diagonal() / prior
    contrast_E = posterior_EE.diagonal() - 2 * posterior_EE.mean(axis=0) + posterior_EE.mean()
    added_E = 2 * (effect_E * (1 - determined_E)) ** 2 / max(float(determined_E @ determined_E), 1e-12)
    return effect_E - effect_E.mean(), contrast_E + added_E


def _determined(posterior: Floats, prior: float) -> float:
    """How many of some effects the data determine: their number less their variances' share that is left."""
    return max(float(np.sum(1 - posterior / prior)), 1e-9)


def _inverse(matrix: Floats) -> Floats:
    """Of a positive definite one."""
    factor, _ = dpotrf(matrix, lower=1, overwrite_a=1)
    inverse, _ = dpotri(factor, lower=1, overwrite_c=1)
    lower: Floats = np.tril(inverse)
    return lower + np.tril(lower, -1).T
