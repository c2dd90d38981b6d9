"""Changing entries: `edit`, `disable`, `enable`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.bank import text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import (
    BankOption,
    IdArgument,
    IdsArgument,
    JsonOption,
    PreviewOption,
    ReasonOption,
    actor,
    writing,
)
from sgsd.cli.common import emit

if TYPE_CHECKING:
    from skillbank.curate import Operation


@app.command(epilog='Example: sgsd bank edit 7 --title "Reduce before adding" --reason "clearer" --bank bank')
def edit(
    entry_id: IdArgument,
    bank: BankOption,
    title: Annotated[str | None, typer.Option(help="Of a skill.")] = None,
    principle: Annotated[str | None, typer.Option(help="Of a skill.")] = None,
    when: Annotated[str | None, typer.Option(help="Of a skill: when to apply it.")] = None,
    description: Annotated[str | None, typer.Option(help="Of a mistake.")] = None,
    why: Annotated[str | None, typer.Option(help="Of a mistake: why it happens.")] = None,
    how: Annotated[str | None, typer.Option(help="Of a mistake: how to avoid it.")] = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Reword a skill or a mistake; what stood before is kept and can be brought back."""
    from skillbank import curate

    given = {
        "title": title,
        "principle": principle,
        "when_to_apply": when,
        "description": description,
        "why_it_happens": why,
        "how_to_avoid": how,
    }
    fields = {name: text for name, text in given.items() if text is not None}
    if not fields:
        raise typer.BadParameter(
            "give a new text", param_hint="--title, --principle, --when, --description, --why or --how"
        )
    with writing(bank) as opened:
        done = curate.edit(opened, entry_id, fields, actor=actor(), reason=reason, preview=preview)
    report_operation(done, preview, json)


@app.command(epilog='Example: sgsd bank disable 7 12 --reason "misleads" --bank bank')
def disable(
    ids: IdsArgument,
    bank: BankOption,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Take entries out of retrieval; a pair's two sides no longer guide a teacher together."""
    from skillbank import curate

    with writing(bank) as opened:
        done = curate.disable(opened, ids, actor=actor(), reason=reason, preview=preview)
    report_operation(done, preview, json)


@app.command(epilog="Example: sgsd bank enable 7 --bank bank")
def enable(
    ids: IdsArgument,
    bank: BankOption,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Take entries back into retrieval."""
    from skillbank import curate

    with writing(bank) as opened:
        done = curate.enable(opened, ids, actor=actor(), reason=reason, preview=preview)
    report_operation(done, preview, json)


def report_operation(done: Operation, preview: bool, json: bool) -> None:
    emit(done, json, lambda: text.operation(done, preview))
