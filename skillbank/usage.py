"""The usage ledger: what training measured of the teachers that a bank's entries made.

One row a teacher and rollout. Writing it is not a change of the bank: it makes no revision.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from skillbank.records import Outcome, Record

if TYPE_CHECKING:
    from skillbank.database import Database


class UsageRow(Record):
    """One teacher on one rollout (docs/method.md, steps 5 to 7)."""

    run: str
    step: int
    problem_id: str
    outcome: Outcome
    skill_id: int
    mistake_id: int
    pair_id: int | None = None
    support: float
    """s_k: the mean clipped delta over the counted tokens, in nats."""
    polarity: int
    """rho_k: +1 helpful, -1 harmful, 0 neither."""
    gate_mass: float
    weight: float
    revision: int
    """The bank revision under which the pair was retrieved."""
    placebo: bool = False
    """True for the neutral guidance of the support baseline: no entry's doing, left out of all counts."""


class Usage(Record):
    """What the ledger says of one entry, or of one skill-mistake pair."""

    helpful: int = 0
    harmful: int = 0
    neutral: int = 0
    mean_support: float | None = None
    """In nats; None when it was never used."""

    @property
    def total(self) -> int:
        return self.helpful + self.harmful + self.neutral


_COLUMNS = tuple(UsageRow.model_fields)
_COUNTS = (
    "total(polarity > 0) AS helpful, total(polarity < 0) AS harmful, total(polarity = 0) AS neutral, "
    "avg(support) AS mean_support"
)


def record(db: Database, rows: Iterable[UsageRow]) -> None:
    """Appends rows to the ledger in one transaction."""
    sql = f"INSERT INTO usage ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    with db.transaction():
        db.run_many(sql, ([getattr(row, name) for name in _COLUMNS] for row in rows))


def by_entry(db: Database) -> dict[int, Usage]:
    """Usage of every skill and mistake that was ever retrieved, by entry id."""
    both = "SELECT {} AS id, polarity, support FROM usage WHERE NOT placebo"
    source = f"{both.format('skill_id')} UNION ALL {both.format('mistake_id')}"
    rows = db.rows(f"SELECT id, {_COUNTS} FROM ({source}) GROUP BY id")
    return {row["id"]: _usage(row) for row in rows}


def by_pair(db: Database) -> dict[tuple[int, int], Usage]:
    """Usage of every teacher ever made, by (skill id, mistake id)."""
    rows = db.rows(f"SELECT skill_id, mistake_id, {_COUNTS} FROM usage WHERE NOT placebo GROUP BY skill_id, mistake_id")
    return {(row["skill_id"], row["mistake_id"]): _usage(row) for row in rows}


def of_teachers(db: Database, *, skill_id: int | None = None, mistake_id: int | None = None) -> Usage:
    """Usage of the teachers made of this skill, of this mistake, or of both together."""
    wanted = {"skill_id": skill_id, "mistake_id": mistake_id}
    given = {name: value for name, value in wanted.items() if value is not None}
    where = " AND ".join(["NOT placebo", *(f"{name} = ?" for name in given)])
    row = db.row(f"SELECT {_COUNTS} FROM usage WHERE {where}", tuple(given.values()))
    assert row is not None  # an aggregate always has a row
    return _usage(row)


def _usage(row: object) -> Usage:
    values = dict(row)  # type: ignore[call-overload]
    return Usage.model_validate({name: values[name] for name in Usage.model_fields})
