"""Operations that leave every word as it is: what may be retrieved, what is pinned, what is tagged.

active       retrieved
disabled     out until somebody enables it
quarantined  the guard objects; out until somebody releases it, which `enable` never does
retired      out for good: rejected, or given up; `enable` brings it back
superseded   another entry stands for it; only undoing that brings it back, so nothing here touches it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from skillbank.curate.operation import Done, Left, Operation, Target, expect_text, operate, resolve
from skillbank.errors import InvalidEntry
from skillbank.store import Bank
from skillbank.store.change import Change
from skillbank.store.events import Row
from skillbank.store.flags import flags_of

SUPERSEDED = "another entry stands for them: undo the merge that did it"
RETIRED = "they are retired already, which is more: enable them first"
FLAGGED = "they are flagged and enabling lifts no flag: look at the flags, then release them"


def disable(bank: Bank, target: Target, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """Takes entries out of retrieval. A disabled pair's skill and mistake no longer make a teacher together, and each
    leaves retrieval when none of its pairs is active. Raises EntryNotFound before anything is changed."""

    def why(row: Row) -> str | None:
        return RETIRED if row["status"] == "retired" else _superseded(row)

    return _set_status(bank, "disable", target, "disabled", why, actor, reason, preview)


def enable(bank: Bank, target: Target, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """Takes disabled and retired entries back into retrieval. It lifts no quarantine: those are left and told."""
    return _set_status(bank, "enable", target, "active", _not_to_be_enabled, actor, reason, preview)


def retire(bank: Bank, target: Target, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """Gives entries up. They stay in the bank with their evidence; mined again, they stay retired."""
    return _set_status(bank, "retire", target, "retired", _superseded, actor, reason, preview)


def reject(bank: Bank, target: Target, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """A reviewer's no: the entries are retired, and what they rest on is kept."""
    return _set_status(bank, "reject", target, "retired", _superseded, actor, reason, preview)


def release(bank: Bank, target: Target, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """Lets quarantined entries through: a person looked. Their flags stay, released, and are not raised again."""

    def work(change: Change) -> Done:
        ids = resolve(bank, target)
        change.release(ids)
        return Done(len(ids))

    return operate(bank, "release", work, actor=actor, reason=reason, preview=preview)


def accept(bank: Bank, target: Target, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """A reviewer's yes: what is quarantined is released, what is disabled or retired is enabled, what is active stays.

    Of a pair its skill and mistake are read with it, so the quarantined ones among them are released too.
    """

    def work(change: Change) -> Done:
        ids = resolve(bank, target)
        rows = change.load(ids)
        sides = [row[side] for row in rows for side in ("skill_id", "mistake_id") if row["kind"] == "pair"]
        seen = change.load([*ids, *(row["id"] for row in change.load(sides) if row["status"] == "quarantined")])
        superseded = [row["id"] for row in seen if row["status"] == "superseded"]
        taken = [row["id"] for row in seen if row["status"] != "superseded"]
        change.release(taken)
        change.set_status(taken, "active")
        return Done(len(ids), [Left(ids=tuple(superseded), why=SUPERSEDED)])

    return operate(bank, "accept", work, actor=actor, reason=reason, preview=preview)


def pin(bank: Bank, target: Target, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """Keeps entries from being merged away or pruned."""
    return _pin(bank, target, True, actor, reason, preview)


def unpin(bank: Bank, target: Target, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    return _pin(bank, target, False, actor, reason, preview)


def tag(
    bank: Bank, target: Target, tags: Iterable[str], *, actor: str, reason: str = "", preview: bool = False
) -> Operation:
    """Adds tags. Raises InvalidEntry for an empty one, or one with spaces around it."""
    return _tag(bank, "tag", target, list(tags), (), actor, reason, preview)


def untag(
    bank: Bank, target: Target, tags: Iterable[str], *, actor: str, reason: str = "", preview: bool = False
) -> Operation:
    return _tag(bank, "untag", target, (), list(tags), actor, reason, preview)


def retag(
    bank: Bank,
    target: Target,
    add: Iterable[str],
    remove: Iterable[str],
    *,
    actor: str,
    reason: str = "",
    preview: bool = False,
) -> Operation:
    """Adds tags and takes others off, as one revision."""
    return _tag(bank, "tag", target, list(add), list(remove), actor, reason, preview)


def _set_status(
    bank: Bank,
    action: str,
    target: Target,
    status: Literal["active", "disabled", "retired"],
    why_not: Callable[[Row], str | None],
    actor: str,
    reason: str,
    preview: bool,
) -> Operation:
    def work(change: Change) -> Done:
        ids = resolve(bank, target)
        left: dict[str, list[int]] = {}
        taken = []
        for row in change.load(ids):
            why = why_not(row)
            if why is None:
                taken.append(row["id"])
            else:
                left.setdefault(why, []).append(row["id"])
        change.set_status(taken, status)
        return Done(len(ids), [Left(ids=tuple(some), why=why) for why, some in left.items()])

    return operate(bank, action, work, actor=actor, reason=reason, preview=preview)


def _superseded(row: Row) -> str | None:
    return SUPERSEDED if row["status"] == "superseded" else None


def _not_to_be_enabled(row: Row) -> str | None:
    if row["status"] == "quarantined" or (row["status"] != "superseded" and _open_flags(row)):
        return FLAGGED
    return _superseded(row)


def _open_flags(row: Row) -> bool:
    return any(not flag.released for flag in flags_of(row))


def _pin(bank: Bank, target: Target, pinned: bool, actor: str, reason: str, preview: bool) -> Operation:
    def work(change: Change) -> Done:
        ids = resolve(bank, target)
        change.pin(ids, pinned)
        return Done(len(ids))

    return operate(bank, "pin" if pinned else "unpin", work, actor=actor, reason=reason, preview=preview)


def _tag(
    bank: Bank,
    action: str,
    target: Target,
    add: Sequence[str],
    remove: Sequence[str],
    actor: str,
    reason: str,
    preview: bool,
) -> Operation:
    names = [*add, *remove]
    if not names:
        raise InvalidEntry(f"no tag to {action}: give one")
    expect_text({f"tag {name!r}": name for name in names})

    def work(change: Change) -> Done:
        ids = resolve(bank, target)
        change.tag(ids, add, remove)
        return Done(len(ids))

    return operate(bank, action, work, actor=actor, reason=reason, preview=preview)
