"""What a curator does to a bank, for the command line and the web page alike: each with a preview, each undone.

A preview is the operation itself, rolled back: what it shows is what would happen, consequences for retrieval included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from skillbank.change import Change
from skillbank.errors import InvalidEntry
from skillbank.events import PendingEvent
from skillbank.records import Kind, Pair, Record, Status
from skillbank.store import Bank


class FieldChange(Record):
    """One field of one entry, before and after."""

    entry_id: int
    kind: Kind
    field: str
    before: str
    after: str


class Operation(Record):
    """What an operation did, or would do."""

    action: str
    revision: int | None
    """The bank revision it made; None when it was previewed or changed nothing."""
    changes: tuple[FieldChange, ...]
    leaving: tuple[int, ...]
    """Skills and mistakes that retrieval no longer returns."""
    joining: tuple[int, ...]
    """Skills and mistakes that retrieval returns from now on."""


def edit(
    bank: Bank,
    entry_id: int,
    fields: Mapping[str, str],
    *,
    actor: str,
    reason: str = "",
    preview: bool = False,
) -> Operation:
    """Rewords fields of a skill or a mistake. Raises EntryNotFound, InvalidEntry for a field that it does not have."""
    content = bank.get(entry_id).content
    if isinstance(content, Pair):
        raise InvalidEntry(
            f"entry {entry_id} is a pair: edit its skill {content.skill_id} or its mistake {content.mistake_id}"
        )
    names = list(type(content).model_fields)
    unknown = [name for name in fields if name not in names]
    if unknown:
        kind = bank.get(entry_id).kind
        raise InvalidEntry(f"entry {entry_id} is a {kind} without a field {unknown[0]!r}: it has {', '.join(names)}")
    if not fields:
        raise InvalidEntry(f"nothing to edit in entry {entry_id}: give a new {', '.join(names)}")
    try:
        worded = type(content).model_validate({**content.model_dump(), **fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidEntry(f"{first['loc'][0]} of entry {entry_id} is refused: {first['msg']}") from error
    return _operate(bank, "edit", lambda change: change.edit(entry_id, worded), actor, reason, preview)


def disable(bank: Bank, ids: Sequence[int], *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """Takes entries out of retrieval. A disabled pair's skill and mistake no longer make a teacher together, and each
    leaves retrieval when none of its pairs is active. Raises EntryNotFound before anything is changed."""
    return _set_status(bank, ids, "disabled", actor, reason, preview)


def enable(bank: Bank, ids: Sequence[int], *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """Takes entries back into retrieval, whatever took them out. Raises EntryNotFound before anything is changed."""
    return _set_status(bank, ids, "active", actor, reason, preview)


def undo(bank: Bank, revision: int | None = None, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """Writes the inverse of a revision, by default the latest, as a new one. Undoing an undo brings the change back.

    Raises InvalidEntry when there is no such revision or a later one changed the same fields again.
    """
    target = bank.revision if revision is None else revision
    reason = reason or f"undo of revision {target}"
    return _operate(bank, f"undo of revision {target}", lambda change: change.undo(target), actor, reason, preview)


def _set_status(bank: Bank, ids: Sequence[int], status: Status, actor: str, reason: str, preview: bool) -> Operation:
    action = "enable" if status == "active" else "disable"
    return _operate(bank, action, lambda change: change.set_status(ids, status), actor, reason, preview)


def _operate(
    bank: Bank, action: str, work: Callable[[Change], None], actor: str, reason: str, preview: bool
) -> Operation:
    with bank.change(actor=actor, reason=reason) as change:
        work(change)
        change.finish()
        events = change.events
        with Bank.open(bank.path, readonly=True) as outside:  # sees what stood before, as the change is not committed
            changes = tuple(c for event in events for c in _field_changes(outside, event))
        change.abandoned = preview
    return Operation(
        action=action,
        revision=None if preview or not events else change.revision,
        changes=changes,
        leaving=change.leaving,
        joining=change.joining,
    )


def _field_changes(bank: Bank, event: PendingEvent) -> list[FieldChange]:
    """The fields of one event, the wording field by field."""
    if event.entry_id is None:
        return []
    before, after = event.before or {}, event.after
    kind = bank.get(event.entry_id).kind
    values: list[tuple[str, Any, Any]] = []
    for field in after:
        if field == "content":
            old = before.get("content", {})
            values += [(name, old.get(name), text) for name, text in after["content"].items()]
        elif field == "evidence":
            values.append(("evidence", f"{len(before[field])} places", f"{len(after[field])} places"))
        elif field not in ("version", "withdrawn"):  # told by the wording and by the status
            values.append((field, before.get(field), after[field]))
    return [
        FieldChange(entry_id=event.entry_id, kind=kind, field=field, before=_shown(old), after=_shown(new))
        for field, old, new in values
        if old != new
    ]


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
