"""What training saw of a bank, step by step: how many teachers helped, harmed or said nothing, and what a placebo did.

A placebo is neutral guidance on the same rollouts (docs/method.md, support baseline): what it does, no entry has done.
Of one entry the rows are those of all teachers that it was a part of, and of the entries merged into it; its placebo is
that of the problems and steps at which it taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from skillbank.records import Pair, Record
from skillbank.store import Bank

if TYPE_CHECKING:
    from sqlite3 import Row

Verdict = Literal["helpful", "neutral", "harmful"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_POLARITY: dict[Verdict, int] = {"helpful": 1, "neutral": 0, "harmful": -1}


class Run(Record):
    """A training run in the ledger."""

    run: str
    first: int
    last: int
    """Optimiser steps."""
    uses: int
    """Rows without the placebo's."""
    placebos: int


class Share(Record):
    """How large a share of uses had a verdict, and bounds of it at 95 %, problems taken as the independent ones."""

    value: float
    low: float
    high: float


class Span(Record):
    """Some consecutive optimiser steps."""

    first: int
    last: int
    uses: dict[Verdict, int]
    placebo: dict[Verdict, int]


class Training(Record):
    """What one run saw of a bank, or of one of its entries."""

    run: Run
    spans: tuple[Span, ...]
    """In the order of steps, those without a use left out."""
    shares: dict[Verdict, Share]
    """Of all steps; empty without a use."""
    placebo: dict[Verdict, Share]
    """The same of the placebo; empty where none was measured."""


class _Use(NamedTuple):
    step: int
    problem: str
    polarity: int


def runs(bank: Bank) -> list[Run]:
    """The runs in the ledger, the one that wrote to it last first."""
    sql = (
        "SELECT run, min(step) AS first, max(step) AS last, sum(NOT placebo) AS uses, sum(placebo) AS placebos"
        " FROM usage GROUP BY run ORDER BY max(id) DESC"
    )
    return [Run(**dict(row)) for row in bank.db.rows(sql)]


def training(bank: Bank, run: Run, entry_id: int | None = None, *, spans: int = 30) -> Training:
    """What a run saw, in at most `spans` spans of steps of equal length. Raises EntryNotFound."""
    part, parameters = ("1", []) if entry_id is None else _part_in(bank, entry_id)
    sql = f"SELECT step, problem_id, polarity FROM usage u WHERE run = ? AND NOT placebo AND {part}"
    uses = _uses(bank.db.rows(sql, [run.run, *parameters]))
    sql = "SELECT step, problem_id, polarity FROM usage u WHERE run = ? AND placebo"
    placebos = _uses(bank.db.rows(sql, [run.run])) if run.placebos else []
    if entry_id is not None:
        taught = {(use.step, use.problem) for use in uses}
        placebos = [use for use in placebos if (use.step, use.problem) in taught]
    length = max(1, -(-(run.last - run.first + 1) // spans))
    return Training(
        run=run,
        spans=tuple(_spans(run, length, uses, placebos)),
        shares=_shares(uses),
        placebo=_shares(placebos),
    )


def _part_in(bank: Bank, entry_id: int) -> tuple[str, list[int]]:
    """The condition that an entry, or one merged into it, was part of the teacher of a row `u`."""
    content = bank.get(entry_id).content
    itself = "{} IN (SELECT ? UNION SELECT id FROM entries WHERE head = ?)"
    if isinstance(content, Pair):
        sides = [content.skill_id] * 2 + [content.mistake_id] * 2
        return f"{itself.format('skill_id')} AND {itself.format('mistake_id')}", sides
    column = "skill_id" if bank.get(entry_id).kind == "skill" else "mistake_id"
    return itself.format(column), [entry_id, entry_id]


def _uses(rows: Sequence[Row]) -> list[_Use]:
    return [_Use(row[0], row[1], row[2]) for row in rows]


def _spans(run: Run, length: int, uses: Sequence[_Use], placebos: Sequence[_Use]) -> list[Span]:
    counts: dict[int, tuple[dict[Verdict, int], dict[Verdict, int]]] = {}
    verdicts = {polarity: verdict for verdict, polarity in _POLARITY.items()}
    for which, some in enumerate((uses, placebos)):
        for use in some:
            both = counts.setdefault(
                (use.step - run.first) // length, (dict.fromkeys(VERDICTS, 0), dict.fromkeys(VERDICTS, 0))
            )
            both[which][verdicts[use.polarity]] += 1
    return [
        Span(
            first=run.first + number * length,
            last=min(run.last, run.first + (number + 1) * length - 1),
            uses=counts[number][0],
            placebo=counts[number][1],
        )
        for number in sorted(counts)
    ]


def _shares(uses: Sequence[_Use]) -> dict[Verdict, Share]:
    """By `usage.clusters.bounded_mean` of +1 where a use had the verdict and -1 where not."""
    if not uses:
        return {}
    import numpy as np

    from skillbank.usage.clusters import Clusters, bounded_mean

    names: dict[str, int] = {}
    problem_N = np.array([names.setdefault(use.problem, len(names)) for use in uses], dtype=np.int64)
    polarity_N = np.array([use.polarity for use in uses])
    clusters = Clusters.of(np.zeros(len(uses), dtype=np.int64), problem_N)
    shares: dict[Verdict, Share] = {}
    for verdict, polarity in _POLARITY.items():
        signs_N = np.where(polarity_N == polarity, 1.0, -1.0)
        bounds = bounded_mean(clusters, np.ones(len(uses)), signs_N, 0.95)
        value, low, high = (round((1 + float(bound[0])) / 2, 6) for bound in bounds)
        shares[verdict] = Share(value=value, low=low, high=high)
    return shares
