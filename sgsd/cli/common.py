"""What every command prints with: results on stdout, everything else (progress, notes, errors) on stderr.

So `sgsd COMMAND --json > file` always leaves one JSON document in the file, whatever was shown on the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console

if TYPE_CHECKING:
    from pydantic import BaseModel

Item = TypeVar("Item")

console = Console(stderr=True)
"""Notes, warnings and progress. Not for results."""


def emit(payload: BaseModel | Mapping[str, Any], as_json: bool, human: Callable[[], None]) -> None:
    """Print a command's result on stdout: `payload` as one JSON document, or what `human` prints.

    Floats that JSON cannot hold (nan, inf) become null. Raises TypeError when a value is none of JSON's kinds.
    """
    if not as_json:
        human()
        return
    values = dict(payload) if isinstance(payload, Mapping) else payload.model_dump(mode="json")
    typer.echo(json.dumps(_finite(values), ensure_ascii=False, indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return value


def warn(message: str) -> None:
    """One line of warning on stderr; the command goes on."""
    typer.secho(f"warning: {message}", err=True, fg=typer.colors.YELLOW)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar on stderr; no bar when stderr is not a terminal."""
    from rich.progress import track as rich_track

    yield from rich_track(
        items, description=description, total=total, console=console, disable=not console.is_terminal, transient=True
    )


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar for work that reports by calling back: yields `advance(n)`, n more items done.

    No bar when stderr is not a terminal; an unknown `total` gives a bar that only moves.
    """
    from rich.progress import Progress

    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda n: bar.advance(task, n)
