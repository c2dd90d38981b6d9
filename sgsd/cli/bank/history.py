"""What happened to a bank, and taking it back: `undo`."""

from __future__ import annotations

from typing import Annotated

import typer

from sgsd.cli.bank.app import app
from sgsd.cli.bank.curate import report_operation
from sgsd.cli.bank.options import MAX_ID, BankOption, JsonOption, PreviewOption, ReasonOption, actor, writing


@app.command(epilog="Example: sgsd bank undo 3 --bank bank")
def undo(
    bank: BankOption,
    revision: Annotated[
        int | None,
        typer.Argument(metavar="[REVISION]", min=1, max=MAX_ID, help="The one to undo; the latest when not given."),
    ] = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Undo a revision by a new one. Undoing an undo brings the change back."""
    from skillbank import curate

    with writing(bank) as opened:
        done = curate.undo(opened, revision, actor=actor(), reason=reason, preview=preview)
    report_operation(done, preview, json)
