"""Whether every entry is what its events made it: its words, its state, its places, folded from the first event on.

Entries, events and evidence are read side by side, a stretch of ids at a time, so memory stays flat. What is wrong
comes with what it should be, where that can be told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from sqlite3 import Row
from typing import Any

from pydantic import ValidationError

from skillbank.doctor import problems
from skillbank.doctor.report import Findings
from skillbank.records import Kind, Pair, content_hash
from skillbank.store import places
from skillbank.store.database import Database
from skillbank.store.events import KINDS, LISTS, Content, State, to_json

STRETCH = 10_000
"""Ids read at a time."""
_FIELDS = ("version", "status", "superseded_by", "withdrawn", "pinned")

Mend = Callable[[str, list[tuple[Any, ...]]], None]
"""Takes an UPDATE and its rows."""


@dataclass
class Folded:
    """An entry as its events left it."""

    kind: Kind
    values: dict[str, Any] = field(default_factory=lambda: {"superseded_by": None, "withdrawn": False, "pinned": False})
    lists: dict[str, list[Any]] = field(default_factory=lambda: {"tags": [], "flags": []})
    evidence: dict[int, bool] = field(default_factory=dict)
    """In use or not, of the rows that events name; all others came with the entry and are in use."""
    revision: int = 0
    wordings: set[str] = field(default_factory=set)
    added: bool = False
    consistent: bool = True


def fold(kind: Kind, events: list[Row]) -> Folded:
    """Every event on top of those before it. An event that does not fit them makes the result not `consistent`."""
    folded = Folded(kind)
    for event in events:
        try:
            before = None if event["before"] is None else json.loads(event["before"])
            after = json.loads(event["after"])
            _add(folded, before, after)
        except (ValueError, TypeError, KeyError, AttributeError):
            folded.consistent = False
        folded.revision = event["revision"]
    folded.consistent &= {"content", "version", "status"} <= folded.values.keys()
    return folded


def _add(folded: Folded, before: dict[str, Any] | None, after: dict[str, Any]) -> None:
    if (before is None) == folded.added:
        folded.consistent = False
    folded.added = True
    for name, value in after.items():
        if name == "evidence":
            gone, come = (before or {}).get(name, []), value
            folded.consistent &= all(folded.evidence.get(i, True) for i in gone)
            folded.evidence |= dict.fromkeys(gone, False) | dict.fromkeys(come, True)
        elif name in LISTS:
            gone, items = (before or {}).get(name, []), folded.lists[name]
            folded.consistent &= all(item in items for item in gone) and not any(item in items for item in value)
            items = [item for item in items if item not in gone] + [item for item in value if item not in items]
            folded.lists[name] = sorted(items) if name == "tags" else items
        else:
            if before is not None:
                folded.consistent &= folded.values.get(name) == before[name]
            folded.values[name] = value
            if name == "content":
                folded.wordings.add(_hash(folded.kind, value))


def _hash(kind: Kind, content: Mapping[str, Any]) -> str:
    return content_hash(KINDS[kind].model_validate(content))


def check_replay(
    db: Database, findings: Findings, on_progress: Callable[[int], None], mend: Mend | None = None
) -> None:
    """Checks all entries; with `mend`, hands on the updates that set right what events tell."""
    last = int(db.value("SELECT coalesce(max(id), 0) FROM entries"))
    expected = 0
    for start in range(1, last + 1, STRETCH):
        end = start + STRETCH - 1
        updates: dict[str, list[tuple[Any, ...]]] = {}
        with closing(_side_by_side(db, start, end)) as entries:
            for row, events, evidence in entries:
                folded = fold(row["kind"], events)
                checked = _Checked(row, folded, findings, updates)
                checked.state()
                checked.places(evidence)
                expected += len(folded.wordings)
                for digest in folded.wordings:
                    known = "SELECT 1 FROM wordings WHERE kind = ? AND content_hash = ? AND entry_id = ?"
                    if db.value(known, (row["kind"], digest, row["id"])) is None:
                        findings.add(problems.WORDING, f"entry {row['id']}")
        if mend is not None:
            for sql, rows in updates.items():
                mend(sql, rows)
        on_progress(min(end, last))
    told = findings.has(problems.WORDING, problems.CHAIN, problems.DISAGREE, problems.EVENTLESS)
    if not told and db.value("SELECT count(*) FROM wordings") != expected:
        findings.add(problems.WORDING, detail="it has wordings that no entry had")
    _check_retractions(db, findings)


def _side_by_side(db: Database, start: int, end: int) -> Generator[tuple[Row, list[Row], Iterator[Row]], None, None]:
    """(entry, its events, its evidence) of a stretch of ids."""
    between = "WHERE {} BETWEEN ? AND ? ORDER BY {}"
    sql = (
        f"SELECT * FROM entries {between.format('id', 'id')}",
        f"SELECT * FROM events {between.format('entry_id', 'entry_id, id')}",
        f"SELECT * FROM evidence {between.format('entry_id', 'entry_id')}",
    )
    entries, all_events, all_evidence = (db.stream(query, (start, end)) for query in sql)
    with closing(entries), closing(all_events), closing(all_evidence):
        events = groupby(all_events, key=lambda row: row["entry_id"])
        evidence = groupby(all_evidence, key=lambda row: row["entry_id"])
        of_events, of_evidence = next(events, None), next(evidence, None)
        for row in entries:
            while of_events is not None and of_events[0] < row["id"]:
                of_events = next(events, None)  # of entries that are not there: foreign_key_check tells
            while of_evidence is not None and of_evidence[0] < row["id"]:
                of_evidence = next(evidence, None)
            own_events: list[Row] = []
            own_evidence: Iterator[Row] = iter(())
            if of_events is not None and of_events[0] == row["id"]:
                own_events, of_events = list(of_events[1]), next(events, None)
            if of_evidence is not None and of_evidence[0] == row["id"]:
                own_evidence = of_evidence[1]
            yield row, own_events, own_evidence


@dataclass
class _Checked:
    """One entry under the eye of the doctor."""

    row: Row
    folded: Folded
    findings: Findings
    updates: dict[str, list[tuple[Any, ...]]]

    @property
    def name(self) -> str:
        return f"entry {self.row['id']}"

    def state(self) -> None:
        if not self.folded.added:
            self.findings.add(problems.EVENTLESS, self.name)
            return
        wrong = self._differing()
        if wrong:
            problem = problems.STATE if self.folded.consistent and self._tells(wrong) else problems.DISAGREE
            self.findings.add(problem, self.name, detail=", ".join(wrong))
            if problem is problems.STATE:
                columns = {name: self._column(name) for name in wrong}
                if "content" in wrong:
                    columns["text"] = _text(KINDS[self.folded.kind].model_validate(self.folded.values["content"]))
                self._update(columns)
                return  # and what hangs on its words is looked at when it says them again
        elif not self.folded.consistent:
            self.findings.add(problems.CHAIN, self.name)
        self._words()

    def _differing(self) -> list[str]:
        """Names of the columns that are not as the events left them."""
        wrong = [name for name in _FIELDS if self.row[name] != self.folded.values.get(name)]
        wrong += ["revision"] if self.row["revision"] != self.folded.revision else []
        for name, expected in (*self.folded.lists.items(), ("content", self.folded.values.get("content"))):
            try:
                same = json.loads(self.row[name]) == expected
            except (ValueError, TypeError):
                same = False
            wrong += [] if same else [name]
        return wrong

    def _tells(self, wrong: list[str]) -> bool:
        """Whether it is the entry that is wrong, and not its events: the hash of its words knows."""
        try:
            State.model_validate(self.folded.values | self.folded.lists)
            return (
                "content" not in wrong
                or _hash(self.folded.kind, self.folded.values["content"]) == self.row["content_hash"]
            )
        except (ValidationError, KeyError):
            return False

    def _column(self, name: str) -> Any:
        if name == "revision":
            return self.folded.revision
        if name in self.folded.lists:
            return to_json(self.folded.lists[name])
        value = self.folded.values[name]
        return to_json(value) if name == "content" else value

    def _words(self) -> None:
        """What it says: of its kind, under its hash, and searched by the same words."""
        try:
            content = KINDS[self.row["kind"]].model_validate_json(self.row["content"])
        except (ValidationError, KeyError):
            self.findings.add(problems.CONTENT, self.name)
            return
        if content_hash(content) != self.row["content_hash"]:
            self.findings.add(problems.HASH, self.name)
            self._update({"content_hash": content_hash(content)})
        sides = self.row["skill_id"], self.row["mistake_id"]
        if isinstance(content, Pair) and (content.skill_id, content.mistake_id) != sides:
            self.findings.add(problems.SIDES, self.name)
        if self.row["text"] != _text(content):
            self.findings.add(problems.TEXT, self.name)
            self._update({"text": _text(content)})

    def places(self, evidence: Iterator[Row]) -> None:
        named = dict(self.folded.evidence)
        for row in evidence:
            span = None if row["span_start"] is None else (row["span_start"], row["span_end"])
            if places.digest_of(row["outcome"], row["quote"], span) != row["digest"]:
                self.findings.add(problems.QUOTE, f"{self.name}, place {row['id']}")
            use = named.pop(row["id"], True)
            if bool(row["active"]) != use:
                self.findings.add(problems.EVIDENCE, f"{self.name}, place {row['id']}")
                self._queue("UPDATE evidence SET active = ? WHERE id = ?", (use, row["id"]))
        if named:
            self.findings.add(problems.CHAIN, self.name, detail="events name places that are not there")

    def _update(self, columns: Mapping[str, Any]) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self._queue(f"UPDATE entries SET {assignments} WHERE id = ?", (*columns.values(), self.row["id"]))

    def _queue(self, sql: str, values: tuple[Any, ...]) -> None:
        self.updates.setdefault(sql, []).append(values)


def _text(content: Content) -> str | None:
    return None if isinstance(content, Pair) else content.text()


def _check_retractions(db: Database, findings: Findings) -> None:
    expected = retractions(db)
    own = {row[0]: bool(row[1]) for row in db.rows("SELECT rollout_id, active FROM retractions")}
    for rollout_id in sorted(own.keys() | expected.keys()):
        if own.get(rollout_id) != expected.get(rollout_id):
            findings.add(problems.RETRACTIONS, f"rollout {rollout_id}")


def retractions(db: Database) -> dict[str, bool]:
    """Rollout -> whether it is retracted, as the events tell."""
    found: dict[str, bool] = {}
    for row in db.stream("SELECT before, after FROM events WHERE entry_id IS NULL ORDER BY id"):
        found |= dict.fromkeys(json.loads(row["before"])["retracted"], False)
        found |= dict.fromkeys(json.loads(row["after"])["retracted"], True)
    return found


def wordings(db: Database) -> Iterator[tuple[Kind, str, int]]:
    """(kind, hash, entry) of every wording that an entry ever had, as the events tell."""
    sql = (
        "SELECT v.entry_id, e.kind, json_extract(v.after, '$.content') AS said FROM events v"
        " JOIN entries e ON e.id = v.entry_id WHERE said IS NOT NULL"
    )
    for row in db.stream(sql):
        yield row["kind"], _hash(row["kind"], json.loads(row["said"])), row["entry_id"]
