"""Readers and the writer of past rollouts: one reader a format, a stream of `Rollout` out.

A line (or parquet row) that cannot be used is handed to `on_reject` with its number, a reason and its raw text, and the
rest goes on. Formats:

    native                  JSONL or parquet with the fields of `skillbank.records.Rollout`
    gsm8k_model_solutions   JSONL: question, ground_truth, and for each model a key with {is_correct, solution}
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NoReturn

from pydantic import ValidationError

from skillbank.errors import RolloutsInvalid, RolloutsNotFound
from skillbank.records import Record, Rollout, problem_hash

Format = Literal["auto", "native", "gsm8k_model_solutions"]

NATIVE_FIELDS = "rollout_id, problem_id, problem, completion, outcome"


class Rejected(Record):
    """One line or row that could not be used."""

    path: str
    line: int
    """Number of the line (JSONL) or row (parquet), from 1."""
    reason: str
    """One of few: what the counters are keyed by."""
    detail: str = ""
    raw: str
    """The line itself; bytes that are not UTF-8 are shown as \\xNN."""


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


OnReject = Callable[[Rejected], None]


class _Unusable(Exception):
    """Why one line cannot be used: a reason of the few, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def read_rollouts(
    path: str | os.PathLike[str], *, format: Format = "auto", on_reject: OnReject | None = None
) -> Iterator[Rollout]:
    """Stream the rollouts of a file; `auto` takes the format of the first record that fits one.

    Raises `RolloutsNotFound` at once when there is no file, `RolloutsInvalid` at once when it is empty or unreadable,
    and `RolloutsInvalid` at its end when not one record was usable.
    """
    file = Path(path)
    if not file.exists():
        raise RolloutsNotFound(f"no rollout file at {file}; name a JSONL or parquet file of past rollouts")
    if not file.is_file():
        raise RolloutsInvalid(f"{file} is a folder, not a rollout file; name the JSONL or parquet file in it")
    try:
        if file.stat().st_size == 0:
            raise RolloutsInvalid(f"{file} is empty; a rollout file has one JSON record a line ({NATIVE_FIELDS})")
        parquet = _is_parquet(file)
    except OSError as error:
        raise RolloutsInvalid(f"{file} cannot be read ({error.strerror}); check its permissions") from error
    records = _parquet_records(file) if parquet else _jsonl_records(file)
    return _stream(file, records, format, on_reject or _ignore)


def _ignore(_: Rejected) -> None:
    """For callers who want the usable lines alone."""


_Read = Mapping[str, Any] | _Unusable


def _stream(
    file: Path, records: Iterator[tuple[int, str, _Read]], format: Format, reject: OnReject
) -> Iterator[Rollout]:
    parse = None if format == "auto" else _PARSERS[format]
    usable = rejected = 0
    first = "none, all are blank"
    for line, raw, record in records:
        try:
            if isinstance(record, _Unusable):
                raise record
            parser = parse or _detect(record)
            rollouts = parser(record)
        except _Unusable as problem:
            rejected += 1
            first = f"line {line} is {problem.reason}" if rejected == 1 else first
            reject(Rejected(path=str(file), line=line, reason=problem.reason, detail=problem.detail, raw=raw))
            continue
        parse = parser
        usable += 1
        yield from rollouts
    if not usable:
        raise RolloutsInvalid(
            f"{file} holds no usable rollout ({rejected} lines rejected, the first: {first}); "
            f"a line is a JSON record with {NATIVE_FIELDS}, or GSM8K model solutions"
        )


def _is_parquet(file: Path) -> bool:
    """The mark at both ends, with room for the footer's length between them."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(4)
        stream.seek(max(0, size - 4))
        return size >= 12 and head == b"PAR1" == stream.read(4)


def _jsonl_records(file: Path) -> Iterator[tuple[int, str, _Read]]:
    """(line number, raw text, the record or why there is none) of every line that is not blank."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            data = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
            if data:
                yield number, data.decode("utf-8", errors="backslashreplace"), _parse_line(data)


def _parse_line(data: bytes) -> _Read:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _Unusable("not UTF-8", f"byte {error.start}")
    try:
        record = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        return _Unusable("not JSON", f"{error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # NaN, numbers of thousands of digits, nesting without end
        return _Unusable("not JSON", str(error))
    return record if isinstance(record, dict) else _Unusable("not a record", f"a JSON {type(record).__name__}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parquet_records(file: Path) -> Iterator[tuple[int, str, _Read]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, json.dumps(row, default=str), _parquet_row(row)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RolloutsInvalid(f"{file} is a damaged parquet file (after row {number}); write it again") from error


def _parquet_row(row: dict[str, Any]) -> _Read:
    # A column that is null says nothing, so the field's default holds; `sampling` may be a struct or JSON text.
    record = {key: value for key, value in row.items() if value is not None}
    if isinstance(record.get("sampling"), str):
        try:
            record["sampling"] = json.loads(record["sampling"])
        except (ValueError, RecursionError) as error:
            return _Unusable("not a rollout", f"sampling: {error}")
    return record


# ------------------------------------------------------------------------------------------------------------- formats


def _detect(record: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], list[Rollout]]:
    if "completion" in record and "outcome" in record:
        return _native
    if "question" in record and "ground_truth" in record:
        return _gsm8k_model_solutions
    raise _Unusable("unknown format", f"fields {', '.join(sorted(map(str, record))[:8])}")


def _native(record: Mapping[str, Any]) -> list[Rollout]:
    return [_rollout(record)]


_GSM8K_ANSWER = re.compile(r"^\s*(?:A:|####)\s*(.+?)\s*$", re.MULTILINE)


def _gsm8k_model_solutions(record: Mapping[str, Any]) -> list[Rollout]:
    question, truth = record.get("question"), record.get("ground_truth")
    if not isinstance(question, str) or not question.strip() or not isinstance(truth, str):
        raise _Unusable("not GSM8K model solutions", "question and ground_truth must be texts")
    _check_unicode(question)
    reference = _last_answer(truth)
    problem_id = problem_hash(question)
    rollouts = []
    for model, attempt in record.items():
        if not isinstance(attempt, dict):
            continue  # a field of the problem, not an attempt at it
        correct, solution = attempt.get("is_correct"), attempt.get("solution")
        if not isinstance(correct, bool) or not isinstance(solution, str):
            raise _Unusable("not GSM8K model solutions", f"{model}: needs is_correct (bool) and solution (text)")
        rollouts.append(
            _rollout(
                {
                    "rollout_id": f"gsm8k-{problem_id}-{model}",
                    "problem_id": problem_id,
                    "problem": question,
                    "completion": solution,
                    "outcome": "correct" if correct else "wrong",
                    "answer": _last_answer(solution),
                    "reference": reference,
                    "model": model,
                    "source": "gsm8k_model_solutions",
                }
            )
        )
    if not rollouts:
        raise _Unusable("not GSM8K model solutions", "no key holds {is_correct, solution}")
    return rollouts


def _last_answer(text: str) -> str | None:
    answers = _GSM8K_ANSWER.findall(text)
    return answers[-1] if answers else None


def _rollout(record: Mapping[str, Any]) -> Rollout:
    try:
        rollout = Rollout.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise _Unusable("not a rollout", f"{where}: {first['msg']}") from error
    except RecursionError as error:
        raise _Unusable("not a rollout", "nested too deep") from error
    _check_unicode(json.dumps(rollout.model_dump(), ensure_ascii=False))
    return rollout


def _check_unicode(text: str) -> None:
    """Half a surrogate pair is legal in JSON's escapes, but can neither be stored nor hashed."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Unusable("not UTF-8", f"half a surrogate pair at character {error.start}") from error


_PARSERS: dict[str, Callable[[Mapping[str, Any]], list[Rollout]]] = {
    "native": _native,
    "gsm8k_model_solutions": _gsm8k_model_solutions,
}


# --------------------------------------------------------------------------------------------------------------- write


def write_rollouts(path: str | os.PathLike[str], rollouts: Iterable[Rollout]) -> int:
    """Write rollouts as JSONL, or as parquet when the name ends in `.parquet`; returns their number.

    Atomic: the file appears whole under its name, or not at all.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    try:
        count = (_write_parquet if file.suffix == ".parquet" else _write_jsonl)(part, rollouts)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write_jsonl(part: Path, rollouts: Iterable[Rollout]) -> int:
    count = 0
    with part.open("w", encoding="utf-8") as stream:
        for rollout in rollouts:
            stream.write(rollout.model_dump_json() + "\n")
            count += 1
    return count


def _write_parquet(part: Path, rollouts: Iterable[Rollout]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # One text column a field: `sampling` differs from row to row, so it travels as JSON.
    schema = pa.schema([(name, pa.string()) for name in Rollout.model_fields])
    rows = []
    for rollout in rollouts:
        row = rollout.model_dump()
        rows.append({**row, "sampling": None if row["sampling"] is None else json.dumps(row["sampling"])})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)
    return len(rows)
