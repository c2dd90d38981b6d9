"""The bank: skills, mistakes and pairs in one SQLite file, with everything that ever happened to them.

    with Bank.open_or_create("bank") as bank:
        bank.add_mined(pairs, actor="miner", reason="rollouts.jsonl")
        with bank.change(actor="me", reason="clumsy") as change:
            change.set_status([7], "disabled")
        bank.undo(actor="me")

Retrievable are active skills and mistakes, except those that belong to pairs of which none is active any more. Two that
are joined by a pair entry that is not active are never retrieved together.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from skillbank import usage
from skillbank.change import KINDS, Change, Event
from skillbank.database import Database
from skillbank.errors import BankExists, BankNotFound, EntryNotFound, InvalidEntry
from skillbank.query import COLUMNS, ORDER, SIDES, Sort, retrievable, selection, to_entry, to_event, to_evidence
from skillbank.records import (
    Entry,
    Evidence,
    Flag,
    Kind,
    MinedPair,
    Mistake,
    Pair,
    Record,
    Skill,
    Status,
    content_hash,
)
from skillbank.usage import Usage, UsageRow

__all__ = ["Bank", "BankStats", "Change", "Event", "Usage", "UsageRow"]

FILE = "bank.sqlite"


class BankStats(Record):
    """What a bank holds, in numbers."""

    entries: dict[Kind, int]
    """Of all statuses."""
    by_status: dict[Status, int]
    retrievable: dict[Kind, int]
    """Skills and mistakes that retrieval may return."""
    evidence: int
    usage: int
    """Rows of the usage ledger."""
    revision: int
    embedder: str | None


class Bank:
    """A folder with `bank.sqlite` in it. Use `create`, `open` or `open_or_create`, and `with` or `close`."""

    def __init__(self, path: Path, db: Database, *, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self.db = db

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """Makes an empty bank. Raises BankExists when the folder has one."""
        path = Path(path)
        if (path / FILE).exists():
            raise BankExists(f"{path} holds a bank already: open it, or name another folder")
        if path.exists() and not path.is_dir():
            raise BankExists(f"{path} is a file: name a folder for the bank")
        path.mkdir(parents=True, exist_ok=True)
        try:
            bank = cls(path, Database(path / FILE, create=True), readonly=False)
            bank.set_meta("bank_id", uuid.uuid4().hex)
        except BaseException:
            (path / FILE).unlink(missing_ok=True)
            raise
        return bank

    @classmethod
    def open(cls, path: str | Path, *, readonly: bool = False) -> Self:
        """Opens a bank. Raises BankNotFound, or BankCorrupt when the file is damaged or no bank."""
        path = Path(path)
        if not (path / FILE).is_file():
            raise BankNotFound(f"no bank at {path}: build one with `sgsd bank build --rollouts FILE --bank {path}`")
        return cls(path, Database(path / FILE, readonly=readonly), readonly=readonly)

    @classmethod
    def open_or_create(cls, path: str | Path) -> Self:
        return cls.open(path) if (Path(path) / FILE).exists() else cls.create(path)

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Changing it

    @property
    def revision(self) -> int:
        """How many changes the bank has seen; 0 when it is new."""
        return int(self.db.value("SELECT coalesce(max(revision), 0) FROM revisions"))

    @contextmanager
    def change(self, *, actor: str, reason: str = "") -> Iterator[Change]:
        """One transaction and one revision. An exception inside leaves the bank as it was; so does changing nothing."""
        if self.readonly:
            raise InvalidEntry(f"{self.path} is open for reading only: open it without readonly to change it")
        with suppress(_Abandoned), self.db.transaction():
            change = Change(self.db, self.revision + 1, actor, reason)
            yield change
            if change.abandoned:
                raise _Abandoned
            change.finish()

    def undo(self, revision: int | None = None, *, actor: str, reason: str = "") -> int:
        """Writes the inverse of a revision (the latest by default) as a new revision, and returns that one's number."""
        with self.change(actor=actor, reason=reason) as change:
            change.undo(self.revision if revision is None else revision)
        return change.revision

    def add_mined(self, pairs: Iterable[MinedPair], *, actor: str, reason: str = "") -> list[int]:
        """Adds mined pairs in one revision and returns the id of each one's pair entry.

        A skill or mistake that the bank holds in the very same words gains the evidence and keeps its status: what was
        disabled by hand stays so however often it is mined again.
        """
        with self.change(actor=actor, reason=reason) as change:
            return [self._add_pair(change, pair) for pair in pairs]

    def _add_pair(self, change: Change, mined: MinedPair) -> int:
        skill_id = self._add_once(change, mined.skill, mined.origin, mined.skill_evidence)
        mistake_id = self._add_once(change, mined.mistake, mined.origin, mined.mistake_evidence)
        known = self.db.value(
            "SELECT id FROM entries WHERE kind = 'pair' AND skill_id = ? AND mistake_id = ? AND NOT withdrawn",
            (skill_id, mistake_id),
        )
        if known is not None:
            return int(known)
        return change.add(Pair(skill_id=skill_id, mistake_id=mistake_id), origin=mined.origin)

    def _add_once(self, change: Change, content: Skill | Mistake, origin: str, evidence: Sequence[Evidence]) -> int:
        kind = "skill" if isinstance(content, Skill) else "mistake"
        known = self.db.row(
            "SELECT id, superseded_by FROM entries WHERE kind = ? AND content_hash = ? AND NOT withdrawn"
            " ORDER BY superseded_by IS NOT NULL, id LIMIT 1",
            (kind, content_hash(content)),
        )
        while known is not None and known["superseded_by"] is not None:
            known = self.db.row("SELECT id, superseded_by FROM entries WHERE id = ?", (known["superseded_by"],))
        if known is None:
            return change.add(content, origin=origin, evidence=evidence)
        change.add_evidence(known["id"], evidence)
        return int(known["id"])

    # Reading it

    def get(self, entry_id: int) -> Entry:
        """Raises EntryNotFound."""
        row = self.db.row(f"SELECT {COLUMNS} FROM entries e WHERE e.id = ?", (entry_id,))
        if row is None:
            raise EntryNotFound(f"no entry {entry_id} in {self.path}")
        return to_entry(row)

    def entries(
        self,
        kind: Kind | None = None,
        status: Status | None = None,
        origin: str | None = None,
        ids: Iterable[int] | None = None,
        text: str | None = None,
        sort: Sort = "id",
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Entry]:
        """Entries that fit every criterion given. `text`: all its words occur (in a pair: in one of its two sides)."""
        source, parameters = selection(kind, status, origin, ids, text)
        if sort == "relevance" and text is None:
            raise InvalidEntry("sort 'relevance' wants a text: give text=..., or sort by id, newest, evidence, changed")
        rows = self.db.rows(
            f"SELECT {COLUMNS} FROM {source} ORDER BY {ORDER[sort]} LIMIT ? OFFSET ?",
            (*parameters, -1 if limit is None else limit, offset),
        )
        return [to_entry(row) for row in rows]

    def count(
        self,
        kind: Kind | None = None,
        status: Status | None = None,
        origin: str | None = None,
        text: str | None = None,
    ) -> int:
        source, parameters = selection(kind, status, origin, None, text)
        return int(self.db.value(f"SELECT count(*) FROM {source}", parameters))

    def evidence(self, entry_id: int) -> list[Evidence]:
        """What an entry rests on; for a pair, its skill's evidence and then its mistake's."""
        content = self.get(entry_id).content
        if isinstance(content, Pair):
            return self.evidence(content.skill_id) + self.evidence(content.mistake_id)
        rows = self.db.rows("SELECT * FROM evidence WHERE entry_id = ? AND active ORDER BY id", (entry_id,))
        return [to_evidence(row) for row in rows]

    def flags(self, entry_id: int) -> list[Flag]:
        rows = self.db.rows("SELECT rule, reason FROM flags WHERE entry_id = ? ORDER BY id", (entry_id,))
        return [Flag(rule=row["rule"], reason=row["reason"]) for row in rows]

    def history(self, entry_id: int) -> list[Event]:
        """Everything that happened to an entry, oldest first."""
        return self._events("e.entry_id = ?", entry_id)

    def events(self, revision: int) -> list[Event]:
        """Everything that one revision did."""
        return self._events("e.revision = ?", revision)

    def _events(self, where: str, parameter: int) -> list[Event]:
        columns = "e.id, e.revision, r.at, r.actor, r.reason, e.op, e.entry_id, e.before, e.after"
        rows = self.db.rows(
            f"SELECT {columns} FROM events e JOIN revisions r USING (revision) WHERE {where} ORDER BY e.id",
            (parameter,),
        )
        return [to_event(row) for row in rows]

    def stats(self) -> BankStats:
        by_kind = {row[0]: row[1] for row in self.db.rows("SELECT kind, count(*) FROM entries GROUP BY kind")}
        by_status = {row[0]: row[1] for row in self.db.rows("SELECT status, count(*) FROM entries GROUP BY status")}
        return BankStats(
            entries={kind: by_kind.get(kind, 0) for kind in KINDS},
            by_status=by_status,
            retrievable={kind: len(self.retrievable(kind)) for kind in SIDES},
            evidence=self.db.value("SELECT count(*) FROM evidence WHERE active"),
            usage=self.db.value("SELECT count(*) FROM usage"),
            revision=self.revision,
            embedder=self.meta("embedder"),
        )

    # What retrieval and training keep in it

    def retrievable(self, kind: Kind, *, ids: Iterable[int] | None = None) -> list[int]:
        """Ids of the skills or mistakes (among `ids`, when given) that retrieval may return, in order."""
        source, parameters = retrievable(kind, ids)
        return [row[0] for row in self.db.rows(f"SELECT e.id FROM {source} ORDER BY e.id", parameters)]

    def pair_of(self, skill_id: int, mistake_id: int) -> tuple[int, bool] | None:
        """(pair id, active) of the pair entry that joins the two, an active one first; None when there is none."""
        row = self.db.row(
            "SELECT id, status = 'active' AS active FROM entries"
            " WHERE kind = 'pair' AND skill_id = ? AND mistake_id = ? AND NOT withdrawn"
            " ORDER BY active DESC, id LIMIT 1",
            (skill_id, mistake_id),
        )
        return None if row is None else (row["id"], bool(row["active"]))

    def pairs_with(self, entry_id: int) -> list[Entry]:
        """The pair entries that a skill or a mistake is part of."""
        where = "e.kind = 'pair' AND ? IN (e.skill_id, e.mistake_id)"
        rows = self.db.rows(f"SELECT {COLUMNS} FROM entries e WHERE {where} ORDER BY e.id", (entry_id,))
        return [to_entry(row) for row in rows]

    def resting_on(self, problem_id: str) -> set[int]:
        """Ids of the skills and mistakes all of whose evidence comes from this one problem."""
        rows = self.db.rows(
            "SELECT DISTINCT entry_id FROM evidence e WHERE problem_id = ?1 AND active AND NOT EXISTS"
            " (SELECT 1 FROM evidence o WHERE o.entry_id = e.entry_id AND o.active AND o.problem_id <> ?1)",
            (problem_id,),
        )
        return {row[0] for row in rows}

    def meta(self, key: str) -> str | None:
        value: str | None = self.db.value("SELECT value FROM meta WHERE key = ?", (key,))
        return value

    def set_meta(self, key: str, value: str) -> None:
        self.db.run("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (key, value))

    def record_usage(self, rows: Iterable[UsageRow]) -> None:
        """Appends to the usage ledger. Not a change of the bank: no revision."""
        usage.record(self.db, rows)

    def usage(self, entry_id: int) -> Usage:
        """What training measured of the teachers made of an entry (of a pair: of its skill and mistake together)."""
        entry = self.get(entry_id)
        if isinstance(entry.content, Pair):
            return usage.of_teachers(self.db, skill_id=entry.content.skill_id, mistake_id=entry.content.mistake_id)
        if entry.kind == "skill":
            return usage.of_teachers(self.db, skill_id=entry_id)
        return usage.of_teachers(self.db, mistake_id=entry_id)


class _Abandoned(Exception):
    """A change that was only previewed: rolled back."""
