"""A file of another bank into a stream of items. Nothing is trusted here: what is no entry is rejected and counted.

What a file is tells its content. Databases and indexes of other banks are never opened, whoever hands them over.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from skillbank.errors import BankNotFound, InvalidEntry, InvalidOption, RolloutsInvalid
from skillbank.exchange import sgsd
from skillbank.exchange.items import Item, item_of
from skillbank.rollouts import lines
from skillbank.rollouts.rejects import Unusable

Format = Literal["jsonl", "parquet", "sgsd"]
FORMATS: tuple[Format, ...] = get_args(Format)
MAX_JSON_BYTES = 64 * 2**20
"""Of a JSON bank, which is read whole; the largest published one has 0.3 MB."""
MAX_BYTES = 2**31
"""Of all records of a file, unpacked."""
HEAD_BYTES = 2**20


class Line(NamedTuple):
    """A record of a file, the item it is or why it is none."""

    number: int
    """Of the line, row or entry, from 1."""
    raw: object
    """What stands in the file."""
    item: Item | Unusable


class BankFile(NamedTuple):
    """A file that is open for import."""

    format: Format
    lines: Iterator[Line]
    """Raises InvalidEntry where the file is damaged."""
    ignored: Counter[str]
    """Fields that a bank has no place for, counted as the lines are read."""
    record: Mapping[str, Any] | None
    """The whole of a JSON bank."""


def open_file(path: Path, format: Format | None) -> BankFile:
    """Raises BankNotFound, InvalidEntry (no file of a known format, too large, or damaged) and InvalidOption."""
    if format is not None and format not in FORMATS:
        raise InvalidOption(f"format is {format!r}: choose one of {', '.join(FORMATS)}")
    _check_file(path)
    try:
        format = format or _detect(path)
        ignored: Counter[str] = Counter()
        if format == "sgsd":
            record = _whole(path)
            return BankFile("sgsd", _sgsd(record, path, ignored), ignored, record)
        return BankFile(format, _records(path), ignored, None)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidEntry(f"{path} cannot be read ({error}): get it again, or check its permissions") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        if (path / "bank.sqlite").exists():
            raise InvalidEntry(
                f"{path} is a bank, and databases and indexes of others are not opened: "
                f"`sgsd bank export bank.jsonl --bank {path}` makes a file of it, which can be imported"
            )
        raise InvalidEntry(f"{path} is a folder: name a file in it, as JSONL, parquet or JSON of SGSD")
    if not path.is_file():
        raise BankNotFound(f"no file at {path}: name a bank that was exported, as JSONL, parquet or JSON of SGSD")


def _detect(path: Path) -> Format:
    if lines.is_parquet(path):
        return "parquet"
    head = _head(path)
    if head.startswith(b"SQLite format 3\0"):
        raise InvalidEntry(
            f"{path} is a database, and those of others are not opened: export it where it comes from, with "
            "`sgsd bank export`"
        )
    if not head.strip():
        raise InvalidEntry(f"{path} is empty: name a bank that was exported, as JSONL, parquet or JSON of SGSD")
    first = lines.parse(head.removeprefix(b"\xef\xbb\xbf").strip().partition(b"\n")[0])
    if not isinstance(first, Unusable):
        return "sgsd" if sgsd.is_bank_json(first) else "jsonl"
    names = (sgsd.SKILLS, sgsd.TASKS, sgsd.MISTAKES)
    return "sgsd" if any(f'"{name}"'.encode() in head for name in names) else "jsonl"


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


# ---------------------------------------------------------------------------------------------------- jsonl and parquet


def _records(path: Path) -> Iterator[Line]:
    size = 0
    try:
        for number, raw, record in lines.records(path):
            size += len(raw) if isinstance(raw, bytes) else len(str(raw))
            if size > MAX_BYTES:
                raise InvalidEntry(f"{path} holds more than {MAX_BYTES:,} bytes of records: split it")
            yield Line(number, raw, _item(record))
    except RolloutsInvalid as error:
        raise InvalidEntry(str(error)) from error
    except OSError as error:
        raise InvalidEntry(f"{path} cannot be read ({error.strerror}): check its permissions") from error


def _item(record: Mapping[str, Any] | Unusable) -> Item | Unusable:
    if isinstance(record, Unusable):
        return record
    try:
        return item_of(record)
    except Unusable as problem:
        return problem


# ---------------------------------------------------------------------------------------------------------------- sgsd


def _whole(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else path.open("rb") as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise InvalidEntry(f"{path} is larger than a JSON bank may be, {MAX_JSON_BYTES:,} bytes: split it")
    record = lines.parse(data.removeprefix(b"\xef\xbb\xbf").strip())
    if isinstance(record, Unusable):
        detail = " ".join(record.detail.split())
        raise InvalidEntry(f"{path} is no JSON bank: it is {record.reason} ({detail}); get it again")
    if not sgsd.is_bank_json(record):
        raise InvalidEntry(
            f"{path} is no JSON bank: it has none of {sgsd.SKILLS}, {sgsd.TASKS} and {sgsd.MISTAKES}; "
            "rollouts are read by `sgsd bank build`"
        )
    return record


def _sgsd(record: Mapping[str, Any], path: Path, ignored: Counter[str]) -> Iterator[Line]:
    for number, (where, given, item) in enumerate(sgsd.items_of(record, path.name, ignored), start=1):
        if isinstance(item, Unusable):
            item = Unusable(item.reason, f"{where}: {item.detail}" if item.detail else where)
        yield Line(number, given, item)
