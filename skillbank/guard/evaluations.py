"""The registry of evaluation files in a bank: reading them, adding, listing and dropping them.

Only the problems and their answers are kept, with the SHA-256 of the file that they came from. Files are parquet, JSONL
or a JSON list; a record has its text under `problem`, `question`, `prompt` or `text`, or as a chat under `prompt` or
`messages`. What cannot be used is counted by reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.errors import InvalidOption, RolloutsInvalid, RolloutsNotFound
from skillbank.guard.contamination import EvaluationIndex, EvaluationProblem
from skillbank.records import Record, problem_hash

if TYPE_CHECKING:
    from skillbank.store import Bank

TEXT_FIELDS = ("problem", "question", "prompt", "messages", "text", "input")
ANSWER_FIELDS = ("answer", "final_answer", "ground_truth", "reference", "solution")
MAX_BYTES = 2 << 30
_WRAPPING = re.compile(
    r"^\s*Solve the following math problem[^\n]*\n+"
    r"|\n+\s*Remember to put your answer[^\n]*\s*$"
    r"|\n+\s*(?:Please reason step by step|Let's think step by step)[^\n]*\s*$",
    re.IGNORECASE,
)
"""What training sets put around a problem (DAPO's two sentences): shared by all, so it tells of none."""


class EvaluationFile(Record):
    """A registered file."""

    file: str
    sha256: str
    problems: int


class Registered(EvaluationFile):
    """A file that was just registered, or had been before."""

    new: bool
    rejected: dict[str, int]
    """Reason -> records that hold no problem."""


def register(bank: Bank, path: str | os.PathLike[str]) -> Registered:
    """Adds a file's problems to the bank's registry; the same content again changes nothing.

    Raises RolloutsNotFound, or RolloutsInvalid when the file cannot be read or holds no problem.
    """
    file = Path(path)
    sha256 = file_hash(file)
    rejected: Counter[str] = Counter()
    problems = list(read_problems(file, rejected))
    if not problems:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in rejected.items()) or "no record at all"
        raise RolloutsInvalid(
            f"{file} holds no evaluation problem ({reasons}); a record has its text under {', '.join(TEXT_FIELDS)}"
        )
    with bank.db.transaction():
        known = bank.db.value("SELECT EXISTS (SELECT 1 FROM evaluations WHERE sha256 = ?)", (sha256,))
        bank.db.run_many(
            "INSERT INTO evaluations (sha256, number, file, problem, problem_hash, answer) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            [(sha256, n, file.name, text, problem_hash(text), answer) for n, text, answer in problems],
        )
    return Registered(
        file=file.name, sha256=sha256, problems=len(problems), new=not known, rejected=dict(sorted(rejected.items()))
    )


def registered(bank: Bank) -> list[EvaluationFile]:
    """The files of the registry, by name."""
    rows = bank.db.rows(
        "SELECT min(file) AS file, sha256, count(*) AS problems FROM evaluations GROUP BY sha256 ORDER BY 1, 2"
    )
    return [EvaluationFile(**dict(row)) for row in rows]


def forget(bank: Bank, name: str) -> list[EvaluationFile]:
    """Takes files out of the registry, by name or by the beginning of their SHA-256. Raises InvalidOption for none."""
    gone = [file for file in registered(bank) if file.file == name or (len(name) >= 8 and file.sha256.startswith(name))]
    if not gone:
        have = ", ".join(file.file for file in registered(bank)) or "none"
        raise InvalidOption(f"no evaluation file {name!r} is registered: the bank has {have}")
    with bank.db.transaction():
        bank.db.run_many("DELETE FROM evaluations WHERE sha256 = ?", [(file.sha256,) for file in gone])
    return gone


def index_of(bank: Bank) -> EvaluationIndex | None:
    """The registry, ready for the rules; None when nothing is registered."""
    rows = bank.db.rows("SELECT file, number, problem, answer, sha256 FROM evaluations ORDER BY file, sha256, number")
    return EvaluationIndex(EvaluationProblem(*row) for row in rows) if rows else None


def file_hash(file: Path) -> str:
    """SHA-256 of a file. Raises RolloutsNotFound, RolloutsInvalid."""
    if not file.is_file():
        raise RolloutsNotFound(f"no evaluation file at {file}; name a parquet, JSONL or JSON file of problems")
    if file.stat().st_size > MAX_BYTES:
        raise RolloutsInvalid(f"{file} has {file.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read; split it")
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RolloutsInvalid(f"{file} cannot be read ({error.strerror}); check its permissions") from error


# -------------------------------------------------------------------------------------------------------------- reading


def read_problems(file: Path, rejected: Counter[str]) -> Iterator[tuple[int, str, str | None]]:
    """(number of the record from 1, problem, answer) of a file; what cannot be used is counted in `rejected`."""
    for number, record in enumerate(_records(file), start=1):
        if not isinstance(record, Mapping):
            rejected["not a record"] += 1
            continue
        text = next((text for name in TEXT_FIELDS if (text := _text(record.get(name)))), "")
        text = _WRAPPING.sub("", _WRAPPING.sub("", text)).strip()
        if not text:
            rejected["no problem text"] += 1
        elif not _is_unicode(text):
            rejected["not UTF-8"] += 1
        else:
            yield number, text, _answer(record)


def _text(value: Any) -> str:
    """A text, or the last thing that the user says in a chat."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        said = [turn for turn in value if isinstance(turn, Mapping) and isinstance(turn.get("content"), str)]
        asked = [turn for turn in said if turn.get("role") == "user"] or said
        return str(asked[-1]["content"]).strip() if asked else ""
    return ""


def _answer(record: Mapping[str, Any]) -> str | None:
    model = record.get("reward_model")
    values = [record.get(name) for name in ANSWER_FIELDS]
    values += [model.get("ground_truth")] if isinstance(model, Mapping) else []
    found = next((value for value in values if isinstance(value, str | int | float) and str(value).strip()), None)
    answer = None if found is None else str(found).strip()
    return answer if answer is None or _is_unicode(answer) else None


def _is_unicode(text: str) -> bool:
    """Half a surrogate pair is legal in JSON's escapes, but cannot be stored."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _records(file: Path) -> Iterator[Any]:
    with file.open("rb") as stream:
        head = stream.read(4)
    if head == b"PAR1":
        yield from _parquet(file)
        return
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RolloutsInvalid(
            f"{file} is neither parquet nor UTF-8 text (byte {error.start}); name a parquet or JSONL file"
        ) from error
    if text.lstrip().startswith("["):
        whole = _json(text)
        if isinstance(whole, list):
            yield from whole
            return
    for line in text.splitlines():
        if line.strip():
            yield _json(line)


def _json(text: str) -> Any:
    """The value, or None for what is no JSON: counted as no record."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parquet(file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise RolloutsInvalid(f"{file} is a damaged parquet file ({first[0]}); fetch it again") from error
