"""What every operation of a curator is: done or previewed, and told in fields before and after.

A preview is the operation itself, rolled back: what it shows is what would happen, consequences for retrieval included.
An `Operation` of ten thousand entries holds counts and the first few changes; `details()` has all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import PrivateAttr

from skillbank.errors import InvalidEntry
from skillbank.records import Flag, Kind, Record
from skillbank.store import Bank
from skillbank.store.change import Change, Check
from skillbank.store.events import KINDS, LISTS, Event, PendingEvent, State
from skillbank.store.past import NetChange
from skillbank.store.query import Query

Target = Sequence[int] | Query
"""The entries that an operation is for: by their ids, or all that fit."""
FIRST = 20
"""Field changes that an Operation holds."""
_TOLD_BY_OTHERS = ("version", "withdrawn")
"""Fields that say nothing that the wording and the status do not say."""

_WORDS = tuple(name for model in KINDS.values() for name in model.model_fields)
"""The fields of a wording, in the order in which they are read."""


class FieldChange(Record):
    """One field of one entry, before and after; of tags, flags and evidence what went and what came."""

    entry_id: int | None
    """None when it is the bank that changed: a retraction."""
    kind: Kind | None
    field: str
    before: str
    after: str


class Left(Record):
    """Entries that an operation was asked to change and left as they are."""

    ids: tuple[int, ...]
    why: str


class Held(Record):
    """An entry whose words the guard objects to: it is quarantined until a person releases it."""

    entry_id: int
    flags: tuple[Flag, ...]


class Operation(Record):
    """What an operation did, or would do."""

    action: str
    revision: int | None
    """The bank revision it made; None when it was previewed or changed nothing."""
    selected: int
    """Entries it was for."""
    entries: dict[Kind, int]
    """How many it changed, by kind."""
    fields: dict[str, int]
    """How many changes each field saw."""
    changes: tuple[FieldChange, ...]
    """The first of them."""
    added: tuple[int, ...] = ()
    """Ids of new entries."""
    leaving: tuple[int, ...]
    """Skills and mistakes that retrieval no longer returns."""
    joining: tuple[int, ...]
    """Skills and mistakes that retrieval returns from now on."""
    left: tuple[Left, ...] = ()
    held: tuple[Held, ...] = ()
    _events: tuple[PendingEvent, ...] = PrivateAttr(())
    _kinds: dict[int, Kind] = PrivateAttr(default_factory=dict)

    @property
    def changed(self) -> int:
        """Entries it changed."""
        return sum(self.entries.values())

    def details(self) -> list[FieldChange]:
        """Every field change, in the order in which they were made."""
        return [change for event in self._events for change in field_changes(event, self._kinds)]


class Done(NamedTuple):
    """What the work of an operation tells of itself."""

    selected: int
    left: Sequence[Left] = ()
    added: Sequence[int] = ()


def operate(
    bank: Bank,
    action: str,
    work: Callable[[Change], Done],
    *,
    actor: str,
    reason: str,
    preview: bool,
    check: Check | None = None,
) -> Operation:
    """Does the work in one revision, or does it and rolls it back."""
    expect_text({"reason": reason, "name of who does it": actor})
    with bank.change(actor=actor, reason=reason, check=check) as change:
        done = work(change)
        change.finish()
        events = tuple(change.events)
        touched = dict.fromkeys(event.entry_id for event in events if event.entry_id is not None)
        rows = {row["id"]: row for row in change.load(touched)}
        kinds: dict[int, Kind] = {entry_id: row["kind"] for entry_id, row in rows.items()}
        quarantined = {entry_id for entry_id, row in rows.items() if row["status"] == "quarantined"}
        change.abandoned = preview
    operation = Operation(
        action=action,
        revision=None if preview or not events else change.revision,
        selected=done.selected,
        entries=dict(Counter(kinds.values())),
        fields=dict(Counter(name for event in events for name, *_ in _values(event.before or {}, event.after))),
        changes=tuple(_first(FIRST, (c for event in events for c in field_changes(event, kinds)))),
        added=tuple(done.added),
        leaving=change.leaving,
        joining=change.joining,
        left=tuple(group for group in done.left if group.ids),
        held=tuple(_held(events, quarantined)),
    )
    operation._events, operation._kinds = events, kinds
    return operation


def resolve(bank: Bank, target: Target) -> list[int]:
    """Ids of the entries that a target names, each once."""
    return bank.ids(target) if isinstance(target, Query) else list(dict.fromkeys(target))


def expect_text(values: Mapping[str, str]) -> None:
    """Refuses what no file can hold: bytes of a command line that were no UTF-8. Raises InvalidEntry."""
    for name, text in values.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidEntry(f"the {name} holds a byte that is no UTF-8 text at character {error.start}") from error


def _held(events: Iterable[PendingEvent], quarantined: set[int]) -> Iterator[Held]:
    for event in events:
        found = [Flag(**flag) for flag in event.after.get("flags", ()) if not flag["released"]]
        if found and event.op in ("add", "edit") and event.entry_id in quarantined:
            yield Held(entry_id=event.entry_id, flags=tuple(found))


def _first(number: int, changes: Iterable[FieldChange]) -> Iterator[FieldChange]:
    for _, change in zip(range(number), changes, strict=False):
        yield change


# ------------------------------------------------------------------------------------------------------ told in fields


def field_changes(event: Event | PendingEvent, kinds: Mapping[int, Kind]) -> list[FieldChange]:
    """The fields of one event, the wording field by field."""
    before, after = _plain(event.before), _plain(event.after)
    kind = None if event.entry_id is None else kinds[event.entry_id]
    return [
        FieldChange(entry_id=event.entry_id, kind=kind, field=name, before=old, after=new)
        for name, old, new in _values(before, after)
    ]


def net_field_changes(net: NetChange) -> list[FieldChange]:
    """What became of an entry between two revisions, field by field."""
    return [
        FieldChange(entry_id=net.entry_id, kind=net.kind, field=name, before=old, after=new)
        for name, old, new in _values(_plain(net.before), _plain(net.after))
    ]


def _plain(state: State | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if state is None:
        return {}
    return state.model_dump(exclude_unset=True) if isinstance(state, State) else state


def _values(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, new in after.items():
        if name in _TOLD_BY_OTHERS:
            continue
        old = before.get(name)
        if name == "content":
            parts = sorted(new, key=_WORDS.index)
            texts = [(part, _shown((old or {}).get(part)), _shown(new[part])) for part in parts]
        elif name == "flags":
            texts = _flags(old or (), new)
        elif name in LISTS:
            texts = [(name, _items(name, old or ()), _items(name, new))]
        else:
            texts = [(name, _shown(old), _shown(new))]
        yield from (text for text in texts if text[1] != text[2])


def _flags(gone: Sequence[Mapping[str, Any]], come: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Flags that came and went; one that was only released, or is open again, as just that."""
    before = {(flag["rule"], flag["reason"]): flag["released"] for flag in gone}
    after = {(flag["rule"], flag["reason"]): flag["released"] for flag in come}
    texts = []
    for rule, reason in {**before, **after}:
        told = f"{rule}: {reason}"
        if (rule, reason) in before and (rule, reason) in after:
            texts.append((told, "released") if after[rule, reason] else ("released", told))
        else:
            texts.append((told, "") if (rule, reason) in before else ("", told))
    return [("flags", *text) for text in texts]


def _items(name: str, items: Sequence[Any]) -> str:
    if name == "evidence":
        return f"{len(items)} place{'' if len(items) == 1 else 's'}" if items else ""
    return ", ".join(items)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
