"""What every command prints with: results on stdout, everything else (progress, notes, errors) on stderr.

So `sgsd COMMAND --json > file` always leaves one JSON document in the file, whatever was shown on the way. Of several
processes of one run the main one alone prints.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console

from sgsd.errors import ConfigError, refusal
from sgsd.ranks import launched

if TYPE_CHECKING:
    from pydantic import BaseModel

    from sgsd.config import Config

Item = TypeVar("Item")
Section = TypeVar("Section", bound="Config")

console = Console(stderr=True)
"""Notes, warnings and progress. Not for results."""


def emit(payload: BaseModel | Mapping[str, Any], as_json: bool, human: Callable[[], None]) -> None:
    """Print a command's result on stdout: `payload` as one JSON document, or what `human` prints.

    Floats that JSON cannot hold (nan, inf) become null. Raises TypeError when a value is none of JSON's kinds.
    """
    if not launched().main:
        return
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
    if launched().main:
        typer.echo(coloured(f"warning: {message}", typer.colors.YELLOW), err=True)


def coloured(text: str, colour: str) -> str:
    """Colour on a terminal (typer drops it elsewhere), none when NO_COLOR is set."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, fg=colour)


def note(message: str) -> None:
    """A line on stderr about what is going on, as it is: no markup, no wrapping."""
    if launched().main:
        console.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says on a terminal what takes a while, such as loading; nothing elsewhere."""
    if not console.is_terminal or not launched().main:
        yield
        return
    with console.status(what):
        yield


def from_options(section: type[Section], values: Mapping[str, Any], named: Mapping[str, str]) -> Section:
    """A section of the configuration from command line options; `named` has the options that differ from their keys.

    Raises ConfigError that names the option, its value and the bound.
    """
    from pydantic import ValidationError

    try:
        return section.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        option = named.get(key, f"--{key.replace('_', '-')}") if key else ""
        raise ConfigError(refusal(option, first)) from error


def counted(number: int, noun: str) -> str:
    """ "1 problem", "1,319 problems"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def check_file(path: Path, option: str, example: str) -> None:
    """Refuse an output file that could not be written, before hours of work are lost on it. Raises ConfigError."""
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder: name a file in it, such as {path / example}")
    _check_writable(path, path.parent, option)


def check_folder(path: Path, option: str) -> None:
    """Refuse an output folder that could not be made or written into. Leaves nothing behind. Raises ConfigError."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{option} {path} is a file: name a folder")
    _check_writable(path, path, option)


def _check_writable(path: Path, nearest: Path, option: str) -> None:
    """Try to write into the nearest folder that is there already."""
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ConfigError(f"{option} {path} cannot be made: {nearest} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option} {path} cannot be written ({error.strerror} in {nearest}): name another place"
        ) from error


def offline_without_network(*names: str | None) -> None:
    """When one of the names can only come from the hub and the hub cannot be found, look in the cache alone.

    Otherwise its client retries for most of a minute, loudly, even for what is in the cache. `HF_HUB_OFFLINE`, a proxy
    or a mirror that the user has set is left alone.
    """
    import socket

    remote = [name for name in names if name and name != "arena" and ":" not in name and not Path(name).exists()]
    set_already = ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    if not remote or any(os.environ.get(key) for key in set_already):
        return
    try:
        socket.getaddrinfo("huggingface.co", 443)
    except socket.gaierror:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the client is imported, which the commands do later


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
