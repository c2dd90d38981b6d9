"""What happened to a bank, and going back: `log`, `diff`, `undo`, `checkout`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.bank import text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.bulk import report
from sgsd.cli.bank.options import (
    MAX_ID,
    BankOption,
    JsonOption,
    LimitOption,
    OffsetOption,
    PreviewOption,
    ReasonOption,
    actor,
    reading,
    writing,
)
from sgsd.cli.common import emit

if TYPE_CHECKING:
    from skillbank.curate import FieldChange
    from skillbank.store import Bank

FromArgument = Annotated[int, typer.Argument(metavar="REVISION", min=0, max=MAX_ID, help="0 is the empty bank.")]


@app.command(epilog="Example: sgsd bank log --entry 7 --bank bank")
def log(
    bank: BankOption,
    revision: Annotated[
        int | None, typer.Argument(metavar="[REVISION]", min=1, max=MAX_ID, help="Show what this one did.")
    ] = None,
    entry: Annotated[
        int | None, typer.Option("--entry", metavar="ID", min=1, max=MAX_ID, help="Only what happened to this entry.")
    ] = None,
    limit: LimitOption = 20,
    offset: OffsetOption = 0,
    json: JsonOption = False,
) -> None:
    """List the bank's revisions, newest first, or what one of them did, or all that happened to an entry."""
    with reading(bank) as opened, opened.db.snapshot():
        if revision is None and entry is None:
            revisions = opened.revisions(limit=limit, offset=offset)
            payload = {"revision": opened.revision, "revisions": [item.model_dump(mode="json") for item in revisions]}
            emit(payload, json, lambda: text.revisions(revisions, opened.revision, offset))
        else:
            _events(opened, revision, entry, limit, offset, json)


@app.command(epilog="Example: sgsd bank diff 3 5 --bank bank")
def diff(
    start: FromArgument,
    bank: BankOption,
    end: Annotated[
        int | None, typer.Argument(metavar="[REVISION]", min=0, max=MAX_ID, help="The latest when not given.")
    ] = None,
    limit: LimitOption = 20,
    offset: OffsetOption = 0,
    json: JsonOption = False,
) -> None:
    """Show what differs between two revisions, field by field, whatever happened on the way."""
    from skillbank.curate import net_field_changes

    with reading(bank) as opened, opened.db.snapshot():
        last = opened.revision if end is None else end
        nets = opened.net_changes(start, last)
        shown = nets[offset : offset + limit]
        changes = [change for net in (nets if json else shown) for change in net_field_changes(net)]
        payload = {
            "from": start,
            "to": last,
            "entries": len(nets),
            "changes": [change.model_dump(mode="json") for change in changes],
        }
        emit(payload, json, lambda: _print_changes(opened, changes, len(shown), len(nets), offset))


@app.command(epilog="Example: sgsd bank undo 3 --bank bank")
def undo(
    bank: BankOption,
    revision: Annotated[
        int | None,
        typer.Argument(metavar="[REVISION]", min=1, max=MAX_ID, help="The one to undo; the latest when not given."),
    ] = None,
    skip_changed: Annotated[
        bool, typer.Option("--skip-changed", help="Leave entries alone that were changed again since.")
    ] = False,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Undo a revision by a new one. Undoing an undo brings the change back."""
    from skillbank import curate

    with writing(bank) as opened:
        done = curate.undo(opened, revision, skip_changed=skip_changed, actor=actor(), reason=reason, preview=preview)
        report(opened, done, preview, json)


@app.command(epilog="Example: sgsd bank checkout 3 --preview --bank bank")
def checkout(
    revision: FromArgument,
    bank: BankOption,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Bring back all that stood at a revision, as a new revision; `undo` takes that back."""
    from skillbank import curate

    with writing(bank) as opened:
        done = curate.checkout(opened, revision, actor=actor(), reason=reason, preview=preview)
        report(opened, done, preview, json)


def _events(bank: Bank, revision: int | None, entry: int | None, limit: int, offset: int, json: bool) -> None:
    from skillbank.curate import field_changes
    from skillbank.errors import InvalidEntry

    if entry is not None:
        found = [event for event in bank.history(bank.get(entry).id) if revision in (None, event.revision)][::-1]
    else:
        assert revision is not None  # the caller's
        found = bank.events(revision)
        if not found:
            raise InvalidEntry(f"no revision {revision}: the bank is at revision {bank.revision}")
    ids = {event.entry_id for event in found if event.entry_id is not None}
    kinds = {one.id: one.kind for one in bank.entries(ids=ids)}
    if json:
        items = [event.model_dump(mode="json", exclude_unset=True) for event in found]
        emit({"total": len(found), "events": items}, json, lambda: None)
        return
    shown = found[offset : offset + limit]
    if entry is None:
        changes = [change for event in shown for change in field_changes(event, kinds)]
        text.revision_line(bank, revision or 0)
        _print_changes(bank, changes, len(shown), len(found), offset)
        return
    for event in shown:
        text.event_line(event)
        text.changes(field_changes(event, kinds), {})
    text.page(len(shown), len(found), offset, "event")


def _print_changes(bank: Bank, changes: Sequence[FieldChange], shown: int, total: int, offset: int) -> None:
    ids = {change.entry_id for change in changes if change.entry_id is not None}
    text.changes(changes, text.headlines(bank, bank.entries(ids=ids)) if ids else {})
    text.page(shown, total, offset, "change")
