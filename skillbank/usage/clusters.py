"""Means, correlations and their errors over rows that come in clusters: the rows of one problem resemble one another.

A hard problem fails again and again, and a teacher says much the same of each failure: a hundred rows of one problem
tell little more than one. Errors are therefore taken over problems (Liang and Zeger, Biometrika 1986): the rows of a
problem are summed first, and what varies is the sums.

Suffixes: `_N` rows, `_C` clusters (an entry's rows of one problem), `_E` entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """Rows by entry and, within an entry, by problem."""

    entry_E: Ints
    """The entries there are, in order."""
    order_N: Ints
    """Puts rows in the order of entries and problems."""
    starts_C: Ints
    """The first row of each cluster, in that order."""
    starts_E: Ints
    """The first cluster of each entry."""

    @classmethod
    def of(cls, entry_N: Ints, problem_N: Ints) -> Clusters:
        order_N = np.lexsort((problem_N, entry_N))
        entries, problems = entry_N[order_N], problem_N[order_N]
        new_entry_N = np.r_[True, entries[1:] != entries[:-1]][: len(entries)]
        starts_C = np.flatnonzero(new_entry_N | np.r_[True, problems[1:] != problems[:-1]][: len(entries)])
        return cls(entries[new_entry_N], order_N, starts_C, np.flatnonzero(new_entry_N[starts_C]))

    def sums(self, values_N: Floats) -> Floats:
        """[C]: of each cluster."""
        return np.add.reduceat(values_N[self.order_N], self.starts_C)

    def over(self, values_C: Floats) -> Floats:
        """[E]: of each entry, over its clusters."""
        return np.add.reduceat(values_C, self.starts_E)

    def total(self, values_N: Floats) -> Floats:
        """[E]: of each entry, over its rows."""
        return self.over(self.sums(values_N))

    def extreme(self, values_N: Ints, function: np.ufunc) -> Ints:
        """[E]: `np.minimum` or `np.maximum` over the rows of each entry."""
        found: Ints = function.reduceat(values_N[self.order_N], self.starts_C[self.starts_E])
        return found

    def spread(self, values_E: Floats) -> Floats:
        """[C]: each entry's value at all its clusters."""
        return np.repeat(values_E, np.diff(np.r_[self.starts_E, len(self.starts_C)]))


def bounded_mean(clusters: Clusters, weight_N: Floats, value_N: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """[E] each: weighted mean, low and high, of values in [-1, 1] such as a polarity.

    The interval adds one cluster of value +1 and one of -1, each of the weight of a typical one, before it takes the
    cluster-robust error. Where rows are clusters of their own and weigh the same this is the interval of Bonett and
    Price (J. Educ. Behav. Stat. 2012) for the difference of two paired proportions, as (helpful - harmful) / uses is;
    without the two, an entry that helped three times of three would be certain to help. NaN where nothing has weight.
    """
    weight_C, sum_C = clusters.sums(weight_N), clusters.sums(weight_N * value_N)
    weight_E, sum_E = clusters.over(weight_C), clusters.over(sum_C)
    with np.errstate(invalid="ignore", divide="ignore"):
        typical_E = clusters.over(weight_C**2) / weight_E
        total_E = weight_E + 2 * typical_E
        centre_E = sum_E / total_E
        residual_C = sum_C - clusters.spread(centre_E) * weight_C
        added_E = typical_E**2 * ((1 - centre_E) ** 2 + (1 + centre_E) ** 2)
        half_E = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(clusters.over(residual_C**2) + added_E) / total_E
        return sum_E / weight_E, np.maximum(-1.0, centre_E - half_E), np.minimum(1.0, centre_E + half_E)


def mean(clusters: Clusters, weight_N: Floats, value_N: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """[E] each: weighted mean, low and high of values without a bound, by Student's t with one degree of freedom less
    than there are problems, counted by their weights (Kish). NaN where nothing has weight, or one problem all."""
    weight_C, sum_C = clusters.sums(weight_N), clusters.sums(weight_N * value_N)
    weight_E = clusters.over(weight_C)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_E = clusters.over(sum_C) / weight_E
        effective_E = weight_E**2 / clusters.over(weight_C**2)
        residual_C = sum_C - clusters.spread(np.nan_to_num(mean_E)) * weight_C
        error_E = np.sqrt(clusters.over(residual_C**2) * effective_E / (effective_E - 1)) / weight_E
        half_E = stdtrit(np.where(effective_E > 1, effective_E - 1, np.nan), (1 + level) / 2) * error_E
    return mean_E, mean_E - half_E, mean_E + half_E


def correlation(clusters: Clusters, weight_N: Floats, x_N: Floats, y_N: Floats) -> tuple[Floats, Floats]:
    """[E] each: weighted Pearson correlation, and z: the sum of the problems' shares in the covariance over the root of
    their summed squares. NaN where x or y does not vary.

    Where there is no correlation z is about standard normal, whatever the spread of each problem. |z| is at most the
    root of the number of problems, so few cannot prove much.
    """
    names = {"w": weight_N, "x": weight_N * x_N, "y": weight_N * y_N, "xy": weight_N * x_N * y_N}
    sums_C = {name: clusters.sums(values_N) for name, values_N in names.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        weight_E = clusters.over(sums_C["w"])
        x_E, y_E = clusters.over(sums_C["x"]) / weight_E, clusters.over(sums_C["y"]) / weight_E
        mean_x_C, mean_y_C = clusters.spread(x_E), clusters.spread(y_E)
        share_C = sums_C["xy"] - mean_y_C * sums_C["x"] - mean_x_C * sums_C["y"] + mean_x_C * mean_y_C * sums_C["w"]
        square_x_E, square_y_E = (clusters.total(weight_N * values_N**2) / weight_E for values_N in (x_N, y_N))
        variance_E = (square_x_E - x_E**2) * (square_y_E - y_E**2)
        # What is left of equal numbers after rounding is no variance.
        variance_E = np.where(variance_E > 1e-12 * square_x_E * square_y_E, variance_E, np.nan)
        value_E = clusters.over(share_C) / weight_E / np.sqrt(variance_E)
        z_E = clusters.over(share_C) / np.sqrt(clusters.over(share_C**2))
    return np.clip(value_E, -1.0, 1.0), np.where(np.isnan(value_E), np.nan, z_E)
