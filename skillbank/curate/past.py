"""Operations that bring back what was: undoing a revision, going back to one. Both are new revisions themselves."""

from __future__ import annotations

from skillbank.curate.operation import Done, Left, Operation, operate
from skillbank.store import Bank
from skillbank.store.change import Change

CHANGED_AGAIN = "they were changed again since: undo the later revision first"


def undo(
    bank: Bank,
    revision: int | None = None,
    *,
    skip_changed: bool = False,
    actor: str,
    reason: str = "",
    preview: bool = False,
) -> Operation:
    """Writes the inverse of a revision, by default the latest, as a new one. Undoing an undo brings the change back.

    Raises InvalidEntry when there is no such revision or a later one changed the same fields again; with `skip_changed`
    those entries are left as they are.
    """
    target = bank.revision if revision is None else revision

    def work(change: Change) -> Done:
        change.undo(target, skip_changed=skip_changed)
        skipped = dict.fromkeys(change.skipped)
        return Done(
            len({event.entry_id for event in change.events} | set(skipped)),
            [Left(ids=tuple(skipped), why=CHANGED_AGAIN)],
        )

    reason = reason or f"undo of revision {target}"
    return operate(bank, f"undo of revision {target}", work, actor=actor, reason=reason, preview=preview)


def checkout(bank: Bank, revision: int, *, actor: str, reason: str = "", preview: bool = False) -> Operation:
    """Writes what stood at a revision anew; flags found since then stay. Raises InvalidEntry for no such revision."""

    def work(change: Change) -> Done:
        change.checkout(revision)
        return Done(len({event.entry_id for event in change.events}))

    reason = reason or f"checkout of revision {revision}"
    return operate(bank, f"checkout of revision {revision}", work, actor=actor, reason=reason, preview=preview)
