"""The usage ledger: what training measured of the teachers that a bank's entries made.

One row a teacher and rollout. Writing it is not a change of the bank: it makes no revision.
"""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Row
from typing import TYPE_CHECKING

from skillbank.records import Outcome, Record

if TYPE_CHECKING:
    from skillbank.store.database import Database


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
    def utility(self) -> float | None:
        """(helpful - harmful) / uses, in [-1, 1]; None when it was never used."""
        return (self.helpful - self.harmful) / self.total if self.total else None

    @property
    def total(self) -> int:
        return self.helpful + self.harmful + self.neutral


_COLUMNS = tuple(UsageRow.model_fields)
_SUMS = "sum(helpful) AS helpful, sum(harmful) AS harmful, sum(neutral) AS neutral, sum(support_sum) AS support_sum"

_RECOUNT = (
    "SELECT skill_id, mistake_id, sum(polarity > 0), sum(polarity < 0), sum(polarity = 0), sum(support) FROM usage"
    " WHERE skill_id = ? AND mistake_id = ? AND NOT placebo GROUP BY skill_id, mistake_id"
)


def record(db: Database, rows: Iterable[UsageRow]) -> None:
    """Appends rows to the ledger in one transaction, and adds them to its totals."""
    given = list(rows)
    sql = f"INSERT INTO usage ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    totals: dict[tuple[int, int], list[float]] = {}
    for row in given:
        if not row.placebo:
            counts = totals.setdefault((row.skill_id, row.mistake_id), [0, 0, 0, 0.0])
            counts[0 if row.polarity > 0 else 1 if row.polarity < 0 else 2] += 1
            counts[3] += row.support
    add = ", ".join(f"{name} = {name} + excluded.{name}" for name in ("helpful", "harmful", "neutral", "support_sum"))
    with db.transaction():
        db.run_many(sql, ([getattr(row, name) for name in _COLUMNS] for row in given))
        db.run_many(
            f"INSERT INTO usage_totals VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET {add}",
            ((*pair, *counts) for pair, counts in totals.items()),
        )


def unused_run(db: Database, name: str) -> str:
    """A name that no run in the ledger has: `name`, or `name#2` and so on."""
    taken = {row[0] for row in db.rows("SELECT DISTINCT run FROM usage")}
    number, candidate = 1, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}#{number + 1}"
    return candidate


def take_back(db: Database, run: str, *, after: int) -> int:
    """Deletes the rows of a run's steps beyond `after`, which are going to be measured again; returns how many."""
    beyond = "run = ? AND step > ?"
    with db.transaction():
        pairs = db.rows(f"SELECT DISTINCT skill_id, mistake_id FROM usage WHERE {beyond} AND NOT placebo", (run, after))
        count = db.run(f"DELETE FROM usage WHERE {beyond}", (run, after))
        db.run_many("DELETE FROM usage_totals WHERE skill_id = ? AND mistake_id = ?", pairs)
        db.run_many(f"INSERT INTO usage_totals {_RECOUNT}", pairs)
    return count


def by_entry(db: Database) -> dict[int, Usage]:
    """Usage of every skill, mistake and pair that was ever retrieved, by entry id; merged ones with their survivor."""
    rows = db.rows("SELECT id, helpful, harmful, neutral, mean_support FROM entry_usage")
    return {row["id"]: Usage(**{name: row[name] for name in Usage.model_fields}) for row in rows}


def by_pair(db: Database) -> dict[tuple[int, int], Usage]:
    """Usage of every teacher ever made, by (skill id, mistake id)."""
    rows = db.rows("SELECT * FROM usage_totals")
    return {(row["skill_id"], row["mistake_id"]): _usage(row) for row in rows}


def of_teachers(db: Database, *, skill_id: int | None = None, mistake_id: int | None = None) -> Usage:
    """Usage of the teachers made of this skill, of this mistake, or of both together; merged ones counted in."""
    wanted = {"skill_id": skill_id, "mistake_id": mistake_id}
    given = {name: value for name, value in wanted.items() if value is not None}
    merged = "({0} = ? OR {0} IN (SELECT id FROM entries WHERE head = ?))"
    where = " AND ".join(merged.format(name) for name in given)
    row = db.row(f"SELECT {_SUMS} FROM usage_totals WHERE {where}", [i for i in given.values() for _ in range(2)])
    assert row is not None  # an aggregate always has a row
    return _usage(row)


def _usage(row: Row) -> Usage:
    counts = {name: row[name] or 0 for name in ("helpful", "harmful", "neutral")}
    total = sum(counts.values())
    return Usage(**counts, mean_support=row["support_sum"] / total if total else None)
