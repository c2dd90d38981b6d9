"""The recovery of a failing OPD as docs/systems.md chains it, command by command, on the arena with few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main


@pytest.mark.slow
def test_cold_start_then_aligned_opd(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arena = root / "configs" / "arena.yaml"

    def train(method: str, folder: str, steps: int, **settings: object) -> dict[str, Any]:
        given = {"method": method, "output_dir": tmp_path / folder, "train.max_steps": steps, "eval.every_steps": 0}
        pairs = [f"{key.replace('__', '.')}={value}" for key, value in (given | settings).items()]
        assert main(["train", str(arena), *(part for one in pairs for part in ("--set", one)), "--json"]) == 0
        printed = capsys.readouterr()
        said.append(printed.err)
        return dict(json.loads(printed.out))

    said: list[str] = []
    teacher = train("sft", "teacher", 12)["student"]  # on the reference solutions: it knows more than the base
    attempts = tmp_path / "teacher.jsonl"
    drawing = ["--data", "arena:easy", "--limit", "120", "--n", "2", "--max-new-tokens", "24", "--json"]
    assert main(["rollout", "--model", teacher, *drawing, "--out", str(attempts)]) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert drawn["correct"] > 0.35 * drawn["rollouts"]  # of the base's, a quarter is right
    cold = train("sft", "cold", 4, sft__rollouts=attempts, data__limit=120)
    assert 0 < cold["dropped_problems"] < 80  # those without a right attempt
    chosen = {"data__select": "teacher_aligned", "data__aligned_with": attempts, "data__keep_others": 0.01}
    opd = {"opd__teacher": teacher, "opd__dtype": "float32", "rollout__n": 2, "train__per_device_batch_size": 8}
    result = train("opd", "opd", 2, model__name_or_path=cold["student"], **opd, **chosen)
    assert result["steps"] == 2
    assert "teacher-aligned problems, and" in said[-1]
    rows = [json.loads(line) for line in (tmp_path / "opd/rollouts/step-000001.jsonl").read_text().splitlines()]
    assert (len(rows), len({row["problem_id"] for row in rows})) == (16, 8)
    own = {json.loads(line)["problem"] for line in attempts.read_text().splitlines()}
    assert any(row["problem"] in own for row in rows)
