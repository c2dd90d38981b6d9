"""What was: undoing a revision, going back to one, and what changed between two."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from skillbank import lineage, places
from skillbank.database import Database
from skillbank.errors import InvalidEntry
from skillbank.events import LISTS, State
from skillbank.events import field as value_of
from skillbank.records import Kind, Record

if TYPE_CHECKING:
    from skillbank.change import Change
    from skillbank.events import Row


class NetChange(Record):
    """What became of an entry between two revisions, whatever happened on the way."""

    entry_id: int
    kind: Kind
    before: State | None
    """None when it was not there yet."""
    after: State


def undo(change: Change, revision: int, *, skip_changed: bool) -> None:
    events = change.db.rows(
        "SELECT entry_id, before, after FROM events WHERE revision = ? ORDER BY id DESC", (revision,)
    )
    if not events:
        raise InvalidEntry(f"no revision {revision} to undo: the bank is at revision {change.revision - 1}")
    change.undoes = revision
    change.load(event["entry_id"] for event in events if event["entry_id"] is not None)
    forbidden = _undo_retractions(change, [event for event in events if event["entry_id"] is None])
    for event in events:
        if event["entry_id"] is None:
            continue
        after = json.loads(event["after"])
        row = change.row(event["entry_id"])
        before = None if event["before"] is None else json.loads(event["before"])
        retracted = places.forbidden(change.db, (before or {}).get("evidence", []))
        if retracted or not _stands(change, row, before, after):
            if skip_changed:
                change.skipped.append(row["id"])
                continue
            if retracted:
                raise InvalidEntry(
                    f"revision {revision} cannot be undone: entry {row['id']} would rest on {retracted[0]} again, "
                    "which was retracted since; undo that one first"
                )
            raise InvalidEntry(
                f"revision {revision} cannot be undone: entry {row['id']} was changed again in revision "
                f"{row['revision']}; undo that one first"
            )
        if before is None:
            _withdraw(change, row, "undo")
        else:
            _apply_inverse(change, row, before, after)
    lineage.take_out(change, forbidden)


def _undo_retractions(change: Change, events: Sequence[sqlite3.Row]) -> set[str]:
    """Lifts retractions, or brings back those that were lifted, and returns the latter's rollouts."""
    forbidden = set()
    for event in events:
        lifted, back = json.loads(event["after"])["retracted"], json.loads(event["before"])["retracted"]
        change.note_retracted("undo", lifted, back)
        forbidden |= set(back)
    return forbidden


def _stands(change: Change, row: Row, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> bool:
    """Whether what an event set is still so."""
    if before is None:
        superseding = "SELECT EXISTS (SELECT 1 FROM entries WHERE superseded_by = ?)"
        return not row["withdrawn"] and not change.db.value(superseding, (row["id"],))
    return all(value_of(row, name) == after[name] for name in after if name not in (*LISTS, "version"))


def _apply_inverse(change: Change, row: Row, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    values = {name: value for name, value in before.items() if name not in LISTS}
    lists = {name: (after[name], before[name]) for name in after if name in LISTS}
    change.apply(row["id"], "undo", values, lists)


def _withdraw(change: Change, row: Row, op: Literal["undo", "checkout"]) -> None:
    """Takes back an addition: as if the entry had never been there, and no pair may rest on it."""
    gone = {"status": "retired", "superseded_by": None, "withdrawn": True}
    if row["kind"] != "pair":
        side = f"{row['kind']}_id"
        sql = f"SELECT id FROM entries WHERE kind = 'pair' AND {side} = ? AND NOT withdrawn ORDER BY id"
        for pair in change.db.rows(sql, (row["id"],)):
            change.apply(pair["id"], op, gone)
    change.apply(row["id"], op, gone)


def checkout(change: Change, revision: int) -> None:
    now = change.revision - 1
    if not 0 <= revision <= now:
        raise InvalidEntry(f"no revision {revision} to check out: the bank has revisions 0 to {now}")
    nets = net_of(change.db, revision, now)
    retracted = nets.pop(None, None)
    lifted, back = _swapped(retracted.lists["retracted"].delta()) if retracted is not None else ([], [])
    change.note_retracted("checkout", lifted, back)
    rows = change.load(entry_id for entry_id in nets if entry_id is not None)
    for row in rows:
        net = nets[row["id"]]
        if net.added:
            if not row["withdrawn"]:
                _withdraw(change, row, "checkout")
            continue
        lists = {name: _swapped(items.delta()) for name, items in net.lists.items() if name != "flags"}
        change.apply(row["id"], "checkout", net.first, lists)
    lineage.take_out(change, back)


def _swapped(delta: tuple[list[Any], list[Any]]) -> tuple[list[Any], list[Any]]:
    gone, come = delta
    return come, gone


# ---------------------------------------------------------------------------------------------------------- net change


@dataclass
class _Items:
    """What went and came of a list, on balance."""

    balance: dict[str, int] = field(default_factory=dict)

    def add(self, gone: Sequence[Any], come: Sequence[Any]) -> None:
        for items, sign in ((gone, -1), (come, 1)):
            for item in items:
                key = json.dumps(item, sort_keys=True)
                self.balance[key] = self.balance.get(key, 0) + sign

    def delta(self) -> tuple[list[Any], list[Any]]:
        gone = [json.loads(key) for key, balance in self.balance.items() if balance < 0]
        return gone, [json.loads(key) for key, balance in self.balance.items() if balance > 0]


@dataclass
class Net:
    """What happened to one entry between two revisions, on balance."""

    added: bool
    first: dict[str, Any] = field(default_factory=dict)
    """Field -> value before."""
    last: dict[str, Any] = field(default_factory=dict)
    """Field -> value after."""
    lists: dict[str, _Items] = field(default_factory=dict)


def net_of(db: Database, start: int, end: int) -> dict[int | None, Net]:
    """Of every entry that was touched after revision `start`, up to and with `end`; None stands for the bank."""
    nets: dict[int | None, Net] = {}
    events = db.rows(
        "SELECT entry_id, before, after FROM events WHERE revision > ? AND revision <= ? ORDER BY id", (start, end)
    )
    for event in events:
        before = None if event["before"] is None else json.loads(event["before"])
        after = json.loads(event["after"])
        net = nets.setdefault(event["entry_id"], Net(added=before is None))
        for name, value in after.items():
            if name in LISTS:
                net.lists.setdefault(name, _Items()).add((before or {}).get(name, []), value)
            else:
                net.last[name] = value
                if before is not None:
                    net.first.setdefault(name, before[name])
    return nets


def net_changes(db: Database, start: int, end: int) -> list[NetChange]:
    """What differs between two revisions, entry by entry; `before` and `after` hold the fields that differ."""
    nets = net_of(db, start, end)
    named = json.dumps([entry_id for entry_id in nets if entry_id is not None])
    rows = db.rows("SELECT id, kind FROM entries WHERE id IN (SELECT value FROM json_each(?))", (named,))
    kinds: dict[int, Kind] = {row["id"]: row["kind"] for row in rows}
    changes = []
    for entry_id, net in sorted((i, net) for i, net in nets.items() if i is not None):
        lists = {name: items.delta() for name, items in net.lists.items()}
        differing = [name for name, value in net.last.items() if net.added or net.first[name] != value]
        before = {name: net.first[name] for name in differing if name in net.first}
        after = {name: net.last[name] for name in differing}
        before |= {name: delta[0] for name, delta in lists.items() if delta[0] or delta[1]}
        after |= {name: delta[1] for name, delta in lists.items() if delta[0] or delta[1]}
        if after:
            old = None if net.added else State.model_validate(before)
            new = State.model_validate(after)
            changes.append(NetChange(entry_id=entry_id, kind=kinds[entry_id], before=old, after=new))
    return changes
