"""Is this virtual environment sound? Run by `setup_env.sh` with the environment's own interpreter.

python check_env.py [--files]

Prints "sound" when the interpreter is new enough, belongs to a virtual environment, and that environment stands where
it was made. (A word, because an empty file in the interpreter's place exits with 0 as well.) With --files every file of
every installed package must be there in full too: an interrupted installation leaves packages that only look installed.
Standard library alone; says on stderr what is wrong.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import sys


def moved(prefix: str) -> str | None:
    """A script that belongs to another folder: scripts name their interpreter by its full path."""
    for name in ("pip", "mypy", "sgsd"):
        script = os.path.join(prefix, "bin", name)
        if os.path.isfile(script):
            with open(script, encoding="utf-8", errors="replace") as file:
                head = "".join(file.readline() for _ in range(3))
            if f"{prefix}/bin/" not in head and f"{os.path.realpath(prefix)}/bin/" not in head:
                return script
    return None


def broken_file() -> str | None:
    """A file that is missing or cut short, by the RECORD (path, hash, size) of its package."""
    for distribution in importlib.metadata.distributions():
        record = distribution.read_text("RECORD")
        if record is None:
            return f"{distribution.name}: no RECORD"
        for path, _, size in csv.reader(record.splitlines()):
            file = str(distribution.locate_file(path))
            if path.endswith(".pyc"):
                continue
            if not os.path.exists(file) or (size and os.path.getsize(file) != int(size)):
                return file
    return None


def complaint(files: bool) -> str | None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this very check is what it is for
        return f"Python {sys.version_info.major}.{sys.version_info.minor} is too old, 3.11 or newer is needed"
    if sys.prefix == sys.base_prefix:
        return f"{sys.prefix} is no virtual environment"
    if script := moved(sys.prefix):
        return f"{script} was made for another folder"
    if files and (file := broken_file()):
        return f"an installation was interrupted: {file}"
    return None


if __name__ == "__main__":
    problem = complaint("--files" in sys.argv[1:])
    if problem:
        sys.exit(f"setup: {problem}")
    print("sound")
