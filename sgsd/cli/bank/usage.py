"""What training measured of the entries, and what goes by it: `usage`, `prune`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sgsd.cli.bank import usage_text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.bulk import at_a_terminal
from sgsd.cli.bank.options import (
    BankOption,
    IdsArgument,
    JsonOption,
    KindOption,
    LimitOption,
    OffsetOption,
    ReasonOption,
    WhereOption,
    YesOption,
    actor,
    query,
    reading,
    writing,
)
from sgsd.cli.bank.text import entries_count
from sgsd.cli.common import emit

if TYPE_CHECKING:
    from skillbank.curate.prune import Pruned
    from skillbank.store import Bank

Sort = Literal["id", "utility", "low", "high", "uses", "credit", "credit_z", "z", "placebo"]
RunOption = Annotated[str | None, typer.Option("--run", help="Only what this run measured.")]
HalfLifeOption = Annotated[
    float | None,
    typer.Option("--half-life", help="Optimiser steps after which a use counts half; all count the same without it."),
]
LevelOption = Annotated[float, typer.Option("--level", help="Of the intervals, such as 0.95.")]


@app.command(epilog="Example: sgsd bank usage --kind skill --sort utility --bank bank")
def usage(
    bank: BankOption,
    ids: IdsArgument = None,
    where: WhereOption = None,
    kind: KindOption = None,
    teachers: Annotated[
        bool, typer.Option("--teachers", help="Every skill and mistake that taught together, not entry by entry.")
    ] = False,
    run: RunOption = None,
    half_life: HalfLifeOption = None,
    level: LevelOption = 0.95,
    sort: Annotated[Sort, typer.Option(help="Order; by all but id the highest first.")] = "id",
    limit: LimitOption = 20,
    offset: OffsetOption = 0,
    json: JsonOption = False,
) -> None:
    """Show what training measured of entries: utility, their own credit, correlation with the outcome, placebo."""
    if teachers and (kind or where is not None):
        raise typer.BadParameter("teachers are chosen by ids alone: leave --kind, --where out", param_hint="--teachers")
    criteria = query(where, {"kind": kind})
    from skillbank.store.query import Query
    from skillbank.usage import MEASURES, estimates

    with reading(bank) as opened, opened.db.snapshot():
        among = None if criteria == Query() else set(opened.ids(criteria))
        found = [
            one
            for one in estimates(
                opened,
                of="pair" if teachers else "entry",
                run=run,
                ids=ids,
                half_life_steps=half_life,
                level=level,
                credit=True,
            )
            if among is None or one.entry_id in among
        ]
        if sort != "id":
            value = MEASURES[sort]
            found.sort(key=lambda one: (value(one) is None, -(value(one) or 0.0)))
        shown = found[offset : offset + limit]
        words = usage_text.headlines(opened, shown)
    payload = {"total": len(found), "level": level, "usage": [one.model_dump(mode="json") for one in shown]}
    emit(payload, json, lambda: usage_text.usage(shown, words, len(found), offset, level))


@app.command(epilog='Example: sgsd bank prune --rule "problems:>=8 high:<0" --dry-run --bank bank')
def prune(
    bank: BankOption,
    rule: Annotated[
        str,
        typer.Option("--rule", help="What goes: bounds on what was measured, or the name of a rule (docs/usage.md)."),
    ],
    run: RunOption = None,
    half_life: HalfLifeOption = None,
    level: LevelOption = 0.95,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go and change nothing.")] = False,
    reason: ReasonOption = "",
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Retire what a keep rule finds, after saying what would go with it. One revision, which `undo` takes back."""
    from skillbank.curate.prune import prune as pruned
    from skillbank.usage import KeepRule

    wanted = KeepRule.parse(rule)

    with writing(bank) as opened:
        work = partial(
            pruned,
            opened,
            wanted,
            run=run,
            half_life_steps=half_life,
            level=level,
            actor=actor(),
            reason=reason,
        )
        agreed = None
        if not (dry_run or yes):
            seen = work(preview=True)
            agreed = [one.entry_id for one in seen.pruning.retired if one.entry_id is not None]
            if agreed:
                _ask(opened, seen)
        done = work(only=agreed, preview=dry_run)
        payload = {**done.pruning.model_dump(mode="json"), "revision": done.operation.revision}
        emit(payload, json, lambda: usage_text.pruned(opened, done, dry_run))


def _ask(bank: Bank, seen: Pruned) -> None:
    count = seen.operation.changed
    if not at_a_terminal():
        raise typer.BadParameter(
            f"it would retire {entries_count(count)} and nobody is there to ask: look with --dry-run, then add --yes",
            param_hint="--rule",
        )
    usage_text.pruned(bank, seen, True, err=True)
    if not typer.confirm(f"retire {entries_count(count)}?", err=True):
        raise typer.Abort
