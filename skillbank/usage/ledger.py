"""The rows of the usage ledger as NumPy arrays: one value a teacher and rollout, matched with its placebo.

Rows are read in chunks and kept as numbers, about 90 bytes each; with what is summed over them a ledger of a million
rows takes 330 MB for the seconds that it is looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from skillbank.store.query import json_list

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skillbank.store.database import Database

CHUNK = 50_000
"""Rows that are Python objects at one time."""


@dataclass(frozen=True)
class LedgerRows:
    """What training measured, N rows without the placebos'. Entries that were merged are their survivor."""

    skill_N: NDArray[np.int64]
    mistake_N: NDArray[np.int64]
    problem_N: NDArray[np.int64]
    """Problems, numbered."""
    outcome_N: NDArray[np.float64]
    """+1 correct, -1 wrong, 0 unverifiable."""
    support_N: NDArray[np.float64]
    polarity_N: NDArray[np.float64]
    gate_mass_N: NDArray[np.float64]
    age_N: NDArray[np.int64]
    """Optimiser steps from then to the last one of the same run in the ledger."""
    placebo_support_N: NDArray[np.float64]
    """Of the neutral guidance on the same rollout; NaN where none was measured."""
    placebo_polarity_N: NDArray[np.float64]

    def at(self, places: NDArray[np.int64]) -> LedgerRows:
        """These rows alone."""
        return LedgerRows(*(getattr(self, field.name)[places] for field in fields(self)))


def read_rows(db: Database, *, run: str | None = None, entries: Collection[int] | None = None) -> LedgerRows:
    """The whole ledger, or that of one run, or the rows of some skills and mistakes. One state of the bank."""
    runs, problems = _Numbers(), _Numbers()
    with db.snapshot():
        where, parameters = ("u.run = ?", [run]) if run is not None else ("1", [])
        among, ids = _among(entries)
        found = _read(db, f"NOT u.placebo AND {where} AND {among}", [*parameters, *ids], runs, problems)
        placebos = _read(db, f"u.placebo AND {where}", parameters, runs, problems)
        ends = db.rows(f"SELECT run, max(step) FROM usage u WHERE {where} GROUP BY run", parameters)
        heads = {row[0]: row[1] for row in db.rows("SELECT id, head FROM entries WHERE head IS NOT NULL")}
    last = {row[0]: row[1] for row in ends}
    last_R = np.array([last[name] for name in runs.known], dtype=np.int64)
    placebo_support_N, placebo_polarity_N = _matched(found, placebos)
    return LedgerRows(
        skill_N=_resolved(found.skill_N, heads),
        mistake_N=_resolved(found.mistake_N, heads),
        problem_N=found.problem_N,
        outcome_N=found.outcome_N,
        support_N=found.support_N,
        polarity_N=found.polarity_N,
        gate_mass_N=found.gate_mass_N,
        age_N=last_R[found.run_N] - found.step_N,
        placebo_support_N=placebo_support_N,
        placebo_polarity_N=placebo_polarity_N,
    )


class _Numbers:
    """Names as numbers, in the order in which they come up."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def of(self, names: Sequence[str]) -> NDArray[np.int64]:
        known = self.known
        return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)


@dataclass(frozen=True)
class _Read:
    """Columns of the ledger as they stand there; runs and problems numbered."""

    run_N: NDArray[np.int64]
    problem_N: NDArray[np.int64]
    step_N: NDArray[np.int64]
    skill_N: NDArray[np.int64]
    mistake_N: NDArray[np.int64]
    outcome_N: NDArray[np.float64]
    support_N: NDArray[np.float64]
    polarity_N: NDArray[np.float64]
    gate_mass_N: NDArray[np.float64]


_COLUMNS = (
    "u.run, u.problem_id, u.step, u.skill_id, u.mistake_id, (u.outcome = 'correct') - (u.outcome = 'wrong'), "
    "u.support, u.polarity, u.gate_mass"
)


def _read(db: Database, where: str, parameters: Sequence[Any], runs: _Numbers, problems: _Numbers) -> _Read:
    rows = db.stream(f"SELECT {_COLUMNS} FROM usage u WHERE {where}", parameters)
    chunks: list[list[NDArray[Any]]] = [[] for _ in fields(_Read)]
    while chunk := list(islice(rows, CHUNK)):
        names, of_problems, *numbers = zip(*chunk, strict=True)
        arrays = [np.array(column, dtype=np.int64 if n < 3 else np.float64) for n, column in enumerate(numbers)]
        for parts, array in zip(chunks, [runs.of(names), problems.of(of_problems), *arrays], strict=True):
            parts.append(array)
    empty = [np.zeros(0, dtype=np.int64 if n < 5 else np.float64) for n in range(len(chunks))]
    return _Read(*(np.concatenate([*parts, none]) for parts, none in zip(chunks, empty, strict=True)))


def _among(entries: Collection[int] | None) -> tuple[str, list[str]]:
    """Rows of these skills and mistakes, and of what was merged into them."""
    if entries is None:
        return "1", []
    given = "SELECT value FROM json_each(?)"
    named = f"SELECT id FROM entries WHERE id IN ({given}) OR head IN ({given})"
    return f"(u.skill_id IN ({named}) OR u.mistake_id IN ({named}))", [json_list(entries)] * 4


def _resolved(ids_N: NDArray[np.int64], heads: dict[int, int]) -> NDArray[np.int64]:
    if not heads or not len(ids_N):
        return ids_N
    distinct, inverse_N = np.unique(ids_N, return_inverse=True)
    return np.array([heads.get(i, i) for i in distinct.tolist()], dtype=np.int64)[inverse_N]


def _matched(found: _Read, placebos: _Read) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each row support and polarity of the placebo of its run, step and problem; NaN where there is none."""
    count = len(found.run_N)
    if not len(placebos.run_N) or not count:
        return np.full(count, np.nan), np.full(count, np.nan)
    key = np.zeros(count + len(placebos.run_N), dtype=np.int64)
    for name in ("run_N", "step_N", "problem_N"):
        part = np.concatenate([getattr(found, name), getattr(placebos, name)])
        key = key * (int(part.max()) + 1) + part
    distinct, inverse_M = np.unique(key[count:], return_inverse=True)
    sizes = np.bincount(inverse_M)  # a problem that stands twice in a step has two
    place_N = np.minimum(np.searchsorted(distinct, key[:count]), len(distinct) - 1)
    there_N = distinct[place_N] == key[:count]
    support_N, polarity_N = (
        np.where(there_N, (np.bincount(inverse_M, weights=values_M) / sizes)[place_N], np.nan)
        for values_M in (placebos.support_N, placebos.polarity_N)
    )
    return support_N, polarity_N
