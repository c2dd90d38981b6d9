"""What the commands of `sgsd bank` share: options, and a bank opened for reading or writing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sgsd.cli.common import console

if TYPE_CHECKING:
    from skillbank.store import Bank

# Spelt out here as well as in skillbank.records, which would bring pydantic into `sgsd --help`.
Kind = Literal["skill", "mistake", "pair"]
Status = Literal["active", "disabled", "quarantined", "superseded", "retired"]

BankOption = Annotated[Path, typer.Option("--bank", envvar="SGSD_BANK", help="The bank's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
KindOption = Annotated[Kind | None, typer.Option(help="Only this kind.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the history.")]
PreviewOption = Annotated[bool, typer.Option("--preview", help="Show what would happen and change nothing.")]
MAX_ID = 2**63 - 1
"""SQLite's."""
IdArgument = Annotated[int, typer.Argument(metavar="ID", min=1, max=MAX_ID, help="The entry's id.")]
IdsArgument = Annotated[list[int], typer.Argument(metavar="ID...", min=1, max=MAX_ID, help="Ids of entries.")]


@contextmanager
def reading(path: Path) -> Iterator[Bank]:
    """The bank, for reading only."""
    from skillbank.store import Bank

    with Bank.open(path, readonly=True) as bank:
        yield bank


@contextmanager
def writing(path: Path) -> Iterator[Bank]:
    """The bank, for reading and writing."""
    from skillbank.store import Bank

    with Bank.open(path) as bank:
        yield bank


OnPhase = Callable[[str, int, int | None], None]
"""(phase, done, total or None when it is not known beforehand)"""


@contextmanager
def phases() -> Iterator[OnPhase]:
    """A line on the terminal that says what long work is at."""
    if not console.is_terminal:
        yield lambda phase, done, total: None
        return
    with console.status("starting") as status:
        yield lambda phase, done, total: status.update(_phase(phase, done, total))


def _phase(name: str, done: int, total: int | None) -> str:
    return f"{name} {done:,} of {total:,}" if total else f"{name} {done:,}" if done else name


def actor() -> str:
    """Who stands in the history."""
    return os.environ.get("USER") or "someone"
