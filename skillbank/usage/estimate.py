"""What training measured of entries and of pairs: how much, how surely, and against what (docs/usage.md).

    for found in estimates(bank):
        print(found.entry_id, found.utility, found.low, found.high)

An entry's rows are those of all teachers that it was a part of, and of the entries merged into it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from skillbank.errors import InvalidOption
from skillbank.records import Kind, Record
from skillbank.store.query import json_list

if TYPE_CHECKING:
    from skillbank.store import Bank
    from skillbank.usage.clusters import Floats, Ints
    from skillbank.usage.ledger import LedgerRows

Of = Literal["entry", "pair"]


class Interval(Record):
    """A mean and the bounds between which the true one lies at the stated level."""

    value: float
    low: float
    high: float


class Correlation(Record):
    """Of a teacher's support with the outcome (+1 correct, -1 wrong) of the rollouts that it judged."""

    value: float
    """In [-1, 1]; above 0 the teacher tells right rollouts from wrong ones, below 0 it prefers the wrong ones."""
    z: float
    """About standard normal where there is no correlation; |z| is at most the root of the number of problems."""


class Credit(Interval):
    """What an entry did on its own, its partners and its problems taken out (skillbank.usage.credit): how much further
    it leans to right solutions than to wrong ones, nats a token, in comparison with the others of its kind."""

    z: float
    """The value over its posterior standard deviation."""


class AgainstPlacebo(Record):
    """What the teacher did beyond neutral guidance on the same rollouts, where that was measured."""

    uses: int
    support: Interval
    """Mean of outcome * (support - placebo's support), in nats a token: above 0 it leans to the verified side."""
    polarity: Interval
    """Mean of polarity - placebo's polarity, in [-2, 2]."""


class Estimate(Record):
    """What the ledger says of one entry, or of one skill and mistake that made a teacher together."""

    kind: Kind
    entry_id: int | None
    """None for two that taught together and are joined by no pair entry."""
    skill_id: int | None
    """Of a pair; a skill is itself."""
    mistake_id: int | None
    uses: int
    helpful: int
    harmful: int
    neutral: int
    problems: int
    """Different ones among the uses: the independent observations behind the intervals."""
    utility: float
    """(helpful - harmful) / uses, in [-1, 1]; each use counted by its age where a half-life is given."""
    low: float
    """Of the interval of the utility."""
    high: float
    mean_support: float
    """Nats a token."""
    support_right: float | None
    """Mean support of right solutions; below 0 it opposes them. None where it taught on none."""
    mean_gate_mass: float
    correlation: Correlation | None
    """None where the support or the outcome never varied."""
    placebo: AgainstPlacebo | None
    """None where no placebo was measured beside it, or on one problem alone."""
    credit: Credit | None
    """None for a pair, which is no more than its two sides together, and where it could not be told (docs/usage.md)."""
    age_steps: int
    """Optimiser steps from its first use to the last of that run, the most of all runs."""
    idle_steps: int
    """Optimiser steps since its last use, the fewest of all runs."""

    @property
    def worth(self) -> tuple[float, float]:
        """What entries of a kind are ranked by: the credit, and the utility where there is none."""
        return (0.0 if self.credit is None else self.credit.value, self.utility)


def estimates(
    bank: Bank,
    *,
    of: Of = "entry",
    run: str | None = None,
    ids: Collection[int] | None = None,
    half_life_steps: float | None = None,
    level: float = 0.95,
    credit: bool = False,
) -> Iterator[Estimate]:
    """Of every entry that was ever used (skills, mistakes, pairs), or of every pair of skill and mistake that made a
    teacher, in the order of ids.

    `run` takes one run alone, `ids` these entries alone. With `half_life_steps` a use counts half as much as one that
    many optimiser steps later in its run. `credit` takes skills and mistakes apart as well, and reads the rows of all
    others for it. Raises InvalidOption for a level or half-life out of bounds.
    """
    if not 0 < level < 1:
        raise InvalidOption(f"level {level:g} is not between 0 and 1: give a share such as 0.95")
    if half_life_steps is not None and not half_life_steps > 0:
        raise InvalidOption(f"half-life {half_life_steps:g} is not above 0 steps: give a number of steps, or none")
    return _estimates(bank, of, run, ids, half_life_steps, level, credit and of == "entry")


def _estimates(
    bank: Bank,
    of: Of,
    run: str | None,
    ids: Collection[int] | None,
    half_life_steps: float | None,
    level: float,
    credit: bool,
) -> Iterator[Estimate]:
    import numpy as np

    from skillbank.usage.credit import credits
    from skillbank.usage.ledger import read_rows

    with bank.db.snapshot():
        among = None if ids is None else _with_sides(bank, ids)
        rows = read_rows(bank.db, run=run, entries=None if credit else among)
        pairs = _pair_entries(bank)
    weight_N = np.ones(len(rows.skill_N)) if half_life_steps is None else 0.5 ** (rows.age_N / half_life_steps)
    own = credits(rows, weight_N, level) if credit else {}
    if credit and among is not None:
        listed = list(among)
        at_N = np.flatnonzero(np.isin(rows.skill_N, listed) | np.isin(rows.mistake_N, listed))
        rows, weight_N = rows.at(at_N), weight_N[at_N]
    if not len(rows.skill_N):
        return
    wanted = None if ids is None else set(ids)
    span = int(rows.mistake_N.max()) + 1
    pair_N = rows.skill_N * span + rows.mistake_N
    if of == "pair":
        for key, values in _measured(rows, pair_N, weight_N, level):
            skill_id, mistake_id = divmod(key, span)
            joined = pairs.get((skill_id, mistake_id), [])
            if wanted is None or wanted & {skill_id, mistake_id, *joined}:
                entry_id = joined[0] if joined else None
                yield Estimate(
                    kind="pair", entry_id=entry_id, skill_id=skill_id, mistake_id=mistake_id, credit=None, **values
                )
        return
    found: list[Estimate] = []
    for i, values in _measured(rows, rows.skill_N, weight_N, level):
        found.append(Estimate(kind="skill", entry_id=i, skill_id=i, mistake_id=None, credit=own.get(i), **values))
    for i, values in _measured(rows, rows.mistake_N, weight_N, level):
        found.append(Estimate(kind="mistake", entry_id=i, skill_id=None, mistake_id=i, credit=own.get(i), **values))
    keys = [skill_id * span + mistake_id for skill_id, mistake_id in pairs if mistake_id < span]
    mined_N = np.flatnonzero(np.isin(pair_N, keys))
    for key, values in _measured(rows.at(mined_N), pair_N[mined_N], weight_N[mined_N], level):
        skill_id, mistake_id = divmod(key, span)
        for i in pairs[skill_id, mistake_id]:
            found.append(
                Estimate(kind="pair", entry_id=i, skill_id=skill_id, mistake_id=mistake_id, credit=None, **values)
            )
    yield from sorted(
        (one for one in found if wanted is None or one.entry_id in wanted), key=lambda one: one.entry_id or 0
    )


def _measured(rows: LedgerRows, entry_N: Ints, weight_N: Floats, level: float) -> Iterator[tuple[int, dict[str, Any]]]:
    """(entry, fields of its estimate) of all entries that the rows speak of."""
    import numpy as np

    from skillbank.usage.clusters import Clusters, bounded_mean, correlation, mean

    if not len(entry_N):
        return
    clusters = Clusters.of(entry_N, rows.problem_N)
    judged_N = weight_N * np.abs(rows.outcome_N)
    matched_N = weight_N * ~np.isnan(rows.placebo_support_N)
    beyond_N = rows.outcome_N * (rows.support_N - np.nan_to_num(rows.placebo_support_N))
    turned_N = rows.polarity_N - np.nan_to_num(rows.placebo_polarity_N)
    columns: dict[str, Sequence[Any]] = {
        name: clusters.total(values_N.astype(np.float64)).round().astype(int).tolist()
        for name, values_N in {
            "uses": np.ones(len(entry_N)),
            "helpful": rows.polarity_N > 0,
            "harmful": rows.polarity_N < 0,
            "neutral": rows.polarity_N == 0,
        }.items()
    }
    columns["problems"] = np.diff(np.r_[clusters.starts_E, len(clusters.starts_C)]).tolist()
    columns["utility"], columns["low"], columns["high"] = (
        values_E.tolist() for values_E in bounded_mean(clusters, weight_N, rows.polarity_N, level)
    )
    weight_E = clusters.total(weight_N)
    columns["mean_support"] = (clusters.total(weight_N * rows.support_N) / weight_E).tolist()
    right_N = weight_N * (rows.outcome_N > 0)
    with np.errstate(invalid="ignore"):
        of_right_E = clusters.total(right_N * rows.support_N) / clusters.total(right_N)
    columns["support_right"] = [None if math.isnan(value) else value for value in of_right_E.tolist()]
    columns["mean_gate_mass"] = (clusters.total(weight_N * rows.gate_mass_N) / weight_E).tolist()
    columns["correlation"] = _correlations(*correlation(clusters, judged_N, rows.support_N, rows.outcome_N))
    columns["placebo"] = _against_placebo(
        clusters.total((matched_N > 0).astype(np.float64)),
        mean(clusters, matched_N, beyond_N, level),
        tuple(2 * values_E for values_E in bounded_mean(clusters, matched_N, turned_N / 2, level)),
    )
    columns["age_steps"] = clusters.extreme(rows.age_N, np.maximum).tolist()
    columns["idle_steps"] = clusters.extreme(rows.age_N, np.minimum).tolist()
    for entry, *values in zip(clusters.entry_E.tolist(), *columns.values(), strict=True):
        yield entry, dict(zip(columns, values, strict=True))


def _correlations(value_E: Floats, z_E: Floats) -> list[Correlation | None]:
    numbers = zip(value_E.tolist(), z_E.tolist(), strict=True)
    return [None if math.isnan(value) else Correlation(value=value, z=z) for value, z in numbers]


def _against_placebo(
    uses_E: Floats, support_3E: tuple[Floats, ...], polarity_3E: tuple[Floats, ...]
) -> list[AgainstPlacebo | None]:
    found: list[AgainstPlacebo | None] = []
    for uses, *bounds in zip(*(values_E.tolist() for values_E in (uses_E, *support_3E, *polarity_3E)), strict=True):
        if any(math.isnan(bound) for bound in bounds):
            found.append(None)
            continue
        support, polarity = (Interval(value=v, low=low, high=high) for v, low, high in (bounds[:3], bounds[3:]))
        found.append(AgainstPlacebo(uses=round(uses), support=support, polarity=polarity))
    return found


def _pair_entries(bank: Bank) -> dict[tuple[int, int], list[int]]:
    """The pair entries that join a skill and a mistake, an active one first."""
    sql = (
        "SELECT skill_id, mistake_id, id FROM entries WHERE kind = 'pair' AND NOT withdrawn"
        " ORDER BY status = 'active' DESC, id"
    )
    found: dict[tuple[int, int], list[int]] = {}
    for skill_id, mistake_id, entry_id in bank.db.stream(sql):
        found.setdefault((skill_id, mistake_id), []).append(entry_id)
    return found


def _with_sides(bank: Bank, ids: Collection[int]) -> set[int]:
    """The entries, and of pairs their two sides."""
    sides = bank.db.rows(
        "SELECT skill_id, mistake_id FROM entries WHERE kind = 'pair' AND id IN (SELECT value FROM json_each(?))",
        (json_list(ids),),
    )
    return {*ids, *(side for pair in sides for side in pair)}
