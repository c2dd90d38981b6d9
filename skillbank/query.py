"""Selecting entries: criteria into SQL, rows into records."""

from __future__ import annotations

import re
from collections.abc import Iterable
from sqlite3 import Row
from typing import Any, Literal

from skillbank.change import KINDS, Event, State
from skillbank.records import Entry, Evidence, Kind, Status

Sort = Literal["id", "newest", "evidence", "changed", "relevance"]

_EVIDENCE_COUNT = """CASE e.kind WHEN 'pair' THEN
    (SELECT sum(part.evidence_count) FROM entries part WHERE part.id IN (e.skill_id, e.mistake_id))
    ELSE e.evidence_count END"""
COLUMNS = (
    "e.id, e.kind, e.content, e.status, e.origin, e.version, e.revision, e.superseded_by, "
    f"{_EVIDENCE_COUNT} AS evidence_count"
)
ORDER: dict[Sort, str] = {
    "id": "e.id",
    "newest": "e.id DESC",
    "evidence": "evidence_count DESC, e.id",
    "changed": "e.revision DESC, e.id",
    "relevance": "hit.rank, e.id",
}
SIDES: dict[Kind, str] = {"skill": "skill_id", "mistake": "mistake_id"}
"""The kinds that are retrieved, and the column that names each in a pair."""

_MATCH = """
    WITH found AS MATERIALIZED (SELECT rowid AS id, rank FROM entry_text WHERE entry_text MATCH ?)
    SELECT id, min(rank) AS rank FROM (
        SELECT id, rank FROM found
        UNION ALL SELECT p.id, f.rank FROM found f JOIN entries p ON p.kind = 'pair' AND p.skill_id = f.id
        UNION ALL SELECT p.id, f.rank FROM found f JOIN entries p ON p.kind = 'pair' AND p.mistake_id = f.id
    ) GROUP BY id"""


def selection(
    kind: Kind | None, status: Status | None, origin: str | None, ids: Iterable[int] | None, text: str | None
) -> tuple[str, list[Any]]:
    """The FROM and WHERE of a selection of entries, and its parameters."""
    source = "entries e"
    parameters: list[Any] = []
    where = ["1"]
    if text is not None:
        source = f"entries e JOIN ({_MATCH}) hit ON hit.id = e.id"
        parameters.append(_match_expression(text))
    for column, value in (("kind", kind), ("status", status), ("origin", origin)):
        if value is not None:
            where.append(f"e.{column} = ?")
            parameters.append(value)
    if ids is not None:
        where.append(_AMONG)
        parameters.append(_json_list(ids))
    return f"{source} WHERE {' AND '.join(where)}", parameters


def retrievable(kind: Kind, ids: Iterable[int] | None = None) -> tuple[str, list[Any]]:
    """FROM, WHERE and parameters of the entries `e` of a kind that retrieval may return (store.py says which)."""
    pairs = f"SELECT 1 FROM entries p WHERE p.kind = 'pair' AND p.{SIDES[kind]} = e.id"
    where = (
        "e.kind = ? AND e.status = 'active'"
        f" AND (NOT EXISTS ({pairs} AND NOT p.withdrawn) OR EXISTS ({pairs} AND p.status = 'active'))"
    )
    if ids is None:
        return f"entries e WHERE {where}", [kind]
    return f"entries e WHERE {where} AND {_AMONG}", [kind, _json_list(ids)]


_AMONG = "e.id IN (SELECT value FROM json_each(?))"


def _json_list(ids: Iterable[int]) -> str:
    return f"[{','.join(str(int(i)) for i in ids)}]"


def _match_expression(text: str) -> str:
    """Any text as a query of FTS5: its words, quoted, all of which must occur."""
    words = re.findall(r"\w+", text)
    return " ".join(f'"{word}"' for word in words) or '""'


def to_entry(row: Row) -> Entry:
    values = dict(row)
    values["content"] = KINDS[values["kind"]].model_validate_json(values["content"])
    return Entry(**values)


def to_evidence(row: Row) -> Evidence:
    values = {name: row[name] for name in Evidence.model_fields if name != "span"}
    span = None if row["span_start"] is None else (row["span_start"], row["span_end"])
    return Evidence(**values, span=span)


def to_event(row: Row) -> Event:
    values = dict(row)
    before = values.pop("before")
    return Event(
        **{**values, "after": State.model_validate_json(values["after"])},
        before=None if before is None else State.model_validate_json(before),
    )
