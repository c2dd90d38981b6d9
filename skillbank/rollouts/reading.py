"""Reading past rollouts: a file of any known format becomes a stream of `Rollout`.

A line (parquet row, element of a JSON array) that cannot be used is handed to `on_reject` with its number, a reason and
its raw text, and the rest goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from skillbank.errors import InvalidOption, RolloutsInvalid, RolloutsNotFound
from skillbank.records import Record, Rollout
from skillbank.rollouts.formats import FORMATS, NATIVE_FIELDS, Format, detect
from skillbank.rollouts.lines import Read, records, shown
from skillbank.rollouts.rejects import OnReject, Rejected, Unusable, ignore
from skillbank.rollouts.rewards import Verdict


class Reading(Record):
    """How files of past rollouts are to be read."""

    format: Format = "auto"
    reward: str | None = None
    """Of a format with rewards and no outcome: the one that decides."""
    threshold: float | None = None
    """The reward from which an attempt is right."""

    def rollouts(self, file: str | os.PathLike[str], on_reject: OnReject | None = None) -> Iterator[Rollout]:
        """`read_rollouts` of a file."""
        return read_rollouts(
            file, format=self.format, reward=self.reward, threshold=self.threshold, on_reject=on_reject
        )


def read_rollouts(
    path: str | os.PathLike[str],
    *,
    format: Format = "auto",
    on_reject: OnReject | None = None,
    reward: str | None = None,
    threshold: float | None = None,
) -> Iterator[Rollout]:
    """Stream the rollouts of a file; `auto` takes the format of the first record that fits one.

    `reward` and `threshold` are for formats that hold rewards and no outcome (`skillbank.rollouts.rewards.Verdict`).

    Raises `RolloutsNotFound` at once when there is no file, `RolloutsInvalid` at once when it is empty or unreadable,
    and `RolloutsInvalid` at its end when not one record was usable.
    """
    if format not in get_args(Format):
        raise InvalidOption(f"format is {format!r}: choose one of {', '.join(get_args(Format))}")
    file = _checked(Path(path))
    verdict = Verdict(reward=reward, threshold=threshold)
    return _stream(file, records(file), None if format == "auto" else format, verdict, on_reject or ignore)


def reader_for(path: str | os.PathLike[str]) -> str:
    """The format of a file: that of its first usable record. Raises as `read_rollouts` does."""
    file = _checked(Path(path))
    for _, _, record in records(file):
        try:
            if not isinstance(record, Unusable):
                name = detect(record)
                FORMATS[name].read(record, Verdict())
                return name
        except Unusable:
            continue
    raise RolloutsInvalid(f"{file} holds no record of a known format: {', '.join(FORMATS)}")


def _checked(file: Path) -> Path:
    if not file.exists():
        raise RolloutsNotFound(f"no rollout file at {file}; name a JSONL or parquet file of past rollouts")
    if not file.is_file():
        if file.is_dir():
            raise RolloutsInvalid(f"{file} is a folder, not a rollout file; name the JSONL or parquet file in it")
        raise RolloutsInvalid(f"{file} is no regular file; name a JSONL or parquet file of past rollouts")
    try:
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise RolloutsInvalid(f"{file} cannot be read ({error.strerror}); check its permissions") from error
    if empty:
        raise RolloutsInvalid(f"{file} is empty; a rollout file has one JSON record a line ({NATIVE_FIELDS})")
    return file


def _stream(
    file: Path, read: Iterator[Read], name: str | None, verdict: Verdict, reject: OnReject
) -> Iterator[Rollout]:
    usable = rejected = 0
    first = "none, all are blank"
    for line, raw, record in read:
        try:
            if isinstance(record, Unusable):
                raise record
            format = name or detect(record)
            rollouts = FORMATS[format].read(record, verdict)
        except Unusable as problem:
            rejected += 1
            if rejected == 1:
                first = f"line {line} is {problem.reason}" + (f", {problem.detail}" if problem.detail else "")
            reject(Rejected(path=str(file), line=line, reason=problem.reason, detail=problem.detail, raw=shown(raw)))
            continue
        name = format
        usable += 1
        yield from rollouts
    if not usable:
        raise RolloutsInvalid(
            f"{file} holds no usable rollout ({rejected} lines rejected, the first: {' '.join(first.split())}); "
            f"a line is a JSON record with {NATIVE_FIELDS}, or of another known format: {', '.join(FORMATS)}"
        )
