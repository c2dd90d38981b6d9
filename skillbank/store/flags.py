"""What flags mean: an entry with one that nobody released is never active."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from skillbank.records import Flag, Status


def held(status: Status, flags: Iterable[Flag]) -> Status:
    """An entry with a flag that nobody released is never active."""
    return "quarantined" if status == "active" and not all(flag.released for flag in flags) else status


def flags_of(row: Mapping[str, Any]) -> list[Flag]:
    return [Flag(**flag) for flag in json.loads(row["flags"])] if row["flags"] != "[]" else []


def new_flags(known: Iterable[Flag], found: Iterable[Flag]) -> list[Flag]:
    """Those whose rule and reason are not known yet, released ones included."""
    seen = {(flag.rule, flag.reason) for flag in known}
    new = {(flag.rule, flag.reason): flag for flag in found if (flag.rule, flag.reason) not in seen}
    return list(new.values())


def dumped(flags: Iterable[Flag]) -> list[dict[str, Any]]:
    return [flag.model_dump() for flag in flags]
