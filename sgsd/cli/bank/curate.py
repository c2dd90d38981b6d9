"""What may be retrieved, what is pinned, what is tagged: `disable`, `enable`, `retire`, `release`, `pin`, `tag` ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.bank.app import app
from sgsd.cli.bank.bulk import act
from sgsd.cli.bank.options import (
    BankOption,
    IdsArgument,
    JsonOption,
    PreviewOption,
    ReasonOption,
    WhereOption,
    YesOption,
    actor,
)

if TYPE_CHECKING:
    from skillbank.curate import Operation
    from skillbank.store import Bank

TagOption = Annotated[list[str], typer.Option("--tag", help="The tag; give it again for more.")]


@app.command(epilog='Example: sgsd bank disable --where "flag:* utility:<0" --reason "misleads" --bank bank')
def disable(
    bank: BankOption,
    ids: IdsArgument = None,
    where: WhereOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Take entries out of retrieval; a pair's two sides no longer guide a teacher together."""
    from skillbank import curate

    def operate(opened: Bank, chosen: Sequence[int], dry: bool) -> Operation:
        return curate.disable(opened, chosen, actor=actor(), reason=reason, preview=dry)

    act(bank, ids, where, operate, preview=preview, yes=yes, json=json)


@app.command(epilog="Example: sgsd bank enable 7 --bank bank")
def enable(
    bank: BankOption,
    ids: IdsArgument = None,
    where: WhereOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Take disabled and retired entries back into retrieval. It lifts no quarantine: `release` does."""
    from skillbank import curate

    def operate(opened: Bank, chosen: Sequence[int], dry: bool) -> Operation:
        return curate.enable(opened, chosen, actor=actor(), reason=reason, preview=dry)

    act(bank, ids, where, operate, preview=preview, yes=yes, json=json)


@app.command(epilog='Example: sgsd bank retire 7 12 --reason "about one problem only" --bank bank')
def retire(
    bank: BankOption,
    ids: IdsArgument = None,
    where: WhereOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Give entries up: out of retrieval for good, kept with all they rest on."""
    from skillbank import curate

    def operate(opened: Bank, chosen: Sequence[int], dry: bool) -> Operation:
        return curate.retire(opened, chosen, actor=actor(), reason=reason, preview=dry)

    act(bank, ids, where, operate, preview=preview, yes=yes, json=json)


@app.command(epilog='Example: sgsd bank release 7 --reason "the number is no answer" --bank bank')
def release(
    bank: BankOption,
    ids: IdsArgument = None,
    where: WhereOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Let quarantined entries through: you looked at their flags, which are not raised again."""
    from skillbank import curate

    def operate(opened: Bank, chosen: Sequence[int], dry: bool) -> Operation:
        return curate.release(opened, chosen, actor=actor(), reason=reason, preview=dry)

    act(bank, ids, where, operate, preview=preview, yes=yes, json=json)


@app.command(epilog="Example: sgsd bank pin 7 --bank bank")
def pin(
    bank: BankOption,
    ids: IdsArgument = None,
    where: WhereOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Keep entries from being merged away or pruned."""
    from skillbank import curate

    def operate(opened: Bank, chosen: Sequence[int], dry: bool) -> Operation:
        return curate.pin(opened, chosen, actor=actor(), reason=reason, preview=dry)

    act(bank, ids, where, operate, preview=preview, yes=yes, json=json)


@app.command(epilog="Example: sgsd bank unpin 7 --bank bank")
def unpin(
    bank: BankOption,
    ids: IdsArgument = None,
    where: WhereOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Let entries be merged away and pruned again."""
    from skillbank import curate

    def operate(opened: Bank, chosen: Sequence[int], dry: bool) -> Operation:
        return curate.unpin(opened, chosen, actor=actor(), reason=reason, preview=dry)

    act(bank, ids, where, operate, preview=preview, yes=yes, json=json)


@app.command(epilog="Example: sgsd bank tag 7 12 --tag algebra --bank bank")
def tag(
    bank: BankOption,
    tags: TagOption,
    ids: IdsArgument = None,
    where: WhereOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Tag entries, to find them again by `--where tag:NAME`."""
    from skillbank import curate

    def operate(opened: Bank, chosen: Sequence[int], dry: bool) -> Operation:
        return curate.tag(opened, chosen, tags, actor=actor(), reason=reason, preview=dry)

    act(bank, ids, where, operate, preview=preview, yes=yes, json=json)


@app.command(epilog="Example: sgsd bank untag --where tag:draft --tag draft --bank bank")
def untag(
    bank: BankOption,
    tags: TagOption,
    ids: IdsArgument = None,
    where: WhereOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Take tags off entries."""
    from skillbank import curate

    def operate(opened: Bank, chosen: Sequence[int], dry: bool) -> Operation:
        return curate.untag(opened, chosen, tags, actor=actor(), reason=reason, preview=dry)

    act(bank, ids, where, operate, preview=preview, yes=yes, json=json)
