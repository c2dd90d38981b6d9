"""Evaluation sets by name, on rows with the columns that the hub's data sets have; and by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main
from sgsd.data import load_problems
from sgsd.errors import DataInvalid
from sgsd.evalsets import SETS, named, nearest

ROWS: dict[str, dict[str, Any]] = {
    "AIME24": {"id": 60, "problem": "p", "solution": "s", "answer": "204", "url": "u", "year": "2024"},
    "AIME25": {"problem_idx": 1, "problem": "p", "answer": 70, "problem_type": ["Number Theory"]},
    "HMMT25": {"problem_idx": 1, "problem": "p", "answer": "103", "problem_type": ["Number Theory"]},
    "AMC23": {"id": 0, "question": "p", "answer": "27", "url": "u"},
    "MATH-500": {"problem": "p", "solution": "s", "answer": "12", "level": 2, "unique_id": "test/1.json"},
    "GSM8K": {"question": "p", "answer": "s\n#### 1,018"},
}
EXPECTED = {
    "AIME24": ("HuggingFaceH4/aime_2024", None, "train", "AIME24-60", "204"),
    "AIME25": ("MathArena/aime_2025", None, "train", "AIME25-1", "70"),
    "HMMT25": ("MathArena/hmmt_feb_2025", None, "train", "HMMT25-1", "103"),
    "AMC23": ("math-ai/amc23", None, "test", "AMC23-0", "27"),
    "MATH-500": ("HuggingFaceH4/MATH-500", None, "test", "test/1.json", "12"),
    "GSM8K": ("openai/gsm8k", "main", "test", "148de9c5a7a44d19", "1018"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_name_is_a_data_set_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load_dataset(hub: str, configuration: str | None, *, split: str) -> list[dict[str, Any]]:
        asked.append((hub, configuration, split))
        return [ROWS[name]]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub, configuration, split, problem_id, answer = EXPECTED[name]
    (problem,) = load_problems(name.lower(), split="test")
    assert asked == [(hub, configuration, split)]
    assert (problem.problem_id, problem.problem, problem.answer) == (problem_id, "p", answer)
    assert (problem.source, problem.split) == (name, "test")
    assert problem.solution == ("s" if "solution" in ROWS[name] or name == "GSM8K" else None)
    with pytest.raises(DataInvalid, match=r"no row of split 'train': it holds test \(1\)"):
        load_problems(name, split="train")  # what a configuration trains on by default


def test_a_mistyped_name_is_told_the_nearest() -> None:
    assert [nearest(name) for name in ("math500", "aime2024", "gsm-8k")] == ["MATH-500", "AIME24", "GSM8K"]
    assert nearest("my/problems") is None


def test_names_are_read_in_any_case() -> None:
    assert {one.name for one in SETS} == ROWS.keys()
    assert named("math-500") is named("MATH-500")
    assert named("MATH") is None


def test_sets_by_file_make_one_table(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [data_dir / "math_eval" / f"{name}.parquet" for name in ("AIME24", "AMC23", "HMMT25")]
    command = ["eval", "--max-new-tokens", "2", "--json", *(part for file in files for part in ("--data", str(file)))]
    assert main(command) == 0
    got = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["problems"]) for one in got["sets"]] == [("AIME24", 30), ("AMC23", 40), ("HMMT25", 30)]
    assert (got["problems"], got["accuracy"]) == (100, 0.0)
