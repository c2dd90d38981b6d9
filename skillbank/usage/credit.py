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

MAX_ENTRIES = 4000
"""Skills and mistakes that are taken apart at once: the equations are a dense matrix of that order."""
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
    """Effects and variances.

    Problems are absorbed: with `k = problem / (noise + problem * weight)` of each, what is left are the equations of
    skills, mistakes and level alone, X'WX - sum k x x' over the weighted sums x of the problems' rows.
    """
    X, y_O, w_O, group_O = seen.effects_OP, seen.support_O, seen.weight_O, seen.problem_O
    weighted = X.multiply(w_O[:, None]).tocsr()
    groups = int(group_O.max()) + 1
    member_GO = csr_array((np.ones(len(y_O)), (group_O, np.arange(len(y_O)))), shape=(groups, len(y_O)))
    x_GP = (member_GO @ weighted).tocsr()
    y_G, weight_G = np.bincount(group_O, weights=w_O * y_O), np.bincount(group_O, weights=w_O)
    gram_PP, moment_P = (X.T @ weighted).toarray(), weighted.T @ y_O
    skills, mistakes = seen.kinds
    blocks = (slice(0, skills), slice(skills, skills + mistakes))
    spread = float(np.average((y_O - np.average(y_O, weights=w_O)) ** 2, weights=w_O))
    variances = np.full(4, spread / 4)  # skill, mistake, problem, noise
    for _ in range(MAX_ROUNDS):
        skill, mistake, problem, noise = variances
        k_G = problem / (noise + problem * weight_G)
        absorbed_GP = x_GP.multiply(k_G[:, None]).tocsr()
        equations_PP = (gram_PP - (x_GP.T @ absorbed_GP).toarray()) / noise
        precision_P = np.r_[np.full(skills, 1 / skill), np.full(mistakes, 1 / mistake), 0.0]
        posterior_PP = _inverse(equations_PP + np.diag(precision_P))
        effect_P = posterior_PP @ (moment_P - absorbed_GP.T @ y_G) / noise
        problem_G = k_G * (y_G - x_GP @ effect_P)
        residual_O = y_O - X @ effect_P - problem_G[group_O]
        # A problem's effect is uncertain in itself, and through those of the entries.
        through = float(np.sum(posterior_PP * (absorbed_GP.T @ absorbed_GP).toarray()))
        found = [
            (float(effect_P[at] @ effect_P[at]) + 2 * variance) / _determined(posterior_PP.diagonal()[at], variance)
            for at, variance in zip(blocks, (skill, mistake), strict=True)
        ]
        found.append(float(problem_G @ problem_G) / _determined(k_G * noise + through / groups, problem))
        found.append(float((w_O * y_O) @ residual_O) / (len(y_O) - 1))
        before, variances = variances, np.clip(found, SMALLEST * spread, LARGEST * spread)
        if np.all(np.abs(np.log(variances / before)) < TOLERANCE):
            break
    found = [
        _against_the_mean(effect_P[at], posterior_PP[at, at], variance)
        for at, variance in zip(blocks, before, strict=False)
    ]
    effect_E, variance_E = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Fit(effect_E, variance_E, *(float(v) for v in before))


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
