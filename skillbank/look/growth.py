"""How a bank grew: entries by kind as they stood after each revision that added some."""

from __future__ import annotations

from skillbank.records import Kind, Record
from skillbank.store import Bank
from skillbank.store.events import KINDS


class Stand(Record):
    """A bank after a revision."""

    revision: int
    at: str
    """UTC, ISO 8601."""
    entries: dict[Kind, int]
    """Ever added, up to then; entries never go, whatever becomes of their status."""


def growth(bank: Bank, points: int) -> list[Stand]:
    """The bank after at most `points` revisions that added entries, evenly chosen, the last one among them."""
    sql = (
        "SELECT r.revision, r.at, e.kind, count(*) AS added FROM events v JOIN entries e ON e.id = v.entry_id"
        " JOIN revisions r ON r.revision = v.revision WHERE v.op = 'add' GROUP BY r.revision, e.kind"
        " ORDER BY r.revision"
    )
    counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    stands: list[Stand] = []
    for revision, at, kind, added in bank.db.rows(sql):
        counts[kind] += added
        stand = Stand(revision=revision, at=at, entries=dict(counts))
        if stands and stands[-1].revision == revision:
            stands[-1] = stand
        else:
            stands.append(stand)
    every = max(1, -(-len(stands) // points))
    return stands[len(stands) - 1 :: -every][::-1] if stands else []
