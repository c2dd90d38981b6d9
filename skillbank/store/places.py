"""The places that entries rest on: rows of evidence, found once and kept where they were found.

Merging moves none: an entry rests on its own places and on those of all that was merged into it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from sqlite3 import Row

from pydantic import ValidationError

from skillbank.errors import BankCorrupt
from skillbank.records import Evidence
from skillbank.store.database import Database
from skillbank.store.events import to_json

MERGED = (
    "WITH RECURSIVE merged (id) AS ("
    "VALUES (?) UNION SELECT e.id FROM entries e JOIN merged m ON e.superseded_by = m.id)"
)
"""An entry and all that was merged into it."""


def of_entry(db: Database, entry_id: int) -> list[Evidence]:
    """What a skill or a mistake rests on, oldest first; a place that two merged entries share counts once."""
    found = {(row["rollout_id"], row["digest"]): row for row in reversed(rows(db, entry_id))}
    return [to_evidence(row) for row in sorted(found.values(), key=lambda row: int(row["id"]))]


def rows(db: Database, entry_id: int) -> list[Row]:
    """The rows in use of an entry and all that was merged into it."""
    sql = f"{MERGED} SELECT x.* FROM evidence x JOIN merged m ON m.id = x.entry_id WHERE x.active ORDER BY x.id"
    return db.rows(sql, (entry_id,))


def count(db: Database, entry_id: int) -> int:
    sql = (
        f"{MERGED} SELECT count(*) FROM (SELECT DISTINCT x.rollout_id, x.digest FROM evidence x"
        " JOIN merged m ON m.id = x.entry_id WHERE x.active)"
    )
    return int(db.value(sql, (entry_id,)))


def resting_on(db: Database, problem_ids: Sequence[str]) -> dict[str, set[int]]:
    """Of each problem, the skills and mistakes that rest on it alone, merged places counted with the survivor."""
    named = json.dumps(list(problem_ids))
    # Entries (heads) with a place in one of the problems, then those that have places in no other.
    sql = (
        "WITH here (problem_id, head) AS (SELECT DISTINCT x.problem_id, coalesce(e.head, e.id) FROM evidence x"
        " JOIN entries e ON e.id = x.entry_id WHERE x.active AND x.problem_id IN (SELECT value FROM json_each(?)))"
        " SELECT problem_id, head FROM here h WHERE NOT EXISTS (SELECT 1 FROM evidence o WHERE o.active"
        " AND o.entry_id = h.head AND o.problem_id <> h.problem_id) AND NOT EXISTS (SELECT 1 FROM entries m"
        " JOIN evidence o ON o.entry_id = m.id WHERE m.head = h.head AND o.active AND o.problem_id <> h.problem_id)"
    )
    found: dict[str, set[int]] = {problem_id: set() for problem_id in problem_ids}
    for row in db.rows(sql, (named,)):
        found[row[0]].add(row[1])
    return found


def to_evidence(row: Row) -> Evidence:
    """Raises BankCorrupt when the row is no evidence."""
    try:
        return Evidence(
            rollout_id=row["rollout_id"],
            problem_id=row["problem_id"],
            outcome=row["outcome"],
            quote=row["quote"],
            span=None if row["span_start"] is None else (row["span_start"], row["span_end"]),
            source=row["source"],
        )
    except ValidationError as error:
        raise BankCorrupt(
            f"a place in rollout {row['rollout_id']} cannot be read: look the bank over with `sgsd bank doctor`"
        ) from error


def allowed(db: Database, places: Sequence[Evidence]) -> list[Evidence]:
    """Without those in retracted rollouts, on which nothing may rest."""
    held = retracted(db, {place.rollout_id for place in places})
    return [place for place in places if place.rollout_id not in held]


def any_retracted(db: Database) -> bool:
    return bool(db.value("SELECT EXISTS (SELECT 1 FROM retractions WHERE active)"))


def retracted(db: Database, rollout_ids: Iterable[str]) -> set[str]:
    """Which of these rollouts are retracted."""
    sql = "SELECT rollout_id FROM retractions WHERE active AND rollout_id IN (SELECT value FROM json_each(?))"
    return {row[0] for row in db.rows(sql, (json.dumps(sorted(set(rollout_ids))),))}


def forbidden(db: Database, ids: Sequence[int]) -> list[str]:
    """The retracted rollouts in which rows of evidence lie."""
    sql = (
        "SELECT DISTINCT x.rollout_id FROM evidence x JOIN retractions r ON r.rollout_id = x.rollout_id AND r.active"
        " WHERE x.id IN (SELECT value FROM json_each(?)) ORDER BY 1"
    )
    return [row[0] for row in db.rows(sql, (json.dumps(list(ids)),))]


def insert(db: Database, entry_id: int, places: Sequence[Evidence], *, wants_ids: bool) -> list[int]:
    """Adds rows, each place of a rollout once; with `wants_ids` the ids of those that were new, or out of use."""
    sql = (
        "INSERT INTO evidence"
        " (entry_id, rollout_id, problem_id, outcome, quote, span_start, span_end, source, digest)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET active = 1 WHERE NOT active"
    )
    values = [
        (entry_id, e.rollout_id, e.problem_id, e.outcome, e.quote, *(e.span or (None, None)), e.source, digest(e))
        for e in places
    ]
    if not wants_ids:
        db.run_many(sql, values)
        return []
    return [hit["id"] for row in values for hit in db.rows(f"{sql} RETURNING id", row)]


def in_use(db: Database, ids: Sequence[int]) -> set[int]:
    """Which of these rows are in use."""
    named = json.dumps(list(ids))
    return {
        row[0]
        for row in db.rows("SELECT id FROM evidence WHERE active AND id IN (SELECT value FROM json_each(?))", (named,))
    }


def swap(db: Database, gone: Iterable[int], come: Iterable[int]) -> None:
    """Takes rows out of use and brings others back."""
    db.run_many("UPDATE evidence SET active = ? WHERE id = ?", [(0, i) for i in gone] + [(1, i) for i in come])


def digest(evidence: Evidence) -> bytes:
    return digest_of(evidence.outcome, evidence.quote, evidence.span)


def digest_of(outcome: str, quote: str, span: tuple[int, int] | None) -> bytes:
    """What tells two places in one rollout apart."""
    return hashlib.blake2b(to_json([outcome, quote, span]).encode(), digest_size=8).digest()
