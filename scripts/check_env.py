"""Is this virtual environment sound? Run by `setup_env.sh` with the environment's own interpreter.

python check_env.py [--whole]

Prints "sound" when the interpreter is new enough, belongs to a virtual environment, that environment stands where it
was made, and every file of every installed package is there. (A word, because an empty file in the interpreter's place
exits with 0 as well.) With --whole the files must have their full size too: an interrupted installation leaves packages
that only look installed. Otherwise a size is nobody's business, so that one may look for a bug in an installed package.
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


def broken_file(whole: bool) -> str | None:
    """A file that is missing or, if `whole`, cut short, by the RECORD (path, hash, size) of its package."""
    for distribution in importlib.metadata.distributions():
        record = distribution.read_text("RECORD")
        if record is None:
            if whole:
                return f"{distribution.name} has no RECORD"
            continue
        for path, _, size in csv.reader(record.splitlines()):
            file = str(distribution.locate_file(path))
            if path.endswith(".pyc"):
                continue
            if not os.path.exists(file):
                return f"{file} is missing"
            if whole and size and os.path.getsize(file) != int(size):
                return f"{file} is cut short"
    return None


def complaint(whole: bool) -> str | None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this very check is what it is for
        return f"Python {sys.version_info.major}.{sys.version_info.minor} is too old, 3.11 or newer is needed"
    if sys.prefix == sys.base_prefix:
        return f"{sys.prefix} is no virtual environment"
    if script := moved(sys.prefix):
        return f"{script} was made for another folder"
    if fault := broken_file(whole):
        return f"an installed package is not whole: {fault}"
    return None


if __name__ == "__main__":
    problem = complaint("--whole" in sys.argv[1:])
    if problem:
        sys.exit(f"setup: {problem}")
    print("sound")
