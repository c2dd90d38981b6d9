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

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from skillbank.errors import BankExists, BankNotFound, EntryNotFound, InvalidEntry, InvalidOption
from skillbank.records import (
    Entry,
    Evidence,
    Flag,
    Kind,
    MinedEntry,
    MinedPair,
    Pair,
    ProblemText,
    Record,
    RolloutFate,
    Status,
)
from skillbank.store import sources, usage
from skillbank.store.change import Change, Check
from skillbank.store.database import Database
from skillbank.store.events import KINDS, Event
from skillbank.store.matching import by_relevance
from skillbank.store.mined import add_mined
from skillbank.store.past import NetChange, net_changes
from skillbank.store.places import of_entry, resting_on
from skillbank.store.query import COLUMNS, ORDER, SIDES, Query, Sort, retrievable, selection, to_entry, to_event
from skillbank.store.usage import Usage, UsageRow

__all__ = ["Bank", "BankStats", "Change", "Event", "Query", "Revision", "Usage", "UsageRow"]

FILE = "bank.sqlite"
ANY = Query()


class Revision(Record):
    """One batch of changes."""

    revision: int
    at: str
    """UTC, ISO 8601."""
    actor: str
    reason: str
    undoes: int | None
    changed: int
    """Entries it touched."""


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
        # Made beside its place and put there whole: whoever is killed in between leaves no half bank.
        part = path / f".{FILE}.tmp-{os.getpid()}"
        part.unlink(missing_ok=True)
        try:
            database = Database(part, create=True)
            database.run("INSERT INTO meta VALUES ('bank_id', ?)", (uuid.uuid4().hex,))
            database.close()
            os.link(part, path / FILE)
        except FileExistsError as error:
            raise BankExists(f"{path} holds a bank already: open it, or name another folder") from error
        finally:
            for file in path.glob(f"{part.name}*"):
                file.unlink()
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, *, readonly: bool = False) -> Self:
        """Opens a bank. Raises BankNotFound, or BankCorrupt when the file is damaged or no bank.

        `readonly` works in a folder where one may not write, too: what a writer there commits meanwhile is seen if the
        writer had the bank open already; else the bank is read as it stands, and opened again to see what came.
        """
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

    @property
    def retrieval_revision(self) -> int:
        """The last revision that changed what retrieval may return, or in which words: what an index must follow."""
        return int(self.db.value("SELECT coalesce(max(revision), 0) FROM revisions WHERE retrieval"))

    @contextmanager
    def change(self, *, actor: str, reason: str = "", check: Check | None = None) -> Iterator[Change]:
        """One transaction and one revision. An exception inside leaves the bank as it was; so does changing nothing.

        `check` looks at every wording that enters: its flags quarantine the entry.
        """
        if self.readonly:
            raise InvalidEntry(f"{self.path} is open for reading only: open it without readonly to change it")
        with suppress(_Abandoned), self.db.transaction():
            change = Change(self.db, self.revision + 1, actor, reason, check)
            yield change
            if change.abandoned:
                raise _Abandoned
            change.finish()

    def undo(
        self, revision: int | None = None, *, actor: str, reason: str = "", skip_changed: bool = False
    ) -> int | None:
        """Writes the inverse of a revision (the latest by default) as a new revision, and returns that one's number;
        None when every entry was left alone (`skip_changed`), so that there is no new revision."""
        with self.change(actor=actor, reason=reason) as change:
            change.undo(self.revision if revision is None else revision, skip_changed=skip_changed)
        return change.revision if change.finish() else None

    def add_mined(
        self,
        mined: Iterable[MinedPair | MinedEntry],
        *,
        actor: str,
        reason: str = "",
        check: Check | None = None,
    ) -> list[int | None]:
        """Adds what was mined in one revision; the id of each pair's or entry's entry (None: it rests on retracted
        rollouts alone). What the bank says or once said in the very same words gains the evidence and keeps its status:
        what was disabled by hand stays so however often it is mined again, and what was reworded stays reworded.
        """
        items = list(mined)  # mined before the lock is taken
        with self.change(actor=actor, reason=reason, check=check) as change:
            return add_mined(change, items)

    # Reading it

    def get(self, entry_id: int) -> Entry:
        """Raises EntryNotFound."""
        row = self.db.row(f"SELECT {COLUMNS} FROM entries e WHERE e.id = ?", (entry_id,))
        if row is None:
            raise EntryNotFound(f"no entry {entry_id} in {self.path}")
        return to_entry(row)

    def entries(
        self,
        where: Query = ANY,
        *,
        ids: Iterable[int] | None = None,
        sort: Sort = "id",
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Entry]:
        """Entries that fit every criterion given."""
        if sort == "relevance" and where.text is None:
            raise InvalidOption("sort 'relevance' wants words to be relevant to: give some, or sort by id or newest")
        if sort == "relevance":
            found = by_relevance(self.db, where, ids, limit=limit, offset=offset)
            by_id = {entry.id: entry for entry in self.entries(ids=found)}
            return [by_id[entry_id] for entry_id in found]
        source, parameters = selection(where, ids, sort=sort)
        rows = self.db.rows(
            f"SELECT {COLUMNS} FROM {source} ORDER BY {ORDER[sort]} LIMIT ? OFFSET ?",
            (*parameters, -1 if limit is None else limit, offset),
        )
        return [to_entry(row) for row in rows]

    def count(self, where: Query = ANY, *, ids: Iterable[int] | None = None) -> int:
        source, parameters = selection(where, ids)
        return int(self.db.value(f"SELECT count(*) FROM {source}", parameters))

    def ids(self, where: Query = ANY) -> list[int]:
        """Ids of the entries that fit every criterion given, in order."""
        source, parameters = selection(where)
        return [row[0] for row in self.db.rows(f"SELECT e.id FROM {source} ORDER BY e.id", parameters)]

    def evidence(self, entry_id: int) -> list[Evidence]:
        """What an entry and those merged into it rest on; for a pair, its skill's evidence and then its mistake's."""
        content = self.get(entry_id).content
        if isinstance(content, Pair):
            return self.evidence(content.skill_id) + self.evidence(content.mistake_id)
        return of_entry(self.db, entry_id)

    def merged_into(self, entry_id: int) -> list[Entry]:
        """The entries for which this one stands, directly or through others."""
        rows = self.db.rows(f"SELECT {COLUMNS} FROM entries e WHERE e.head = ? ORDER BY e.id", (entry_id,))
        return [to_entry(row) for row in rows]

    def flags(self, entry_id: int) -> tuple[Flag, ...]:
        return self.get(entry_id).flags

    def history(self, entry_id: int) -> list[Event]:
        """Everything that happened to an entry, oldest first."""
        return self._events("e.entry_id = ?", entry_id)

    def events(self, revision: int, *, limit: int | None = None, offset: int = 0) -> list[Event]:
        """Everything that one revision did, in the order in which it was done."""
        return self._events("e.revision = ?", revision, limit, offset)

    def event_count(self, revision: int) -> int:
        """How many events one revision has."""
        return int(self.db.value("SELECT count(*) FROM events WHERE revision = ?", (revision,)))

    def _events(self, where: str, parameter: int, limit: int | None = None, offset: int = 0) -> list[Event]:
        columns = "e.id, e.revision, r.at, r.actor, r.reason, e.op, e.entry_id, e.before, e.after"
        rows = self.db.rows(
            f"SELECT {columns} FROM events e JOIN revisions r USING (revision) WHERE {where} ORDER BY e.id"
            " LIMIT ? OFFSET ?",
            (parameter, -1 if limit is None else limit, offset),
        )
        return [to_event(row) for row in rows]

    def revisions(self, *, limit: int | None = None, offset: int = 0) -> list[Revision]:
        """The batches of changes, newest first."""
        changed = "SELECT count(DISTINCT v.entry_id) FROM events v WHERE v.revision = r.revision"
        rows = self.db.rows(
            f"SELECT revision, at, actor, reason, undoes, ({changed}) AS changed FROM revisions r"
            " ORDER BY revision DESC LIMIT ? OFFSET ?",
            (-1 if limit is None else limit, offset),
        )
        return [Revision(**dict(row)) for row in rows]

    def net_changes(self, start: int, end: int) -> list[NetChange]:
        """What differs between two revisions, entry by entry."""
        for revision in (start, end):
            if not 0 <= revision <= self.revision:
                raise InvalidEntry(f"no revision {revision}: the bank has revisions 0 to {self.revision}")
        if start > end:
            raise InvalidEntry(f"revision {start} is later than {end}: give the earlier one first")
        return net_changes(self.db, start, end)

    def stats(self) -> BankStats:
        by_kind = {row[0]: row[1] for row in self.db.rows("SELECT kind, count(*) FROM entries GROUP BY kind")}
        by_status = {row[0]: row[1] for row in self.db.rows("SELECT status, count(*) FROM entries GROUP BY status")}
        return BankStats(
            entries={kind: by_kind.get(kind, 0) for kind in KINDS},
            by_status=by_status,
            retrievable={
                kind: self.db.value("SELECT count(*) FROM entries WHERE kind = ? AND retrievable", (kind,))
                for kind in SIDES
            },
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
        part = "SELECT id FROM entries WHERE kind = 'pair' AND {} = ?"
        both = f"{part.format('skill_id')} UNION {part.format('mistake_id')}"
        sql = f"SELECT {COLUMNS} FROM entries e WHERE e.id IN ({both}) ORDER BY e.id"
        return [to_entry(row) for row in self.db.rows(sql, (entry_id, entry_id))]

    def resting_on(self, problem_id: str) -> set[int]:
        """Ids of the skills and mistakes all of whose evidence comes from this one problem."""
        return resting_on(self.db, [problem_id])[problem_id]

    def record_problems(self, problems: Iterable[ProblemText]) -> None:
        """Keeps the texts of problems. Not a change of the bank: no revision."""
        sources.record_problems(self.db, problems)

    def problem(self, problem_id: str) -> ProblemText | None:
        return sources.problem(self.db, problem_id)

    def record_rollouts(self, fates: Iterable[RolloutFate]) -> None:
        """Keeps what became of rollouts; what is said of one again replaces what was said. No revision."""
        sources.record_rollouts(self.db, fates)

    def rollout(self, rollout_id: str) -> list[RolloutFate]:
        """What became of a rollout, for each miner that read it."""
        return sources.rollout(self.db, rollout_id)

    def meta(self, key: str) -> str | None:
        value: str | None = self.db.value("SELECT value FROM meta WHERE key = ?", (key,))
        return value

    def set_meta(self, key: str, value: str) -> None:
        self.db.run("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (key, value))

    def record_usage(self, rows: Iterable[UsageRow]) -> None:
        """Appends to the usage ledger. Not a change of the bank: no revision."""
        usage.record(self.db, rows)

    def usage(self, entry_id: int) -> Usage:
        """What training measured of the teachers made of an entry, or of one merged into it.

        Of a pair: of those made of its skill and its mistake together.
        """
        entry = self.get(entry_id)
        if isinstance(entry.content, Pair):
            return usage.of_teachers(self.db, skill_id=entry.content.skill_id, mistake_id=entry.content.mistake_id)
        if entry.kind == "skill":
            return usage.of_teachers(self.db, skill_id=entry_id)
        return usage.of_teachers(self.db, mistake_id=entry_id)


class _Abandoned(Exception):
    """A change that was only previewed: rolled back."""
