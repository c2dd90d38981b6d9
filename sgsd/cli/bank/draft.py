"""An entry as a text to be read and changed in an editor, and back.

    [title]
    Reduce before adding

    [principle]
    Fractions are ...

A field is a line with its name in brackets and all lines up to the next; what stands before the first is left out. A
line of a text that would be taken for such a name gets a backslash before it, so any text comes back as it was but for
spaces and empty lines around it. A field that comes again begins another part: that is how an entry is split.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sgsd.errors import ConfigError, SGSDError

SKILL = ("title", "principle", "when_to_apply")
MISTAKE = ("description", "why_it_happens", "how_to_avoid")
NAMES = (*SKILL, *MISTAKE)
_NAME = re.compile(r"\\*\[[a-z_]+\]\s*")


def written(parts: Iterable[Mapping[str, str]], about: str) -> str:
    """The text form of entries (or of drafts of them), under a few lines that say what to do."""
    blocks = [f"{line}\n" for line in about.strip().split("\n")]
    for part in parts:
        blocks += [f"\n[{name}]\n{_escaped(text)}\n" for name, text in part.items()]
    return "".join(blocks)


def read(text: str) -> list[dict[str, str]]:
    """The parts of a text form: field -> text. Raises ConfigError that names a field it does not know."""
    parts: list[dict[str, str]] = []
    field = None
    lines: list[str] = []

    def close() -> None:
        if field is not None:
            parts[-1][field] = plain("\n".join(lines))

    for line in text.replace("\r\n", "\n").split("\n"):
        if not _NAME.fullmatch(line):
            lines.append(line)
        elif line.startswith("\\"):
            lines.append(line[1:])
        else:
            close()
            field, lines = line.strip()[1:-1], []
            if field not in NAMES:
                raise ConfigError(
                    f"[{field}] is no field: use {', '.join(NAMES)}, or write \\[{field}] for those words"
                )
            if not parts or field in parts[-1]:
                parts.append({})
    close()
    return parts


def plain(text: str) -> str:
    """A text as the form gives it back: without spaces and empty lines around it."""
    return text.replace("\r\n", "\n").strip()


def _escaped(text: str) -> str:
    lines = plain(text).split("\n")
    return "\n".join(f"\\{line}" if _NAME.fullmatch(line) else line for line in lines)


def edited(text: str) -> str | None:
    """The text as somebody left it in their editor; None when it was emptied or not changed.

    Raises ConfigError when there is no editor, SGSDError when it fails.
    """
    command = editor()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "entry.txt"
        file.write_bytes(text.encode())
        try:
            done = subprocess.run([*command, str(file)], check=False)
        except OSError as error:
            raise SGSDError(
                f"the editor {shlex.join(command)} cannot be started ({error.strerror}): set EDITOR to another one"
            ) from error
        if done.returncode != 0:
            raise SGSDError(f"the editor {shlex.join(command)} ended with {done.returncode}: nothing was changed")
        try:
            left = file.read_bytes().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise SGSDError(f"the editor left no UTF-8 text ({error.reason}): nothing was changed") from error
    return None if left == text or not left.strip() else left


def editor() -> Sequence[str]:
    """The command of VISUAL or EDITOR, or one that is there when somebody sits at a terminal. Raises ConfigError."""
    for name in ("VISUAL", "EDITOR"):
        if os.environ.get(name, "").strip():
            try:
                return shlex.split(os.environ[name])
            except ValueError as error:
                raise ConfigError(
                    f"{name} is {os.environ[name]!r}, which is no command ({error}): set it anew"
                ) from error
    if sys.stdin.isatty():
        for name in ("editor", "nano", "vi"):
            if shutil.which(name):
                return [name]
    raise ConfigError("there is no editor to write in: set EDITOR, or give the words by options")


def keep(text: str) -> Path:
    """Leaves a text that could not be taken in a file of its own, so that nobody writes it twice."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="sgsd-entry-", suffix=".txt", delete=False) as file:
        file.write(text)
    return Path(file.name)
