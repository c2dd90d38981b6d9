"""Changing a bank: one `Change` is one transaction and one revision, written down as events that can be undone.

An event holds the touched fields before and after. Undoing a revision writes what stood before as a new revision, so an
undo is itself undone the same way. Nothing is deleted: undoing an addition retires the entry and marks it withdrawn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from sqlite3 import Row
from typing import Any, Literal, NamedTuple

from skillbank.database import Database
from skillbank.errors import EntryNotFound, InvalidEntry
from skillbank.records import Evidence, Flag, Kind, Mistake, Pair, Record, Skill, Status, content_hash

Content = Skill | Mistake | Pair
Op = Literal["add", "edit", "status", "supersede", "evidence", "undo"]
KINDS: dict[Kind, type[Skill] | type[Mistake] | type[Pair]] = {"skill": Skill, "mistake": Mistake, "pair": Pair}


class State(Record):
    """The fields of an entry that an event touched (`model_fields_set` tells which)."""

    content: Content | None = None
    version: int | None = None
    status: Status | None = None
    superseded_by: int | None = None
    withdrawn: bool | None = None
    evidence: tuple[int, ...] | None = None
    """Ids of evidence rows that came or went."""


class Event(Record):
    """One entry in one revision: what was done, by whom, why."""

    id: int
    revision: int
    at: str
    """UTC, ISO 8601."""
    actor: str
    reason: str
    op: Op
    entry_id: int
    before: State | None
    """None when the event added the entry."""
    after: State


class PendingEvent(NamedTuple):
    """An event of a change that is not committed yet: the touched fields as JSON values."""

    entry_id: int
    op: Op
    before: dict[str, Any] | None
    after: dict[str, Any]


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


class Change:
    """One batch of changes, open for the length of `with bank.change(...) as change`."""

    def __init__(self, db: Database, revision: int, actor: str, reason: str) -> None:
        self.revision = revision
        """The revision this change becomes, if it changes anything."""
        self._db = db
        self._actor, self._reason = actor, reason
        self._undoes: int | None = None
        self._events: list[tuple[int, Op, str | None, str]] = []
        self._added: set[int] = set()
        self._recount = False
        self.abandoned = False
        """Set it to roll everything back at the end, without an exception: a preview."""

    @property
    def events(self) -> list[PendingEvent]:
        """What was done so far."""
        return [
            PendingEvent(entry_id, op, None if before is None else json.loads(before), json.loads(after))
            for entry_id, op, before, after in self._events
        ]

    def add(
        self,
        content: Content,
        *,
        kind: Kind | None = None,
        origin: str = "manual",
        status: Status = "active",
        evidence: Iterable[Evidence] = (),
        flags: Iterable[Flag] = (),
    ) -> int:
        """Adds an entry and returns its id. A pair's skill and mistake must be in the bank."""
        kind = kind or kind_of(content)
        if not isinstance(content, KINDS[kind]):
            raise InvalidEntry(f"a {kind} cannot hold a {type(content).__name__}: give a {KINDS[kind].__name__}")
        skill_id = mistake_id = text = None
        if isinstance(content, Pair):
            self._expect_kind(content.skill_id, "skill")
            self._expect_kind(content.mistake_id, "mistake")
            skill_id, mistake_id = content.skill_id, content.mistake_id
        else:
            text = content.text()
        body = to_json(content.model_dump())
        entry_id = self._db.insert(
            "INSERT INTO entries (kind, status, origin, content, content_hash, text, revision, skill_id, mistake_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (kind, status, origin, body, content_hash(content), text, self.revision, skill_id, mistake_id),
        )
        self._events.append((entry_id, "add", None, f'{{"content":{body},"status":"{status}","version":1}}'))
        self._added.add(entry_id)
        self.add_evidence(entry_id, evidence)
        self._db.run_many(
            "INSERT INTO flags (entry_id, rule, reason, revision) VALUES (?, ?, ?, ?)",
            [(entry_id, flag.rule, flag.reason, self.revision) for flag in flags],
        )
        return entry_id

    def edit(self, entry_id: int, content: Skill | Mistake) -> None:
        """Gives a skill or mistake a new wording. The same wording changes nothing."""
        kind = self._row(entry_id)["kind"]
        if kind == "pair":
            raise InvalidEntry(f"entry {entry_id} is a pair and has no words of its own: edit its skill or its mistake")
        if not isinstance(content, KINDS[kind]):
            raise InvalidEntry(f"entry {entry_id} is a {kind}: it cannot become a {kind_of(content)}")
        self._apply(entry_id, {"content": content.model_dump()}, "edit")

    def set_status(self, ids: Iterable[int], status: Status) -> None:
        """Sets the status of entries; those that have it already stay untouched."""
        if status == "superseded":
            raise InvalidEntry("an entry is superseded by another: use supersede(id, by)")
        for entry_id in ids:
            if self._row(entry_id)["status"] != status:
                self._apply(entry_id, {"status": status, "superseded_by": None, "withdrawn": False}, "status")

    def supersede(self, entry_id: int, by: int) -> None:
        """Takes an entry out in favour of another of its kind."""
        old, new = self._row(entry_id), self._row(by)
        if entry_id == by or old["kind"] != new["kind"] or new["status"] == "superseded":
            raise InvalidEntry(
                f"{old['kind']} {entry_id} cannot be superseded by {new['status']} {new['kind']} {by}: "
                f"name another {old['kind']} that is not superseded itself"
            )
        self._apply(entry_id, {"status": "superseded", "superseded_by": by}, "supersede")

    def add_evidence(self, entry_id: int, evidence: Iterable[Evidence]) -> None:
        """Adds the places an entry rests on. The same place of the same rollout counts once."""
        rows = [
            (entry_id, e.rollout_id, e.problem_id, e.outcome, e.quote, *(e.span or (None, None)), e.source, _digest(e))
            for e in evidence
        ]
        if not rows:
            return
        sql = (
            "INSERT INTO evidence"
            " (entry_id, rollout_id, problem_id, outcome, quote, span_start, span_end, source, digest)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET active = 1 WHERE NOT active"
        )
        self._recount = True
        if entry_id in self._added:  # its own addition is the event
            self._db.run_many(sql, rows)
            return
        if self._row(entry_id)["kind"] == "pair":
            raise InvalidEntry(f"entry {entry_id} is a pair: its evidence is that of its skill and its mistake")
        new = [hit["id"] for row in rows for hit in self._db.rows(f"{sql} RETURNING id", row)]
        if new:
            self._touch(entry_id)
            self._events.append((entry_id, "evidence", '{"evidence":[]}', to_json({"evidence": new})))

    def undo(self, revision: int) -> None:
        """Writes what stood before a revision. Raises InvalidEntry when a later revision changed the same fields."""
        events = self._db.rows(
            "SELECT entry_id, op, before, after FROM events WHERE revision = ? ORDER BY id DESC", (revision,)
        )
        if not events:
            raise InvalidEntry(f"no revision {revision} to undo: the bank is at revision {self.revision - 1}")
        self._undoes = revision
        for event in events:
            current = self._row(event["entry_id"])
            after = json.loads(event["after"])
            if event["before"] is None:
                before: dict[str, Any] = {"status": "retired", "withdrawn": True}
                stands = not current["withdrawn"]
            else:
                before = json.loads(event["before"])
                stands = all(
                    _field(current, name) == after[name] for name in after if name not in ("version", "evidence")
                )
            if not stands:
                raise InvalidEntry(
                    f"revision {revision} cannot be undone: entry {current['id']} was changed again in revision "
                    f"{current['revision']}; undo that one first"
                )
            if "evidence" in after:
                self._swap_evidence(current["id"], before["evidence"], after["evidence"])
            else:
                self._apply(current["id"], before, "undo")

    def _swap_evidence(self, entry_id: int, back: Sequence[int], gone: Sequence[int]) -> None:
        self._db.run_many(
            "UPDATE evidence SET active = ? WHERE id = ?", [(0, i) for i in gone] + [(1, i) for i in back]
        )
        self._recount = True
        self._touch(entry_id)
        self._events.append((entry_id, "undo", to_json({"evidence": gone}), to_json({"evidence": back})))

    def _apply(self, entry_id: int, target: dict[str, Any], op: Op) -> None:
        """Sets fields of an entry and writes the event; fields that have the value already are left out."""
        row = self._row(entry_id)
        after = {name: value for name, value in target.items() if name != "version" and _field(row, name) != value}
        if not after:
            return
        before = {name: _field(row, name) for name in after}
        columns = dict(after)
        if "content" in after:
            content = KINDS[row["kind"]].model_validate(after["content"])
            assert not isinstance(content, Pair)  # edit() refuses pairs
            before["version"], after["version"] = row["version"], row["version"] + 1
            columns = {**after, "content": to_json(after["content"]), "text": content.text()}
            columns["content_hash"] = content_hash(content)
        columns["revision"] = self.revision
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self._db.run(f"UPDATE entries SET {assignments} WHERE id = ?", (*columns.values(), entry_id))
        self._events.append((entry_id, op, to_json(before), to_json(after)))

    def _touch(self, entry_id: int) -> None:
        self._db.run("UPDATE entries SET revision = ? WHERE id = ?", (self.revision, entry_id))

    def _row(self, entry_id: int) -> Row:
        row = self._db.row("SELECT * FROM entries WHERE id = ?", (entry_id,))
        if row is None:
            raise EntryNotFound(f"no entry {entry_id} in {self._db.file.parent}")
        return row

    def _expect_kind(self, entry_id: int, kind: Kind) -> None:
        found = self._row(entry_id)["kind"]
        if found != kind:
            raise InvalidEntry(f"a pair wants a {kind} where entry {entry_id} is a {found}")

    def finish(self) -> bool:
        """Writes the revision and its events. False when nothing was changed."""
        if not self._events:
            return False
        self._db.run(
            "INSERT INTO revisions (revision, actor, reason, undoes) VALUES (?, ?, ?, ?)",
            (self.revision, self._actor, self._reason, self._undoes),
        )
        self._db.run_many(
            "INSERT INTO events (revision, entry_id, op, before, after) VALUES (?, ?, ?, ?, ?)",
            ((self.revision, *event) for event in self._events),
        )
        if self._recount:
            count = "SELECT count(*) FROM evidence WHERE entry_id = entries.id AND active"
            self._db.run(
                f"UPDATE entries SET evidence_count = ({count}) WHERE revision = ? AND kind <> 'pair'", (self.revision,)
            )
        return True


def kind_of(content: Content) -> Kind:
    return next(kind for kind, model in KINDS.items() if isinstance(content, model))


def _field(row: Row, name: str) -> Any:
    """A field of an entry as events write it."""
    value = row[name]
    if name == "content":
        return json.loads(value)
    return bool(value) if name == "withdrawn" else value


def _digest(evidence: Evidence) -> bytes:
    place = to_json([evidence.outcome, evidence.quote, evidence.span])
    return hashlib.blake2b(place.encode(), digest_size=8).digest()
