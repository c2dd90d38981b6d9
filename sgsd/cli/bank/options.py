"""What the commands of `sgsd bank` share: options, the query they make, and a bank opened for reading or writing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sgsd.cli.common import console

if TYPE_CHECKING:
    from skillbank.store import Bank
    from skillbank.store.query import Query

# Spelt out here as well as in skillbank.records, which would bring pydantic into `sgsd --help`.
Kind = Literal["skill", "mistake", "pair"]
Status = Literal["active", "disabled", "quarantined", "superseded", "retired"]

BankOption = Annotated[Path, typer.Option("--bank", envvar="SGSD_BANK", help="The bank's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="QUERY",
        help='Entries that fit, such as "kind:skill flag:* utility:<0 zorp" (docs/curation.md).',
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
LimitOption = Annotated[int, typer.Option(min=1, help="At most so many.")]
OffsetOption = Annotated[int, typer.Option(min=0, help="Skip so many first.")]
KindOption = Annotated[Kind | None, typer.Option(help="Only this kind.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the history.")]
PreviewOption = Annotated[bool, typer.Option("--preview", help="Show what would happen and change nothing.")]
MAX_ID = 2**63 - 1
"""SQLite's."""
IdArgument = Annotated[int, typer.Argument(metavar="ID", min=1, max=MAX_ID, help="The entry's id.")]
IdsArgument = Annotated[
    list[int] | None,
    typer.Argument(
        metavar="[ID]...", min=1, max=MAX_ID, help="Ids of entries; or --where instead.", show_default=False
    ),
]


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


def query(where: str | None, given: Mapping[str, object]) -> Query:
    """What `--where` and the options together select. Raises InvalidOption for what is given twice."""
    from skillbank.errors import InvalidOption
    from skillbank.store.query import Query

    parsed = Query.parse(where or "")
    values = {name: getattr(parsed, name) for name in parsed.model_fields_set}
    for name, value in given.items():
        if value is None:
            continue
        if name in BOUNDS:
            bounds = getattr(Query.parse(f"{name}:{value}"), name) if str(value).strip() else ()
            if not bounds:
                raise InvalidOption(f"--{name} has no number: write --{name} 3, '>=3' or '<0.5'")
            values[name] = (*values.get(name, ()), *bounds)
        elif name in values:
            raise InvalidOption(f"{name} is given twice, in --where as {values[name]} and by --{name}: give it once")
        else:
            values[name] = value
    return Query(**values)


BOUNDS = ("evidence", "utility", "revision")
"""Criteria of a query that compare a number."""


def actor() -> str:
    """Who stands in the history."""
    return os.environ.get("USER") or "someone"
