"""What happened to a bank, as its database keeps it: the operations, and the touched fields before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from skillbank.records import Flag, Kind, Mistake, Pair, Record, Skill, Status

Content = Skill | Mistake | Pair
Op = Literal[
    "add",
    "edit",
    "status",
    "flag",
    "release",
    "tag",
    "pin",
    "evidence",
    "supersede",
    "split",
    "retract",
    "undo",
    "checkout",
]
KINDS: dict[Kind, type[Skill] | type[Mistake] | type[Pair]] = {"skill": Skill, "mistake": Mistake, "pair": Pair}
LISTS = ("tags", "flags", "evidence", "retracted")
"""Fields of which an event holds what went and what came; of all others it holds the value."""

Row = dict[str, Any]
"""A row of `entries`, as it stands within a change."""


class State(Record):
    """The fields of an entry that an event touched (`model_fields_set` tells which)."""

    content: Content | None = None
    version: int | None = None
    status: Status | None = None
    superseded_by: int | None = None
    withdrawn: bool | None = None
    pinned: bool | None = None
    tags: tuple[str, ...] | None = None
    """Those that came or went; so with all lists."""
    flags: tuple[Flag, ...] | None = None
    evidence: tuple[int, ...] | None = None
    """Ids of evidence rows."""
    retracted: tuple[str, ...] | None = None
    """Ids of rollouts on which nothing may rest any more."""


class Event(Record):
    """One entry in one revision: what was done, by whom, why."""

    id: int
    revision: int
    at: str
    """UTC, ISO 8601."""
    actor: str
    reason: str
    op: Op
    entry_id: int | None
    """None when it is the bank that changed: a retraction."""
    before: State | None
    """None when the event added the entry."""
    after: State


class PendingEvent(NamedTuple):
    """An event of a change that is not committed yet: the touched fields as JSON values."""

    entry_id: int | None
    op: Op
    before: dict[str, Any] | None
    after: dict[str, Any]


def to_json(value: Any) -> str:
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)
"""Made once: `json.dumps` makes one a call."""


def kind_of(content: Content) -> Kind:
    return _KIND_OF[type(content)]


_KIND_OF: dict[type[Content], Kind] = {model: kind for kind, model in KINDS.items()}


def field(row: Mapping[str, Any], name: str) -> Any:
    """A field of an entry as events write it."""
    value = row[name]
    if name == "content":
        return json.loads(value)
    return bool(value) if name in ("withdrawn", "pinned") else value
