"""The database file itself: SQLite's own checks, the schema, the search index. What the rows say is in `rows.py`."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator

from skillbank.doctor import problems
from skillbank.doctor.report import SHOWN, Findings
from skillbank.errors import BankBusy, BankCorrupt
from skillbank.store.database import Database
from skillbank.store.schema import LATER, SCHEMA

_OF_TREES = re.compile(r"(?:missing from|entries in|entry in) index (\S+)$")
"""How SQLite words what REINDEX mends."""
VOUCHED = ("entries", "events", "wordings", "usage_totals")
"""Tables whose rows are checked against others: it shows when the row is wrong, and not the tree."""


def check_pages(db: Database, findings: Findings) -> None:
    """Every page, every row against every index, every reference."""
    for row in db.rows(f"PRAGMA integrity_check({SHOWN})"):
        if row[0] != "ok":
            findings.add(_problem(db, row[0]), detail=row[0])
    for row in db.stream("PRAGMA foreign_key_check"):
        findings.add(problems.FOREIGN, f"{row[0]} {row[1]}", detail=f"{row[0]} names a missing row of {row[2]}")


def _problem(db: Database, told: str) -> problems.Problem:
    tree = _OF_TREES.search(told)
    if tree is None:
        return problems.DAMAGED
    table = db.value("SELECT tbl_name FROM sqlite_master WHERE name = ?", (tree[1],))
    return problems.TREE if table in VOUCHED else problems.ROW_OR_TREE


def check_schema(db: Database, findings: Findings) -> None:
    """Tables, indexes, views and triggers against this version's."""
    own = schema_of(db)
    expected = expected_schema(also=own.keys())
    for name, (kind, sql) in expected.items():
        if own.get(name, ("", ""))[1] != sql:
            findings.add(problems.TABLE if kind == "table" else problems.SCHEMA, f"{kind} {name}")
    for name in own.keys() - expected.keys():
        findings.add(problems.ADDED, f"{own[name][0]} {name}")
    if db.value("SELECT value FROM meta WHERE key = 'bank_id'") is None:
        findings.add(problems.BANK_ID)


def check_search(db: Database, findings: Findings, *, writable: bool) -> None:
    """The search index against the texts. FTS5's check is worded as a write, so others wait for it."""
    if not writable:
        findings.add(problems.UNSEARCHED, detail="the bank's folder can only be read")
        return
    try:
        db.run("INSERT INTO entry_text (entry_text, rank) VALUES ('integrity-check', 1)")
    except BankBusy as error:
        findings.add(problems.UNSEARCHED, detail=str(error))
    except BankCorrupt:
        findings.add(problems.SEARCH)


def schema_of(db: Database) -> dict[str, tuple[str, str]]:
    """Name -> (kind, SQL) of all that was made by name; what SQLite and FTS5 make for themselves is theirs to check."""
    return dict(_named(db.rows("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")))


def expected_schema(also: Collection[str] = ()) -> dict[str, tuple[str, str]]:
    """The same of a new bank, with those of the tables that come later that are named by `also`."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(SCHEMA)
        for name in LATER.keys() & also:
            connection.execute(LATER[name])
        return dict(_named(connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")))
    finally:
        connection.close()


def _named(rows: sqlite3.Cursor | list[sqlite3.Row]) -> Iterator[tuple[str, tuple[str, str]]]:
    for kind, name, sql in rows:
        if not name.startswith("sqlite_"):
            yield name, (kind, sql)
