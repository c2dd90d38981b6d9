"""Changing a bank: one `Change` is one transaction and one revision, written down as events that can be undone.

An event holds the touched fields before and after; of what is a list (evidence, tags, flags) it holds what went and
what came. Undoing a revision writes the opposite as a new revision, so an undo is itself undone the same way. Nothing
is deleted: undoing an addition retires the entry and marks it withdrawn. Here are the plain changes of an entry;
`lineage.py` has those that join, part and retract entries, `past.py` those that bring back what was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from skillbank.errors import EntryNotFound, InvalidEntry
from skillbank.records import Evidence, Flag, Kind, Mistake, Pair, Provenance, Skill, Status, content_hash
from skillbank.store import lineage, past
from skillbank.store import places as places_of
from skillbank.store.database import Database
from skillbank.store.entering import DIGEST, INSERT, row_and_event
from skillbank.store.events import KINDS, Content, Event, Op, PendingEvent, Row, State, field, kind_of, to_json
from skillbank.store.flags import dumped, flags_of, held, new_flags

__all__ = ["KINDS", "Change", "Check", "Content", "Event", "Op", "PendingEvent", "State"]

Check = Callable[[Skill | Mistake, Sequence[Evidence]], Sequence[Flag]]
"""What looks at every wording that enters the bank: the guard. Its flags quarantine the entry."""


class Change:
    """One batch of changes, open for the length of `with bank.change(...) as change`."""

    def __init__(self, db: Database, revision: int, actor: str, reason: str, check: Check | None = None) -> None:
        self.db = db
        self.revision = revision
        """The revision this change becomes, if it changes anything."""
        self.abandoned = False
        """Set it to roll everything back at the end, without an exception: a preview."""
        self.undoes: int | None = None
        self.skipped: list[int] = []
        """Entries that an undo left alone because they were changed again."""
        self.refused_evidence = 0
        """Places in retracted rollouts, on which nothing may rest."""
        self.settling = lineage.Settling()
        self._actor, self._reason, self._check = actor, reason, check
        self._events: list[tuple[int | None, Op, str | None, str]] = []
        self.leaving: tuple[int, ...] = ()
        """After `finish`: the skills and mistakes that retrieval no longer returns."""
        self.joining: tuple[int, ...] = ()
        """After `finish`: those that it returns from now on."""
        self._finished = False
        self._rows: dict[int, Row] = {}
        self._added: dict[int, Kind] = {}
        self._retracted: bool | None = None

    @property
    def events(self) -> list[PendingEvent]:
        """What was done so far."""
        return [
            PendingEvent(entry_id, op, None if before is None else json.loads(before), json.loads(after))
            for entry_id, op, before, after in self._events
        ]

    # The plain changes

    def add(
        self,
        content: Content,
        *,
        kind: Kind | None = None,
        origin: str = "manual",
        status: Status = "active",
        evidence: Iterable[Evidence] = (),
        flags: Iterable[Flag] = (),
        tags: Iterable[str] = (),
        pinned: bool = False,
        provenance: Provenance | None = None,
    ) -> int:
        """Adds an entry and returns its id. A pair's skill and mistake must be in the bank.

        An active entry with a flag that nobody released is quarantined.
        """
        kind = kind or kind_of(content)
        if not isinstance(content, KINDS[kind]):
            raise InvalidEntry(f"a {kind} cannot hold a {type(content).__name__}: give a {KINDS[kind].__name__}")
        places = self.allowed(evidence)
        raised = list(dict.fromkeys(flags))
        if isinstance(content, Pair):
            self._expect_kind(content.skill_id, "skill")
            self._expect_kind(content.mistake_id, "mistake")
        else:
            raised += new_flags(raised, self._found(content, places))
        row, after = row_and_event(
            content,
            kind,
            revision=self.revision,
            origin=origin,
            status=held(status, raised),
            flags=raised,
            tags=tags,
            pinned=pinned,
            provenance=provenance,
        )
        entry_id = self.db.insert(INSERT, row)
        self._added[entry_id] = kind
        self._write_down(entry_id, "add", None, after)
        self._remember_wording(kind, str(row[DIGEST]), entry_id)
        self._insert_evidence(entry_id, places)
        return entry_id

    def edit(self, entry_id: int, content: Skill | Mistake) -> None:
        """Gives a skill or mistake a new wording. The same wording changes nothing.

        What a person released was the old wording: those flags go, and what is wrong with the new one is flagged.
        """
        row = self.row(entry_id)
        kind: Kind = row["kind"]
        if kind == "pair":
            raise InvalidEntry(f"entry {entry_id} is a pair and has no words of its own: edit its skill or its mistake")
        if not isinstance(content, KINDS[kind]):
            raise InvalidEntry(f"entry {entry_id} is a {kind}: it cannot become a {kind_of(content)}")
        if content_hash(content) == row["content_hash"]:
            return
        flags = flags_of(row)
        gone = [flag for flag in flags if flag.released]
        stay = [flag for flag in flags if not flag.released]
        found = new_flags(stay, self._found(content, self.evidence_of(entry_id)))
        self.apply(entry_id, "edit", {"content": content.model_dump()}, {"flags": (dumped(gone), dumped(found))})

    def set_status(self, ids: Iterable[int], status: Status) -> None:
        """Sets the status of entries; those that have it already stay untouched.

        An entry with a flag that nobody released becomes `quarantined` where it would become `active`.
        """
        if status == "superseded":
            raise InvalidEntry("an entry is superseded by another: use supersede(id, by)")
        for row in self.load(ids):
            if row["status"] != status:
                self.apply(row["id"], "status", {"status": status, "superseded_by": None, "withdrawn": False})

    def flag(self, entry_id: int, flags: Iterable[Flag]) -> bool:
        """Adds the flags that the entry does not have yet, released ones included; an active entry is quarantined.

        False when there was none to add.
        """
        row = self.row(entry_id)
        new = new_flags(flags_of(row), flags)
        if new:
            self.apply(entry_id, "flag", {"status": row["status"]}, {"flags": ([], dumped(new))})
        return bool(new)

    def release(self, ids: Iterable[int]) -> None:
        """Lets flagged entries through: their flags stay, released, and quarantined ones become active."""
        for row in self.load(ids):
            open_flags = [flag for flag in flags_of(row) if not flag.released]
            let = [flag.model_copy(update={"released": True}) for flag in open_flags]
            status = "active" if row["status"] == "quarantined" else row["status"]
            self.apply(row["id"], "release", {"status": status}, {"flags": (dumped(open_flags), dumped(let))})

    def tag(self, ids: Iterable[int], add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Adds and removes tags. Raises InvalidEntry for an empty tag."""
        coming, going = sorted(set(add)), sorted(set(remove))
        for name in coming:
            if not name.strip() or name != name.strip():
                raise InvalidEntry(f"{name!r} is no tag: give one with letters, without spaces around it")
        for row in self.load(ids):
            has = json.loads(row["tags"])
            delta = ([name for name in going if name in has], [name for name in coming if name not in has])
            self.apply(row["id"], "tag", {}, {"tags": delta})

    def pin(self, ids: Iterable[int], pinned: bool = True) -> None:
        """Pinned entries are neither merged away nor pruned."""
        for row in self.load(ids):
            self.apply(row["id"], "pin", {"pinned": pinned})

    def add_evidence(self, entry_id: int, evidence: Iterable[Evidence]) -> None:
        """Adds the places an entry rests on. The same place of the same rollout counts once."""
        if self._kind(entry_id) == "pair":
            raise InvalidEntry(f"entry {entry_id} is a pair: its evidence is that of its skill and its mistake")
        places = self.allowed(evidence)
        if entry_id in self._added:  # its own addition is the event
            self._insert_evidence(entry_id, places)
            return
        row, known = self.row(entry_id), self.evidence_of(entry_id)
        new = self._insert_evidence(entry_id, places)
        if not new:
            return
        content = KINDS[row["kind"]].model_validate_json(row["content"])
        assert not isinstance(content, Pair)
        found = new_flags(flags_of(row), self._found(content, [*known, *places]))
        self.apply(entry_id, "evidence", {}, {"evidence": ([], new), "flags": ([], dumped(found))}, written=True)

    def drop_evidence(self, rows: Iterable[int]) -> None:
        """Takes evidence rows out of use, by their ids."""
        by_entry: dict[int, list[int]] = {}
        for row in self.db.rows(
            "SELECT id, entry_id FROM evidence WHERE active AND id IN (SELECT value FROM json_each(?)) ORDER BY id",
            (to_json(list(rows)),),
        ):
            by_entry.setdefault(row["entry_id"], []).append(row["id"])
        for entry_id, gone in by_entry.items():
            self.apply(entry_id, "evidence", {}, {"evidence": (gone, [])})

    # Those that concern several entries, or the past

    def supersede(self, entry_id: int, by: int) -> None:
        """Takes an entry out in favour of another of its kind, which stands for its evidence and usage from now on."""
        lineage.supersede(self, entry_id, by)

    def merge(self, ids: Iterable[int], into: int) -> None:
        """Supersedes entries by one of their kind, and their pairs by pairs of that one."""
        lineage.merge(self, dict.fromkeys(ids, into))

    def merge_all(self, into: Mapping[int, int]) -> None:
        """Many merges at once, {entry: the one that stands for it}: pairs are rewired once, whichever sides merged."""
        lineage.merge(self, into)

    def split(self, entry_id: int, contents: Sequence[Skill | Mistake]) -> list[int]:
        """Replaces an entry by several, each with its evidence, tags and active pairs; the entry itself is retired."""
        return lineage.split(self, entry_id, contents)

    def retract(self, rollout_ids: Iterable[str]) -> lineage.Retracted:
        """Lets nothing rest on these rollouts any more: see lineage.py."""
        return lineage.retract(self, rollout_ids)

    def undo(self, revision: int, *, skip_changed: bool = False) -> None:
        """Writes what stood before a revision. Raises InvalidEntry when a later revision changed the same fields;
        with `skip_changed` those entries are left alone instead, and stand in `skipped`."""
        past.undo(self, revision, skip_changed=skip_changed)

    def checkout(self, revision: int) -> None:
        """Writes what stood at a revision. Flags found since then stay: they speak of texts, not of decisions."""
        past.checkout(self, revision)

    # What they are all made of

    def allowed(self, evidence: Iterable[Evidence]) -> list[Evidence]:
        """Without the places in retracted rollouts, which are counted in `refused_evidence`."""
        places = list(evidence)
        if self._retracted is None:  # nobody but this change can retract a rollout until it is done
            self._retracted = places_of.any_retracted(self.db)
        if not self._retracted:
            return places
        allowed = places_of.allowed(self.db, places)
        self.refused_evidence += len(places) - len(allowed)
        return allowed

    def load(self, ids: Iterable[int]) -> list[Row]:
        """The rows of entries, in the order given, each once. Raises EntryNotFound."""
        wanted = list(dict.fromkeys(ids))
        missing = [entry_id for entry_id in wanted if entry_id not in self._rows]
        if missing:
            found = self.db.rows("SELECT * FROM entries WHERE id IN (SELECT value FROM json_each(?))", (str(missing),))
            self._rows.update({row["id"]: dict(row) for row in found})
        for entry_id in wanted:
            if entry_id not in self._rows:
                raise EntryNotFound(f"no entry {entry_id} in {self.db.file.parent}")
        return [self._rows[entry_id] for entry_id in wanted]

    def row(self, entry_id: int) -> Row:
        return self.load([entry_id])[0]

    def evidence_of(self, entry_id: int) -> list[Evidence]:
        """What an entry rests on, that of the entries merged into it included."""
        return places_of.of_entry(self.db, entry_id)

    def apply(
        self,
        entry_id: int,
        op: Op,
        values: Mapping[str, Any],
        lists: Mapping[str, tuple[Sequence[Any], Sequence[Any]]] | None = None,
        *,
        written: bool = False,
    ) -> None:
        """Sets fields of an entry and writes the event; fields that have the value already are left out.

        `lists`: field -> (what goes, what comes). `written`: the evidence rows are set already.
        """
        row = self.row(entry_id)
        deltas = {
            name: delta if written and name == "evidence" else self._effective(row, name, *delta)
            for name, delta in (lists or {}).items()
            if delta[0] or delta[1]
        }
        deltas = {name: delta for name, delta in deltas.items() if delta[0] or delta[1]}
        columns: dict[str, Any] = {}
        for name in ("tags", "flags"):
            if name in deltas:
                gone, come = deltas[name]
                items = [item for item in json.loads(row[name]) if item not in gone]
                items += [item for item in come if item not in items]
                columns[name] = to_json(sorted(items) if name == "tags" else items)
        target = dict(values)
        status: Status = target["status"] if "status" in target else row["status"]
        allowed = held(status, flags_of(row | columns))
        if allowed != status:
            target["status"] = allowed
        after = {name: value for name, value in target.items() if name != "version" and field(row, name) != value}
        if not after and not deltas:
            return
        before = {name: field(row, name) for name in after}
        columns |= after
        if "content" in after:
            content = KINDS[row["kind"]].model_validate(after["content"])
            assert not isinstance(content, Pair)  # edit() refuses pairs
            before["version"], after["version"] = row["version"], row["version"] + 1
            columns |= {"content": to_json(after["content"]), "text": content.text(), "version": after["version"]}
            columns["content_hash"] = content_hash(content)
            self._remember_wording(row["kind"], columns["content_hash"], entry_id)
        if "superseded_by" in after:
            self.settling.relinked.add(entry_id)
            self.settling.recount |= {before["superseded_by"]} - {None}
        if "evidence" in deltas:
            self.settling.recount.add(entry_id)
            if not written:
                places_of.swap(self.db, *deltas["evidence"])
        columns["revision"] = self.revision
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self.db.run(f"UPDATE entries SET {assignments} WHERE id = ?", (*columns.values(), entry_id))
        row.update(columns)
        gone_and_come = {name: list(delta[0]) for name, delta in deltas.items()}
        came = {name: list(delta[1]) for name, delta in deltas.items()}
        self._note(entry_id, op, before | gone_and_come, after | came)

    def _effective(self, row: Row, name: str, gone: Sequence[Any], come: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Without what is gone or has come already: an event holds what it changed, so that its inverse is exact."""
        items = places_of.in_use(self.db, [*gone, *come]) if name == "evidence" else json.loads(row[name])
        return [item for item in gone if item in items], [item for item in come if item not in items]

    def note_retracted(self, op: Op, gone: Sequence[str], come: Sequence[str]) -> None:
        """Rollouts on which nothing may rest any more (`come`), or may again (`gone`)."""
        held = places_of.retracted(self.db, [*gone, *come])
        gone, come = [i for i in gone if i in held], [i for i in come if i not in held]
        if not (gone or come):
            return
        self.db.run_many(
            "INSERT INTO retractions VALUES (?, ?) ON CONFLICT DO UPDATE SET active = excluded.active",
            [(rollout_id, 0) for rollout_id in gone] + [(rollout_id, 1) for rollout_id in come],
        )
        self._retracted = None
        self._note(None, op, {"retracted": list(gone)}, {"retracted": list(come)})

    def finish(self) -> bool:
        """Settles what hangs on the changed entries, writes the revision and its events. False when nothing changed.

        The bank does it at the end of a change; whoever wants to see the consequences does it before, and then changes
        no more.
        """
        if not self._events or self._finished:
            return self._finished
        self._finished = True
        touched = {entry_id for entry_id, *_ in self._events if entry_id is not None}
        self.leaving, self.joining = self.settling.settle(self.db, touched)
        retrieval = bool(self.leaving or self.joining) or self.settling.reworded(self.db, self._reworded())
        self.db.run(
            "INSERT INTO revisions (revision, actor, reason, undoes, retrieval) VALUES (?, ?, ?, ?, ?)",
            (self.revision, self._actor, self._reason, self.undoes, retrieval),
        )
        self.db.run_many(
            "INSERT INTO events (revision, entry_id, op, before, after) VALUES (?, ?, ?, ?, ?)",
            ((self.revision, *event) for event in self._events),
        )
        return True

    def _reworded(self) -> set[int]:
        return {
            entry_id
            for entry_id, _, before, _ in self._events
            if entry_id is not None and before is not None and '"content":' in before
        }

    def _note(self, entry_id: int | None, op: Op, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> None:
        self._write_down(entry_id, op, None if before is None else to_json(before), to_json(after))

    def _write_down(self, entry_id: int | None, op: Op, before: str | None, after: str) -> None:
        assert not self._finished, "a finished change takes no more"
        self._events.append((entry_id, op, before, after))

    def _found(self, content: Skill | Mistake, evidence: Sequence[Evidence]) -> Sequence[Flag]:
        return () if self._check is None else self._check(content, evidence)

    def _insert_evidence(self, entry_id: int, places: Sequence[Evidence]) -> list[int]:
        """Ids of the rows that were new, or out of use; none for an entry that this change added."""
        if places:
            self.settling.recount.add(entry_id)
        return places_of.insert(self.db, entry_id, places, wants_ids=entry_id not in self._added)

    def _remember_wording(self, kind: Kind, digest: str, entry_id: int) -> None:
        self.db.run("INSERT INTO wordings VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (kind, digest, entry_id))

    def _kind(self, entry_id: int) -> Kind:
        return self._added.get(entry_id) or self.row(entry_id)["kind"]

    def _expect_kind(self, entry_id: int, kind: Kind) -> None:
        found = self._kind(entry_id)
        if found != kind:
            raise InvalidEntry(f"a pair wants a {kind} where entry {entry_id} is a {found}")
