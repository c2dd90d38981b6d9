r"""Data sets of problems, whatever their schema, as `Problem`s. The only room that knows the schemas.

    verl     prompt: [{role, content}], reward_model: {ground_truth}, extra_info: {index, split}   DAPO-Math-17k, AIME24
    plain    problem | question, answer, and perhaps solution, problem_id | id, source, split      HMMT25, your own
    gsm8k    question, answer = a solution that ends in `#### 18`

Files are JSONL or parquet; other names are the evaluation sets of `sgsd.evalsets` (`AIME24`), else data sets of the
Hugging Face hub (`name` or `name:configuration`).
Boilerplate that tells the model how to answer is stripped: it contradicts our own prompt and pollutes retrieval
(docs/method.md, pitfall 9). Everything left out is counted in the `ProblemSet`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from sgsd.errors import DataInvalid, DataNotFound
from sgsd.evalsets import EvaluationSet, named, nearest
from sgsd.records import Problem

DAPO_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem."
)
DAPO_SUFFIX = 'Remember to put your answer on its own line after "Answer:".'
DAPO_CHINESE_SUFFIX = (
    "让我们一步一步地思考。请以“Answer: \\boxed{<final_answer>}”的格式输出最终答案。"
    "如果是选择题，请按顺序输出正确的选项，不带任何标点或空格。对于其他类型的问题，请只输出最终答案的数值。"
)
"""Stands before DAPO_SUFFIX in some twenty rows."""

_PROBLEM_KEYS = ("problem", "question")
_ID_KEYS = ("problem_id", "id", "unique_id", "problem_idx")
_SCHEMAS = "`problem` (or `question`) and `answer`, or `prompt` and `reward_model`"
_HUB_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+(?::[\w.-]+)?")


@dataclass(frozen=True)
class Rejected:
    """A row that could not be used."""

    row: int
    """Line of a JSONL file or row of a table, from 1."""
    reason: str


@dataclass(frozen=True)
class ProblemSet(Sequence[Problem]):
    """The problems of one source, and what was left out of it."""

    problems: tuple[Problem, ...]
    source: str
    rows: int
    """Rows read, the unusable ones included."""
    duplicates: int = 0
    """Rows whose text an earlier row has, with the same answer."""
    contradictory: int = 0
    """Rows whose text another row has with a different answer. All of them go: no one knows which is right."""
    other_splits: int = 0
    """Rows that name another split."""
    rejected: tuple[Rejected, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        return self.problems[index]

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def left_out(self) -> int:
        """Rows that gave no problem, before any `limit`."""
        return self.duplicates + self.contradictory + self.other_splits + len(self.rejected)

    def describe(self) -> str:
        """One line: how many problems, and what was left out and why."""
        out = [f"{n:,} {what}" for n, what in self._reasons() if n]
        problems = "problem" if len(self) == 1 else "problems"
        return f"{len(self):,} {problems} from {self.source}" + (f"; left out: {', '.join(out)}" if out else "")

    def _reasons(self) -> Iterator[tuple[int, str]]:
        yield self.duplicates, "duplicates"
        yield self.contradictory, "with contradictory answers"
        yield self.other_splits, "of other splits"
        for reason, n in Counter(rejected.reason for rejected in self.rejected).most_common():
            first = next(rejected.row for rejected in self.rejected if rejected.reason == reason)
            yield n, f"unusable ({reason}; first in row {first})"


def problem_hash(text: str) -> str:
    """Id of a problem by its text, whitespace folded; the same as `skillbank.records.problem_hash`."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def load_problems(
    source: str | Path, *, split: str | None = None, limit: int | None = None, seed: int | None = None
) -> ProblemSet:
    """Read problems from a JSONL or parquet file or from the hub.

    `split` leaves out rows of a file that name another split, and picks the split of a hub data set (`train` by
    default; a named evaluation set has `test` alone). `limit` takes the first problems of what is left, or with a
    `seed` a random sample of them.

    Raises DataNotFound when there is no such file or data set, DataInvalid when nothing in it can be used.
    """
    name = str(source)
    if name.startswith("arena:"):
        raise DataInvalid(f"{name} is made, not read: use sgsd.cli.sources.load_source, or give a file or a hub name")
    is_file = Path(name).expanduser().exists()
    known = None if is_file else named(name)
    label = known.name if known else Path(name).stem if is_file else name
    collected = _Collector(label, split)
    for row, content in _named_rows(known) if known else _rows(name, split):
        collected.add(row, content)
    found = collected.result(name)
    if not found.problems:
        raise DataInvalid(_nothing_usable(found, collected.splits, split))
    problems = list(found.problems)
    if seed is not None:
        random.Random(seed).shuffle(problems)
    return replace(found, problems=tuple(problems[:limit]))


def _nothing_usable(found: ProblemSet, splits: Counter[str], split: str | None) -> str:
    if not found.rows:
        return f"{found.source} is empty: it needs rows with {_SCHEMAS}"
    if found.other_splits:
        held = ", ".join(f"{name} ({n})" for name, n in sorted(splits.items()))
        return f"{found.source} has no row of split {split!r}: it holds {held}; pass one of these as the split"
    return f"{found.source} holds no usable problem: {found.describe().partition('left out: ')[2]}"


class _Collector:
    """Turns rows into problems one by one, and knows what it left out."""

    def __init__(self, label: str, split: str | None) -> None:
        self.label, self.split = label, split
        self.splits: Counter[str] = Counter()
        self._rows = self._duplicates = self._other_splits = 0
        self._rejected: list[Rejected] = []
        self._by_text: dict[str, Problem] = {}
        self._contradictory: Counter[str] = Counter()
        self._text_of_id: dict[str, str] = {}

    def add(self, row: int, content: Mapping[str, Any] | str) -> None:
        """`content` is the row, or in words why it cannot be read."""
        self._rows += 1
        problem = content if isinstance(content, str) else _problem(content, self.label, self.split)
        if isinstance(problem, str):
            self._rejected.append(Rejected(row, problem))
            return
        self.splits[problem.split] += 1
        if self.split is not None and problem.split != self.split:
            self._other_splits += 1
            return
        text = problem_hash(problem.problem)
        if text in self._by_text:
            if self._by_text[text].answer == problem.answer:
                self._duplicates += 1
            else:
                self._contradictory[text] += 1
        elif self._text_of_id.setdefault(problem.problem_id, text) != text:
            self._rejected.append(Rejected(row, "the id of another problem"))
        else:
            self._by_text[text] = problem

    def result(self, source: str) -> ProblemSet:
        return ProblemSet(
            problems=tuple(problem for text, problem in self._by_text.items() if text not in self._contradictory),
            source=source,
            rows=self._rows,
            duplicates=self._duplicates,
            contradictory=self._contradictory.total() + len(self._contradictory),
            other_splits=self._other_splits,
            rejected=tuple(self._rejected),
        )


# Rows of files and hub data sets


def _rows(name: str, split: str | None) -> Iterable[tuple[int, Mapping[str, Any] | str]]:
    path = Path(name).expanduser()
    if path.is_file():
        return _parquet_rows(path) if _is_parquet(path) else _jsonl_rows(path)
    if path.is_dir():
        raise DataInvalid(f"{name} is a folder: give one JSONL or parquet file in it")
    if path.suffix in {".jsonl", ".json", ".parquet"} or not _HUB_NAME.fullmatch(name):
        raise DataNotFound(f"no file {name}: give a JSONL or parquet file, or the name of a data set on the hub")
    return _hub_rows(name, split or "train")


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read ({error.strerror}): check its permissions") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    if path.suffix == ".parquet":  # the first bytes said that it is none
        if path.stat().st_size:
            raise DataInvalid(f"{path} is not a parquet file, whatever its name says")
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError too
                yield number, "not a whole JSON object"
                continue
            yield number, content if isinstance(content, dict) else "not a whole JSON object"


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for content in batch.to_pylist():
                    number += 1
                    yield number, content
    except (pyarrow.ArrowException, OSError) as error:
        raise DataInvalid(f"{path} cannot be read as parquet: {' '.join(str(error).split())[:160]}") from error


def _hub_rows(name: str, split: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    import datasets

    hub_name, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(hub_name, configuration or None, split=split)
    except Exception as error:  # the hub, the network and the data set's layout each fail in ways of their own
        reason = " ".join(str(error).split())[:160]
        raise DataNotFound(
            f"no file {name}, and split {split!r} of {hub_name!r} cannot be had from the hub: {reason}"
            + (f"; did you mean {meant}?" if (meant := nearest(name)) else "")
        ) from error
    for number, content in enumerate(rows, start=1):
        # The split is the one asked for, whatever a column of that name says.
        yield number, {**content, "split": split}


def _named_rows(known: EvaluationSet) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    for number, content in _hub_rows(known.hub, known.split):
        yield number, content if isinstance(content, str) else {**content, "split": "test"}


def problem_from_row(row: Mapping[str, Any]) -> Problem:
    """A row of any schema above as a problem. Raises DataInvalid that says what is missing."""
    problem = _problem(row, "unknown", None)
    if isinstance(problem, str):
        raise DataInvalid(f"no usable problem in a row: {problem}")
    return problem


# Schemas


def _problem(row: Mapping[str, Any], label: str, split: str | None) -> Problem | str:
    """The problem in a row, or in words why there is none."""
    if "prompt" in row and "reward_model" in row:
        fields = _verl_fields(row)
    elif any(key in row for key in _PROBLEM_KEYS) and "answer" in row:
        fields = _plain_fields(row)
    else:
        return f"columns {', '.join(sorted(map(str, row)))[:120]}, not {_SCHEMAS}"
    if isinstance(fields, str):
        return fields
    text, answer, solution, given_id = fields
    answer = _unboxed(answer)
    if not text:
        return "no problem text"
    if not answer:
        return "no answer"
    source = _text(row.get("data_source")) or _text(row.get("source")) or label
    return Problem(
        problem_id=_problem_id(given_id, source) or problem_hash(text),
        problem=text,
        answer=answer,
        source=source,
        split=_split_of(row) or split or "train",
        solution=solution or None,
    )


_Fields = tuple[str, str, str, Any]
"""Text, answer, solution, given id."""


def _verl_fields(row: Mapping[str, Any]) -> _Fields | str:
    prompt, reward = row["prompt"], row["reward_model"]
    if not isinstance(prompt, list) or not isinstance(reward, Mapping):
        return "`prompt` is no list of messages or `reward_model` no mapping"
    asked = [m.get("content") for m in prompt if isinstance(m, Mapping) and m.get("role") == "user"]
    if not asked:
        return "no user message in `prompt`"
    extra = row.get("extra_info")
    given_id = extra.get("index") if isinstance(extra, Mapping) else None
    return strip_boilerplate(_text(asked[-1])), _text(reward.get("ground_truth")), "", given_id


def _plain_fields(row: Mapping[str, Any]) -> _Fields:
    text = next(_text(row[key]) for key in _PROBLEM_KEYS if key in row)
    answer, solution = _text(row["answer"]), _text(row.get("solution"))
    worked, mark, final = answer.rpartition("####")
    if mark:  # GSM8K
        answer, solution = final.strip().replace(",", ""), solution or worked.strip()
    return strip_boilerplate(text), answer, solution, next((row[key] for key in _ID_KEYS if _text(row.get(key))), None)


def strip_boilerplate(text: str) -> str:
    """The problem without DAPO's instructions around it; any other text as it is, stripped."""
    text = text.strip().removeprefix(DAPO_PREFIX)
    for suffix in (DAPO_SUFFIX, DAPO_CHINESE_SUFFIX):
        text = text.strip().removesuffix(suffix)
    return text.strip()


def _text(value: Any) -> str:
    """A string or a number as text; anything else is no text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).strip()


def _unboxed(answer: str) -> str:
    whole = re.fullmatch(r"\\boxed\s*\{(.*)\}", answer, flags=re.DOTALL)
    return whole[1].strip() if whole else answer


def _split_of(row: Mapping[str, Any]) -> str:
    extra = row.get("extra_info")
    return _text(row.get("split")) or (_text(extra.get("split")) if isinstance(extra, Mapping) else "")


def _problem_id(given: Any, source: str) -> str:
    """A running number is unique in its own file only, so the source is put before it."""
    text = _text(given)
    return f"{source}-{text}" if text.isdecimal() else text
