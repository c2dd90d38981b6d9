"""What could not be used of a file: one record a line, a log that counts them by reason and keeps them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

from skillbank.records import Record


class Rejected(Record):
    """One line, row or element that could not be used."""

    path: str
    line: int
    """Number of the line (JSONL), row (parquet) or element (JSON array), from 1."""
    reason: str
    """One of few: what the counters are keyed by."""
    detail: str = ""
    raw: str
    """The line itself; bytes that are not UTF-8 are shown as \\xNN. Of one that is too long, its beginning."""


OnReject = Callable[[Rejected], None]


class Unusable(Exception):
    """Why one line cannot be used: a reason of the few, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def ignore(_: Rejected) -> None:
    """For callers who want the usable lines alone."""


class RejectLog:
    """An `on_reject` that counts by reason and keeps every rejected line in a JSONL file.

    It grows under a temporary name and replaces the file of an earlier run on a clean exit. Nothing rejected, no file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.counts: Counter[str] = Counter()
        self._part = self.path.with_name(f"{self.path.name}.tmp-{os.getpid()}")
        self._file: IO[str] | None = None

    def __call__(self, rejected: Rejected) -> None:
        self.counts[rejected.reason] += 1
        if self._file is None:
            self._file = self._part.open("w", encoding="utf-8")
        self._file.write(rejected.model_dump_json() + "\n")

    def __enter__(self) -> RejectLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if kind is not None:
            self._part.unlink(missing_ok=True)
        elif self._file is not None:
            os.replace(self._part, self.path)
        else:
            self.path.unlink(missing_ok=True)
