"""Teacher-aligned problems: by the teacher's training problems, and by its attempts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgsd.arena.sources import load_source
from sgsd.config import DataConfig, parse_config
from sgsd.errors import ConfigError, DataInvalid


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def source(tmp_path: Path, count: int = 400) -> Path:
    return written(tmp_path / "all.jsonl", [{"problem": f"What is {i} ?", "answer": str(i)} for i in range(count)])


def selected(tmp_path: Path, aligned: Path, keep: float, limit: int | None = None) -> tuple[list[int], list[str]]:
    """Numbers of the problems that are kept, and what is said of it."""
    said: list[str] = []
    config = DataConfig(
        source=str(source(tmp_path)),
        select="teacher_aligned",
        aligned_with=str(aligned),
        keep_others=keep,
        limit=limit,
    )
    return [int(problem.answer) for problem in load_source(config, said.append)], said


def test_the_teachers_training_problems_and_a_share_of_the_others(tmp_path: Path) -> None:
    own = written(
        tmp_path / "own.jsonl",
        [{"question": f"What  is {i} ?", "answer": "?"} for i in (*range(0, 400, 4), 7000)],  # spaces do not matter
    )
    assert selected(tmp_path, own, 0.0) == (
        list(range(0, 400, 4)),
        ["100 teacher-aligned problems, and 0 of the 300 others (data.keep_others)"],
    )
    assert selected(tmp_path, own, 1.0)[0] == list(range(400))
    kept, said = selected(tmp_path, own, 0.25)
    others = [number for number in kept if number % 4]
    assert kept == sorted(kept)
    assert set(range(0, 400, 4)) <= set(kept)
    assert 50 <= len(others) <= 100  # 75 expected, with a deviation of 7.5
    assert said == [f"100 teacher-aligned problems, and {len(others)} of the 300 others (data.keep_others)"]
    assert selected(tmp_path, own, 0.25)[0] == kept
    more = selected(tmp_path, own, 0.5)[0]
    assert set(kept) < set(more)  # a problem that a small share keeps, a larger one keeps too
    assert selected(tmp_path, own, 0.25, limit=3)[0] == kept[:3]


def test_the_teachers_attempts_stand_in(tmp_path: Path) -> None:
    """A problem is its own when at least half of the attempts that could be verified are right."""
    outcomes = {
        0: ["correct", "wrong"],
        1: ["correct", "wrong", "wrong"],
        2: ["correct", "unverifiable", "unverifiable"],
        3: ["unverifiable"],
        4: ["wrong"],
        5: ["correct", "correct", "wrong"],
    }
    attempts = written(
        tmp_path / "attempts.jsonl",
        [
            {"rollout_id": f"{i}-{n}", "problem_id": f"p{i}", "problem": f"What is {i} ?", "completion": "so"}
            | {"outcome": outcome}
            for i, told in outcomes.items()
            for n, outcome in enumerate(told)
        ],
    )
    kept, said = selected(tmp_path, attempts, 0.0)
    assert kept == [0, 2, 5]
    assert said == ["3 teacher-aligned problems, and 0 of the 397 others (data.keep_others)"]


def test_what_selects_nothing_is_refused(tmp_path: Path) -> None:
    foreign = written(tmp_path / "foreign.jsonl", [{"problem": "Who ?", "answer": "1"}])
    with pytest.raises(DataInvalid, match=r"foreign\.jsonl holds none of the 400 problems of .*all\.jsonl"):
        selected(tmp_path, foreign, 1.0)
    with pytest.raises(ConfigError, match="aligned_with names neither the teacher's training problems nor"):
        parse_config({"data": {"select": "teacher_aligned"}})
    with pytest.raises(ConfigError, match=r"aligned_with x\.jsonl selects nothing: set select to teacher_aligned"):
        parse_config({"data": {"aligned_with": "x.jsonl"}})
    with pytest.raises(ConfigError, match=r"data\.keep_others must be at most 1 \(got 2"):
        parse_config({"data": {"keep_others": 2}})
