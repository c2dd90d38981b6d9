"""Which entries go: a rule over what was measured of them, in the language of queries.

    problems:>=8 high:<0               the whole interval of the utility is below 0
    uses:>=8 keep:6 kind:skill         all but the six skills of highest credit among those used often enough

A rule is the criteria of a `Query` and bounds on an `Estimate`; entries that fit all of it are retired, but for the
`keep` of highest credit of each kind among them (of highest utility, where there is no credit). What was not measured
fits no bound, so the young are safe behind `uses`, `problems` or `age`; pinned entries are safe always.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from statistics import NormalDist
from typing import NamedTuple

from skillbank.errors import InvalidOption
from skillbank.records import Record
from skillbank.store.query import Bound, Query, bound, tokens
from skillbank.usage.estimate import Estimate

MEASURES: Mapping[str, Callable[[Estimate], float | None]] = {
    "uses": lambda one: one.uses,
    "helpful": lambda one: one.helpful,
    "harmful": lambda one: one.harmful,
    "neutral": lambda one: one.neutral,
    "problems": lambda one: one.problems,
    "utility": lambda one: one.utility,
    "low": lambda one: one.low,
    "high": lambda one: one.high,
    "support": lambda one: one.mean_support,
    "support_right": lambda one: one.support_right,
    "credit": lambda one: None if one.credit is None else one.credit.value,
    "credit_z": lambda one: None if one.credit is None else one.credit.z,
    "correlation": lambda one: None if one.correlation is None else one.correlation.value,
    "correlation_high": lambda one: _correlation_high(one),
    "z": lambda one: None if one.correlation is None else one.correlation.z,
    "placebo": lambda one: None if one.placebo is None else one.placebo.support.value,
    "placebo_low": lambda one: None if one.placebo is None else one.placebo.support.low,
    "placebo_high": lambda one: None if one.placebo is None else one.placebo.support.high,
    "age": lambda one: one.age_steps,
    "idle": lambda one: one.idle_steps,
}
"""What a rule may bound, by the name it has there; None fits no bound."""

RULES: Mapping[str, str] = {
    "harmful": "problems:>=8 high:<0",
    "misleading": "problems:>=4 credit_z:<1 support_right:<0",
    "idle": "uses:>=8 low:>-0.1 high:<0.1",
}
"""Rules with a name. `harmful` is sure of a negative utility, `misleading` finds what was beside teachers that opposed
right solutions and has no sure credit of its own, `idle` is sure of a utility near 0."""

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def _correlation_high(one: Estimate) -> float | None:
    """The upper end of the correlation's 95 % interval, by Fisher's transformation over the problems."""
    if one.correlation is None or one.problems <= 3:
        return None
    value = min(max(one.correlation.value, -0.999), 0.999)
    return math.tanh(math.atanh(value) + NormalDist().inv_cdf(0.975) / math.sqrt(one.problems - 3))


class Chosen(NamedTuple):
    """What a rule makes of the entries that it was asked about."""

    retired: list[Estimate]
    kept: list[Estimate]
    """Those that fit, and stay as the best of their kind."""


class KeepRule(Record):
    """What retires an entry."""

    where: Query
    bounds: tuple[tuple[str, Bound], ...]
    """(name in MEASURES, bound)"""
    keep: int | None = None
    """Of the entries of each kind that fit, so many of the highest credit stay."""

    @classmethod
    def parse(cls, line: str) -> KeepRule:
        """Reads a rule, or the name of one in RULES. Raises InvalidOption for what cannot be read, and for a rule that
        bounds nothing that was measured."""
        bounds: list[tuple[str, Bound]] = []
        keep: int | None = None
        rest: list[str] = []
        for key, value, text in tokens(RULES.get(line.strip(), line)):
            if key == "keep":
                if keep is not None or not value.isdecimal():
                    raise InvalidOption(f"{text}: give keep once, with the number of entries of each kind that stay")
                keep = int(value)
            elif key in MEASURES:
                bounds.append((key, bound(key, value)))
            else:
                rest.append(text)
        if not bounds and keep is None:
            raise InvalidOption(
                f"the rule {line!r} bounds nothing that was measured: use {', '.join(MEASURES)} or keep, such as "
                f"{RULES['harmful']!r}, or name one of {', '.join(RULES)}"
            )
        return cls(where=Query.parse(" ".join(rest)), bounds=tuple(bounds), keep=keep)

    def __str__(self) -> str:
        parts = [f"{name}:{at}" for name, at in self.bounds]
        if self.keep is not None:
            parts.append(f"keep:{self.keep}")
        return " ".join([*parts, *([str(self.where)] if str(self.where) else [])])

    def fits(self, one: Estimate) -> bool:
        """Whether what was measured is within all bounds; the query is the bank's to answer."""
        for name, at in self.bounds:
            value = MEASURES[name](one)
            if value is None or not _COMPARE[at.comparison](value, at.value):
                return False
        return True

    def choose(self, found: Iterable[Estimate], among: Collection[int]) -> Chosen:
        """What goes, of the entries in `among`, and what `keep` spares."""
        fitting = [one for one in found if one.entry_id in among and self.fits(one)]
        if self.keep is None:
            return Chosen(fitting, [])
        best = sorted(fitting, key=lambda one: (one.worth, one.low, -(one.entry_id or 0)), reverse=True)
        spared: dict[str, list[Estimate]] = {}
        for one in best:
            of_kind = spared.setdefault(one.kind, [])
            if len(of_kind) < self.keep:
                of_kind.append(one)
        kept = {one.entry_id for of_kind in spared.values() for one in of_kind}
        return Chosen(
            [one for one in fitting if one.entry_id not in kept], [one for one in fitting if one.entry_id in kept]
        )
