"""Operations on entries named by id or by query: what a query selects is shown and asked about before it is done.

The query is resolved once. What is previewed, confirmed and changed are exactly those entries, whatever else comes to
fit meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sgsd.cli.bank import text
from sgsd.cli.bank.options import query, writing
from sgsd.cli.common import emit

if TYPE_CHECKING:
    from skillbank.curate import Operation
    from skillbank.store import Bank

Operate = Callable[["Bank", Sequence[int], bool], "Operation"]
"""(bank, ids, preview) -> what was done, or would be."""


def act(
    path: Path,
    ids: Sequence[int] | None,
    where: str | None,
    operate: Operate,
    *,
    preview: bool,
    yes: bool,
    json: bool,
) -> None:
    """Runs an operation on the entries that `ids` or `where` names, and prints it."""
    if bool(ids) == (where is not None):
        given = "both ids and a query" if ids else "no entry"
        raise typer.BadParameter(f"{given} is given: name ids, or --where QUERY", param_hint="ID")
    with writing(path) as bank:
        if where is None:
            report(bank, operate(bank, list(ids or ()), preview), preview, json)
            return
        selected = bank.ids(query(where, {}))
        if not (preview or yes or not selected):
            _ask(bank, operate(bank, selected, True), where)
        report(bank, operate(bank, selected, preview), preview, json)


def report(bank: Bank, done: Operation, preview: bool, json: bool) -> None:
    """Prints an operation, for people or as JSON with every change."""
    changes = [change.model_dump(mode="json") for change in done.details()] if json else []
    emit(
        {**done.model_dump(mode="json"), "changes": changes},
        json,
        lambda: text.operation(done, preview, text.headlines_of(bank, done), bank.path),
    )


def _ask(bank: Bank, seen: Operation, where: str) -> None:
    """Shows what would happen and goes on only when somebody at a terminal agrees."""
    if not seen.changed:
        return
    if not at_a_terminal():
        raise typer.BadParameter(
            f'{seen.action} would change {text.entries_count(seen.changed)} that fit "{where}" and nobody is there to '
            "ask: look with --preview, then add --yes",
            param_hint="--where",
        )
    text.operation(seen, True, text.headlines_of(bank, seen), bank.path, err=True)
    if not typer.confirm(f"{seen.action} {text.entries_count(seen.changed)}?", err=True):
        raise typer.Abort


def at_a_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()
