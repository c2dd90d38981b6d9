"""What was: undoing a revision, going back to one, and what changed between two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from skillbank.errors import InvalidEntry
from skillbank.records import Kind, Record
from skillbank.store import lineage, places
from skillbank.store.database import Database
from skillbank.store.events import LISTS, State
from skillbank.store.events import field as value_of

if TYPE_CHECKING:
    from skillbank.store.change import Change
    from skillbank.store.events import Row


class NetChange(Record):
    """What became of an entry between two revisions, whatever happened on the way."""

    entry_id: int
    kind: Kind
    before: State | None
    """None when it was not there yet."""
    after: State


def undo(change: Change, revision: int, *, skip_changed: bool) -> None:
    nets = net_of(change.db, revision - 1, revision)
    if not nets:
        raise InvalidEntry(f"no revision {revision} to undo: the bank is at revision {change.revision - 1}")
    change.undoes = revision
    back = _undo_retractions(change, nets.pop(None, None), "undo")
    rows = change.load(entry_id for entry_id in reversed(nets) if entry_id is not None)
    for row in sorted(rows, key=lambda row: nets[row["id"]].added):  # what was added goes when nothing rests on it
        net = nets[row["id"]]
        obstacle = _obstacle(change, row, net, back)
        if obstacle is not None:
            if skip_changed:
                change.skipped.append(row["id"])
                continue
            raise InvalidEntry(f"revision {revision} cannot be undone: {obstacle}; undo that one first")
        if net.added:
            _withdraw(change, row, "undo")
        else:
            change.apply(row["id"], "undo", net.first, net.inverse())
    lineage.take_out(change, back)
    if not (change.events or change.skipped):
        raise InvalidEntry(f"revision {revision} has left nothing that could be undone")


def _undo_retractions(change: Change, net: Net | None, op: Literal["undo", "checkout"]) -> list[str]:
    """Lifts retractions, or brings back those that were lifted, and returns the latter's rollouts."""
    lifted, back = ([], []) if net is None else net.inverse()["retracted"]
    change.note_retracted(op, lifted, back)
    return back


def _obstacle(change: Change, row: Row, net: Net, back: Sequence[str]) -> str | None:
    """Why what a revision did to an entry cannot be undone; None when all of it still stands."""
    come = net.inverse()["evidence"][1] if "evidence" in net.lists and not net.added else []
    retracted = [rollout for rollout in places.forbidden(change.db, come) if rollout not in back]
    if retracted:
        return f"entry {row['id']} would rest on {retracted[0]} again, which was retracted since"
    if not _stands(change, row, net):
        return f"entry {row['id']} was changed again in revision {row['revision']}"
    return None


def _stands(change: Change, row: Row, net: Net) -> bool:
    """Whether what a revision set is still so."""
    if net.added:
        superseding = "SELECT EXISTS (SELECT 1 FROM entries WHERE superseded_by = ?)"
        return not row["withdrawn"] and not change.db.value(superseding, (row["id"],))
    if row["withdrawn"] and "status" in net.last and "withdrawn" not in net.last:
        return False  # its addition was undone since: what status it had no longer matters
    if net.first.get("withdrawn") and "status" not in net.first and row["status"] != "retired":
        return False  # it was brought back, and has been used since
    return all(value_of(row, name) == value for name, value in net.last.items() if name != "version")


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
    back = _undo_retractions(change, nets.pop(None, None), "checkout")
    rows = change.load(entry_id for entry_id in nets if entry_id is not None)
    for row in rows:
        net = nets[row["id"]]
        if not net.added:
            lists = {name: delta for name, delta in net.inverse().items() if name != "flags"}
            change.apply(row["id"], "checkout", net.first, lists)
        elif not row["withdrawn"]:
            _withdraw(change, row, "checkout")
    lineage.take_out(change, back)


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

    def inverse(self) -> dict[str, tuple[list[Any], list[Any]]]:
        """List -> (what must go, what must come) to have it as before."""
        return {name: (come, gone) for name, (gone, come) in ((n, items.delta()) for n, items in self.lists.items())}


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
