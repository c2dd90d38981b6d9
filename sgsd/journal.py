"""Finished problems of an evaluation on disk, so that one that was ended goes on and repeats none of them.

A JSONL file: the first line says what the evaluation is of (sgsd.provenance), each further one holds a problem's record
and its completions. Lines are added batch by batch. A line that was cut short by a kill is dropped, and its batch is
drawn again, from the same seed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sgsd.errors import ConfigError, DataInvalid
from sgsd.evaluate import ProblemResult
from sgsd.records import Problem, Rollout


class Journal:
    """The file at `path`, of the evaluation that `of` describes; made with the first batch.

    Raises ConfigError when the file is of another evaluation, by the first thing that differs.
    """

    def __init__(self, path: Path, of: Mapping[str, Any]) -> None:
        self.path = path
        self.of = json.loads(json.dumps(of))  # as it is read back: tuples are lists
        self.records: dict[tuple[str, str], ProblemResult] = {}
        """By hash of the set and id of the problem."""
        if path.exists():
            self._read()

    def part(self, problems_hash: str) -> Part:
        """The part of one set of problems."""
        return Part(self, problems_hash)

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        first = [] if self.path.exists() else [{"evaluation": self.of}]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*first, *lines])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            self.path.unlink()  # killed within the first line
            return
        try:
            head, *lines = map(json.loads, whole.splitlines())
            self._check(head["evaluation"])
            names = [field.name for field in fields(ProblemResult)]
            for line in lines:
                values: dict[str, Any] = {name: line[name] for name in names}
                values = {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
                self.records[line["set"], line["problem_id"]] = ProblemResult(**values)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise DataInvalid(f"{self.path} is no record of an evaluation: remove it, or name another --out") from error
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))

    def _check(self, there: Mapping[str, Any]) -> None:
        for key, value in self.of.items():
            if there.get(key) != value:
                raise ConfigError(
                    f"{self.path} is of another evaluation: its {key} is {_short(there.get(key))}, now it is "
                    f"{_short(value)}; name another --out, or remove it"
                )


@dataclass(frozen=True)
class Part:
    """A journal as `evaluate` sees it: of one set."""

    journal: Journal
    problems_hash: str

    def of(self, problems: Sequence[Problem]) -> list[ProblemResult] | None:
        found = [self.journal.records.get((self.problems_hash, problem.problem_id)) for problem in problems]
        there = [record for record in found if record is not None]
        return there if len(there) == len(found) else None

    def add(self, records: Sequence[ProblemResult], rollouts: Sequence[Rollout]) -> None:
        k = len(rollouts) // len(records)
        texts = [[one.completion.text for one in rollouts[k * i : k * (i + 1)]] for i in range(len(records))]
        self.journal.append(
            [
                {"set": self.problems_hash, **asdict(record), "completions": said}
                for record, said in zip(records, texts, strict=True)
            ]
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."
