"""Agreement of two networks against whole distributions, its sums against loops, and `sgsd diagnose`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sgsd.cli import main
from sgsd.diagnostics import COUNTED, NAMES, agreement_metrics, agreement_rows, agreement_sums
from sgsd.distributions import teacher_sides
from sgsd.layout import ScoreRow
from sgsd.objectives.topk import agreement
from skillbank.store import Bank

from .conftest import Tiny, save_tiny, tiny_model
from .training import Pairs, make_bank, make_trainer, method

ROWS = [ScoreRow((3, 4), (7, 8, 9, 2)), ScoreRow((3,), (6,)), ScoreRow((3, 5, 6), (9, 8))]
THEIRS = [ScoreRow((3, 10, 11), row.completion_ids) for row in ROWS]


def test_rows_are_those_of_whole_logits() -> None:
    student, teacher = tiny_model().double(), tiny_model(seed=3).double()
    values = agreement_rows(student, ROWS, teacher_sides(teacher, THEIRS), k=4)
    assert values.shape == (3, 4, len(NAMES))
    for r, (mine, theirs) in enumerate(zip(ROWS, THEIRS, strict=True)):
        whole = []
        for model, row in ((student, mine), (teacher, theirs)):
            ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
            whole.append(model(input_ids=ids, use_cache=False).logits[0, len(row.prompt_ids) - 1 : -1])
        seen = agreement(*whole, 4)
        expected = [seen.overlap_N, seen.student_mass_N, seen.teacher_mass_N, seen.advantage_N, seen.entropy_gap_N]
        length = len(mine.completion_ids)
        torch.testing.assert_close(values[r, :length], torch.stack(expected, dim=-1), rtol=1e-6, atol=1e-8)
        assert values[r, length:].abs().sum() == 0


def test_a_network_agrees_with_itself() -> None:
    model = tiny_model().double()
    sums = agreement_sums(agreement_rows(model, ROWS, teacher_sides(model, ROWS), k=4), [4, 1, 2], max_new_tokens=16)
    metrics = agreement_metrics(sums)
    assert metrics["agreement/overlap"] == 1
    assert metrics["agreement/entropy_gap"] == pytest.approx(0, abs=1e-9)
    assert metrics["agreement/overlap_advantage"] == pytest.approx(0, abs=1e-9)
    assert metrics["agreement/student_mass"] == pytest.approx(metrics["agreement/teacher_mass"])


def test_sums_by_position() -> None:
    """Eight parts of 16 tokens are two tokens each."""
    values = torch.zeros(2, 5, len(NAMES))
    values[0, :, 3] = torch.tensor([1.0, 2, 3, 4, 5])
    values[1, :3, 3] = torch.tensor([10.0, 20, 30])
    sums = agreement_sums(values, [5, 3], max_new_tokens=16)
    assert set(sums) == set(COUNTED)
    assert [sums[f"agreement/advantage_{part}"] for part in range(4)] == [33, 37, 5, 0]
    assert [sums[f"agreement/tokens_{part}"] for part in range(4)] == [4, 3, 1, 0]
    metrics = agreement_metrics(sums)
    assert metrics["agreement/overlap_advantage"] == 75 / 8
    assert metrics["agreement/advantage_0"] == 33 / 4
    assert "agreement/advantage_3" not in metrics
    assert agreement_metrics(dict.fromkeys(COUNTED, 0.0)) == {}


def test_diagnose_reports_numbers_and_what_they_are_worth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = save_tiny(tmp_path / "model"), tmp_path / "problems.jsonl"
    rows = [{"problem": f"What is {i} + 1 ?", "answer": str(i + 1)} for i in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = ["--data", str(data), "--max-new-tokens", "8", "--verifier", "exact", "--k", "4"]
    assert main(["diagnose", str(model), str(model), *common, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["agreement/overlap"]["value"] == 1
    assert report["agreement/entropy_gap"]["value"] == pytest.approx(0, abs=1e-5)
    assert report["accuracy"]["student"] == report["accuracy"]["teacher"]
    assert report["problems"] == 6
    assert main(["diagnose", str(model), str(model), *common]) == 0
    shown = capsys.readouterr().out
    assert "97" in shown
    assert "arXiv 2604.13016" in shown


@pytest.mark.parametrize("weights", ["live", "ema"])
def test_training_logs_agreement_at_its_cadence(tmp_path: Path, weights: str) -> None:
    with Bank.open(make_bank(tmp_path / "bank")) as bank:
        config = method(diagnostics={"every_steps": 2, "examples": 3, "k": 4}, teacher={"weights": weights})
        trainer, watch = make_trainer(Tiny, Pairs(bank), tmp_path / "run", config=config, max_steps=4)
        trainer.train()
        plain, watched = make_trainer(
            Tiny, Pairs(bank), tmp_path / "plain", config=method(teacher={"weights": weights}), max_steps=4
        )
        plain.train()
    told = ["agreement/overlap" in log for log in watch.logs]
    assert told == [False, True, False, True]
    assert 0 < watch.logs[1]["agreement/overlap"] <= 1
    assert watch.logs[1]["agreement/overlap_advantage"] < 0
    assert watch.losses == watched.losses  # measuring changes nothing
