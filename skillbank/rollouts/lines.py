"""The records of a file, one after the other, whatever holds them: JSON lines, a JSON array, parquet, packed or not.

What a file is tells its content, never its name. Memory stays flat: a line or an element is held at a time, of parquet
a batch of rows. Says nothing of what a record means.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from skillbank.errors import RolloutsInvalid
from skillbank.rollouts.rejects import Unusable

MAX_BYTES = 16 * 2**20
"""Of one line, row or element; a completion of 40,000 tokens takes 0.2 MB."""
SHOWN_BYTES = 1000
"""Of one that is too long, what is kept to show it."""
BATCH_ROWS = 128
CHUNK_BYTES = 2**20

Raw = bytes | Mapping[str, Any]
Read = tuple[int, Raw, Mapping[str, Any] | Unusable]
"""(number from 1, what stands in the file, the record or why there is none)"""


def records(file: Path) -> Iterator[Read]:
    """Every record of the file that is not blank. Raises RolloutsInvalid when the file itself is damaged."""
    if is_parquet(file):
        return _rows(file)
    with file.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return _unpacked(file) if packed else _plain(file)


def shown(raw: object) -> str:
    """What stands in the file, as text."""
    if isinstance(raw, bytes):
        return raw.decode("utf-8", errors="backslashreplace")
    try:
        return json.dumps(raw, default=str)
    except (ValueError, RecursionError):
        return repr(raw)[:SHOWN_BYTES]


def is_parquet(file: Path) -> bool:
    """The mark at both ends, with room for the footer's length between them."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(4)
        stream.seek(max(0, size - 4))
        return size >= 12 and head == b"PAR1" == stream.read(4)


def parse(data: bytes) -> Mapping[str, Any] | Unusable:
    """One JSON record. NaN and the infinities, which JSON has no word for, are read as null."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Unusable("not UTF-8", f"byte {error.start}")
    try:
        record = json.loads(text, parse_constant=_no_value)
    except json.JSONDecodeError as error:
        return Unusable("not JSON", f"{error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, nesting without end
        return Unusable("not JSON", str(error))
    if not isinstance(record, dict):
        return Unusable("not a record", f"a JSON {type(record).__name__}")
    return _whole(record) if _HALF_PAIR.search(text) else record


_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def _whole(record: dict[str, Any]) -> Mapping[str, Any] | Unusable:
    """Half a surrogate pair is legal in JSON's escapes, but can neither be stored nor hashed."""
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        return Unusable("not UTF-8", f"half a surrogate pair at character {error.start}")
    except RecursionError:
        return Unusable("not JSON", "nested too deep")
    return record


def _no_value(_: str) -> None:
    """NaN, Infinity and -Infinity say nothing."""


# ---------------------------------------------------------------------------------------------------------------- text


def _plain(file: Path) -> Iterator[Read]:
    with file.open("rb") as stream:
        yield from _text(stream)


def _unpacked(file: Path) -> Iterator[Read]:
    number = 0
    try:
        with gzip.open(file, "rb") as packed, io.BufferedReader(packed) as stream:
            for number, raw, record in _text(stream):
                yield number, raw, record
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RolloutsInvalid(f"{file} is a damaged gzip file (after line {number}); pack it again") from error


def _text(stream: IO[bytes]) -> Iterator[Read]:
    head = stream.read(CHUNK_BYTES)
    stream.seek(0)
    return _elements(stream) if _ARRAY.match(head) else _lines(stream)


_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*[{\]]")


def _lines(stream: IO[bytes]) -> Iterator[Read]:
    number = 0
    while line := stream.readline(MAX_BYTES + 1):
        number += 1
        if len(line) > MAX_BYTES and not line.endswith(b"\n"):
            yield number, line[:SHOWN_BYTES], _too_long(len(line) + _skip_line(stream))
            continue
        data = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
        if data:
            yield number, data, parse(data)


def _skip_line(stream: IO[bytes]) -> int:
    skipped = 0
    while more := stream.readline(MAX_BYTES):
        skipped += len(more)
        if more.endswith(b"\n"):
            break
    return skipped


def _too_long(size: int) -> Unusable:
    return Unusable("too long", f"{size:,} bytes; at most {MAX_BYTES:,}")


def _elements(stream: IO[bytes]) -> Iterator[Read]:
    """The elements of one JSON array, cut at its own commas; each is parsed by itself, so a bad one costs no other."""
    array = _Array()
    number = 0
    while chunk := stream.read(CHUNK_BYTES):
        for size, data in array.feed(chunk):
            number += 1
            yield number, data, _too_long(size) if size > MAX_BYTES else parse(data)
    for reason in array.complaints():
        number += 1
        yield number, bytes(array.held[:SHOWN_BYTES]).strip(), Unusable("not JSON", reason)


class _Array:
    """Where in a stream of bytes the elements of an array begin and end: brackets counted, strings passed over."""

    _OUTSIDE = re.compile(rb'["\[\]{},]')
    _INSIDE = re.compile(rb'["\\]')

    def __init__(self) -> None:
        self.held = bytearray()
        self._size = self._depth = self._elements = 0
        self._string = self._escaped = False
        self._closer = b""

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """(size, bytes) of each element that ends in the chunk; of one that is too long, its beginning."""
        start = 0
        for mark, position in self._marks(chunk):
            if mark in b"[{":
                self._depth += 1
                start = position if self._depth == 1 else start  # behind the array's own bracket
            elif mark in b"]}":
                self._depth -= 1
            self._closer = mark if self._depth == 0 else b""
            if self._closer or (self._depth == 1 and mark == b","):
                self._hold(chunk[start : position - 1])
                start = position
                yield from self._take()
        self._hold(chunk[start:])

    def complaints(self) -> Iterator[str]:
        """What is wrong at the end of the file."""
        if self._closer != b"]":
            yield f"the array ends in {self._closer.decode()}" if self._closer else "the array does not end"
        if self._closer and bytes(self.held).strip():
            yield "something follows the array"

    def _marks(self, chunk: bytes) -> Iterator[tuple[bytes, int]]:
        """(bracket or comma, position behind it) of those that stand in no string, up to the array's end."""
        position, self._escaped = int(self._escaped), False
        while not self._closer:
            found = (self._INSIDE if self._string else self._OUTSIDE).search(chunk, position)
            if found is None:
                break
            mark, position = found.group(), found.end()
            if mark == b'"':
                self._string = not self._string
            elif mark == b"\\":
                self._escaped = position == len(chunk)
                position += 1
            else:
                yield mark, position

    def _hold(self, data: bytes) -> None:
        self._size += len(data)
        if len(self.held) <= MAX_BYTES:
            self.held += data

    def _take(self) -> Iterator[tuple[int, bytes]]:
        size, data = self._size, bytes(self.held).strip()
        self._size = 0
        self.held.clear()
        self._elements += 1
        if data or not self._closer or self._elements > 1:  # nothing at all between the brackets is no element
            yield size, data[:SHOWN_BYTES] if size > MAX_BYTES else data


# ------------------------------------------------------------------------------------------------------------- parquet


def _rows(file: Path) -> Iterator[Read]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    # What a damaged file makes pyarrow raise on the way from pages to Python values.
    damage = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError)
    try:
        # What is read ahead stays in memory: a whole column chunk without a buffer, all of the file with a pre-buffer.
        with pq.ParquetFile(file, buffer_size=CHUNK_BYTES, pre_buffer=False) as table:
            for batch in table.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    size = sum(len(value) for value in row.values() if isinstance(value, str | bytes))
                    yield number, row, _too_long(size) if size > MAX_BYTES else row
    except damage as error:
        raise RolloutsInvalid(f"{file} is a damaged parquet file (after row {number}); write it again") from error
