"""Mending what hangs on something else in the bank: each step computes its part again from what it rests on.

Everything in the database is mended in one transaction: whoever is killed in between has mended nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from skillbank.doctor import problems, replay, rows
from skillbank.doctor.embedding import fingerprint_of, wrong_vectors
from skillbank.doctor.file import VOUCHED, expected_schema, schema_of
from skillbank.doctor.leftovers import remove_leftovers
from skillbank.doctor.report import Findings
from skillbank.store import lineage, query
from skillbank.store.database import Database
from skillbank.store.events import to_json

ORDER: tuple[problems.Repair, ...] = (
    "schema",
    "reindex",
    "state",
    "retractions",
    "wordings",
    "heads",
    "counts",
    "retrievable",
    "usage",
    "search",
    "vectors",
    "embed",
    "index",
    "leftovers",
)
"""Each rests on those before it."""


def mend(db: Database, bank: Path, wanted: set[problems.Repair]) -> None:
    """Takes the steps that are wanted, and those that rest on them."""
    steps = set(wanted)
    if steps & {"schema", "reindex", "state"}:  # what was wrong there may have made wrong what is computed from it
        steps |= {"heads", "counts", "retrievable", "search"}
    if steps & {"heads", "counts"}:
        steps |= {"heads", "counts"}
    if steps & {"vectors", "embed"}:
        steps.add("index")
    for step in ORDER:
        if step in steps and step in _OF_DATABASE_ALONE:
            _OF_DATABASE_ALONE[step](db)
    with db.transaction():
        rows.prepare(db)
        for step in ORDER:
            if step in steps and step in _IN_DATABASE:
                _IN_DATABASE[step](db)
    if "index" in steps:
        remove_index(bank)
    if "leftovers" in steps:
        remove_leftovers(bank)


def remove_index(bank: Path) -> None:
    """It is a cache, and is built again from the vectors when it is needed."""
    root = bank / "index"
    (root / "CURRENT").unlink(missing_ok=True)
    for generation in root.glob("gen-*"):
        shutil.rmtree(generation, ignore_errors=True)


def _schema(db: Database) -> None:
    """Indexes, views and triggers that are missing or others."""
    own = schema_of(db)
    for name, (kind, sql) in expected_schema().items():
        if kind == "table" or own.get(name, ("", ""))[1] == sql:
            continue
        if name in own:
            db.run(f"DROP {own[name][0]} {name}")
        db.run(sql)


def _reindex(db: Database) -> None:
    for table in VOUCHED:
        db.run(f"REINDEX {table}")


def _state(db: Database) -> None:
    """Entries and the use of places as events left them; hashes and texts as the words are."""
    replay.check_replay(db, Findings(), lambda done: None, mend=db.run_many)


def _retractions(db: Database) -> None:
    db.run("DELETE FROM retractions")
    db.run_many("INSERT INTO retractions VALUES (?, ?)", replay.retractions(db).items())


def _wordings(db: Database) -> None:
    db.run("DELETE FROM wordings")
    db.run_many("INSERT OR IGNORE INTO wordings VALUES (?, ?, ?)", replay.wordings(db))


def _heads(db: Database) -> None:
    rows.prepare(db)
    expected = "(SELECT nullif(c.head, c.id) FROM temp.chains c WHERE c.id = entries.id)"
    db.run(f"UPDATE entries SET head = {expected} WHERE head IS NOT {expected}")


def _counts(db: Database) -> None:
    rows.prepare(db)
    for kinds in ("<>", "="):  # pairs last: theirs are sums of their sides'
        among = f"e.kind {kinds} 'pair' AND e.evidence_count IS NOT {rows.COUNT}"
        db.run(f"UPDATE entries AS e SET evidence_count = {rows.COUNT} WHERE {among}")


def _retrievable(db: Database) -> None:
    for kind, side in query.SIDES.items():
        should = lineage.RETRIEVABLE.format(side=side)
        db.run(
            f"UPDATE entries AS e SET retrievable = {should} WHERE e.kind = '{kind}' AND retrievable IS NOT {should}"
        )
    db.run("UPDATE entries SET retrievable = 0 WHERE kind = 'pair' AND retrievable")


def _usage(db: Database) -> None:
    db.run("DELETE FROM usage_totals")
    columns = "skill_id, mistake_id, helpful, harmful, neutral, support_sum"
    db.run(f"INSERT INTO usage_totals ({columns}) SELECT {columns} FROM ({rows.SUMS})")


def _search(db: Database) -> None:
    db.run("INSERT INTO entry_text (entry_text) VALUES ('rebuild')")


def _vectors(db: Database) -> None:
    """Drops those that are none: they are computed again when they are needed."""
    fingerprint = fingerprint_of(db)
    if fingerprint is not None:
        wrong = to_json(list(wrong_vectors(db, fingerprint)))
        among = "content_hash IN (SELECT value FROM json_each(?))"
        db.run(f"DELETE FROM vectors WHERE fingerprint = ? AND {among}", (fingerprint.digest, wrong))


def _embed(db: Database) -> None:
    """Drops all of the bank's embedder: some are not those of their words, so none can be believed."""
    fingerprint = fingerprint_of(db)
    if fingerprint is not None:
        db.run("DELETE FROM vectors WHERE fingerprint = ?", (fingerprint.digest,))


_OF_DATABASE_ALONE: dict[problems.Repair, Callable[[Database], None]] = {"schema": _schema, "reindex": _reindex}
_IN_DATABASE: dict[problems.Repair, Callable[[Database], None]] = {
    "state": _state,
    "retractions": _retractions,
    "wordings": _wordings,
    "heads": _heads,
    "counts": _counts,
    "retrievable": _retrievable,
    "usage": _usage,
    "search": _search,
    "vectors": _vectors,
    "embed": _embed,
}
