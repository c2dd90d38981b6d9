"""A comparison: what runs, what is not repeated, how the table is made of it, and one true contest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main
from sgsd.compare import contest
from sgsd.compare.entrants import ARENA_METHODS, Entrant, of_arena, of_configs
from sgsd.compare.table import interval_over_seeds, markdown, page, summary, tokens_to
from sgsd.curve import collapsed
from sgsd.errors import ConfigError


def arena(out: Path, **changes: Any) -> list[Entrant]:
    options: dict[str, Any] = {"seeds": 2, "out": out, "tokens": 5000, "quick": False}
    return of_arena(["easy", "hard"], ARENA_METHODS, **options | changes)


def test_every_method_runs_on_equal_terms(tmp_path: Path) -> None:
    entrants = arena(tmp_path)
    assert len(entrants) == 2 * 2 * len(ARENA_METHODS)
    assert len({entrant.folder for entrant in entrants}) == len(entrants)
    for entrant in entrants:
        config = entrant.config
        assert config.train.max_generated_tokens == 5000
        assert config.train.per_device_batch_size * config.train.gradient_accumulation_steps == 32
        assert config.eval.data is not None
        assert (config.eval.data.split, entrant.test.split) == ("validation", "test")
        assert config.skills_in_prompt == (entrant.method in ("grpo + skill", "opsd + skill"))
        assert config.train.save_every == config.eval.every_steps  # each point of the curve can be chosen
    methods = {entrant.method: entrant.config.method for entrant in entrants}
    assert [methods[name] for name in ("sft", "grpo + skill", "opsd", "opd", "sgsd")] == [
        *("sft", "grpo", "opsd", "opd", "sgsd")
    ]
    hashes = {(e.level, e.method): e.config_hash for e in entrants}
    assert all(hashes[e.level, e.method] == e.config_hash for e in entrants)  # whatever the seed
    assert len(set(hashes.values())) == 2 * (len(ARENA_METHODS) - 2)  # what is only evaluated has sgsd's settings


def test_configurations_must_not_choose_on_the_test_split(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = "data: {source: 'arena:easy'}\neval: {data: {source: 'arena:easy', split: SPLIT}, every_steps: 5}\n"
    file.write_text(text.replace("SPLIT", "test"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml: eval\.data is the test split"):
        of_configs([file], seeds=1, out=tmp_path, tokens=None)
    file.write_text(text.replace("SPLIT", "validation"), encoding="utf-8")
    first, second = of_configs([file], seeds=2, out=tmp_path, tokens=77, overrides=["train.max_steps=9"])
    assert (first.seed, second.seed) == (0, 1) == (first.config.seed, second.config.seed)
    assert first.config.train.max_generated_tokens == 77
    assert first.config.train.max_steps == 9
    assert (first.method, first.test.split) == ("mine", "test")
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="no curve"):
        of_configs([file], seeds=1, out=tmp_path, tokens=None)


def test_a_result_is_not_made_twice_but_under_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entrant = arena(tmp_path)[0]
    calls: list[list[str]] = []

    class Done:
        returncode = 0

    def run(command: list[str], **kwargs: Any) -> Done:
        calls.append(command)
        given = Entrant.model_validate_json(Path(command[-1]).read_text(encoding="utf-8"))
        (given.folder / contest.RESULT).write_text(json.dumps({"config": given.config_hash}), encoding="utf-8")
        return Done()

    monkeypatch.setattr(contest.subprocess, "run", run)
    assert contest.run_all([entrant], workers=1)[0].row == {"config": entrant.config_hash}
    assert contest.run_all([entrant], workers=1)[0].row == {"config": entrant.config_hash}
    assert len(calls) == 1
    changed = entrant.model_copy(update={"config": entrant.config.model_copy(update={"threads": 2})})
    contest.run_all([changed], workers=1)
    assert len(calls) == 2


def test_a_failure_ends_no_other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], stdout: Any, **kwargs: Any) -> Any:
        given = Entrant.model_validate_json(Path(command[-1]).read_text(encoding="utf-8"))
        failed = given.seed == 0
        if failed:
            stdout.write("first\nout of memory\n\n")
        else:
            (given.folder / contest.RESULT).write_text(json.dumps({"config": given.config_hash}), encoding="utf-8")
        return type("Done", (), {"returncode": int(failed)})

    monkeypatch.setattr(contest.subprocess, "run", run)
    bad, good = contest.run_all([e for e in arena(tmp_path) if e.method == "sgsd" and e.level == "easy"], workers=2)
    assert bad.row is None
    assert bad.error.startswith("exit 1: out of memory; see ")
    assert good.row is not None


def row(method: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    curve = [{"step": i, "tokens": 100 * i, "accuracy": a, "ci": [0, 1]} for i, a in enumerate((0.2, 0.4, accuracy))]
    common = {"level": "easy", "ci": [0, 1], "collapsed": False, "flops": 2e15, "seconds": 10.0, "config": "c"}
    return (
        common
        | {"method": method, "seed": seed, "accuracy": accuracy, "tokens": 200 + seed, "curve": curve}
        | {"peak_mb": 50 + seed}
        | more
    )


def test_lines_are_means_over_seeds() -> None:
    rows = [row("sgsd", 0, 0.6), row("sgsd", 1, 0.8), row("grpo", 0, 0.3, flops=None, collapsed=True)]
    sgsd, grpo = summary(rows)
    assert (sgsd["accuracy"], sgsd["tokens"], sgsd["peak_mb"], sgsd["flops"]) == (0.7, 200.5, 51, 2e15)
    half = 12.706 * math.sqrt(0.02) / math.sqrt(2)
    assert sgsd["ci"] == [max(0.0, 0.7 - half), 1.0]
    assert sgsd["tokens_to"]["0.5"] == pytest.approx((150 + 125) / 2)
    assert sgsd["tokens_to"]["0.8"] is None  # one seed never got there
    assert (grpo["ci"], grpo["flops"], grpo["collapsed"]) == (None, None, 1)
    table = markdown([sgsd, grpo])
    assert "| easy | sgsd | 2 | 70.0% | 0.0% - 100.0% | 200 | 138 | - |" in table.replace("201", "200")
    assert "1 of 1 collapsed" in table
    shown = page([sgsd | {"method": "<b>"}], command="sgsd compare --out <x>")
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert "&lt;x&gt;" in shown


def test_tokens_to_an_accuracy() -> None:
    curve = [{"tokens": 0, "accuracy": 0.2}, {"tokens": 100, "accuracy": 0.6}, {"tokens": 200, "accuracy": 0.5}]
    assert tokens_to(0.4, curve) == pytest.approx(50)
    assert tokens_to(0.1, curve) == 0
    assert tokens_to(0.9, curve) is None
    assert interval_over_seeds([0.5]) is None


def test_collapse_is_two_points_below_half_of_the_best() -> None:
    assert collapsed([0.3, 0.8, 0.3, 0.39])
    assert not collapsed([0.3, 0.8, 0.3, 0.41])
    assert not collapsed([0.0, 0.0, 0.0])
    assert not collapsed([0.8, 0.1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--level", "harder"], "--level harder is none: choose of easy, medium, hard"),
        (["--method", "ppo"], "--method ppo is none"),
        (["--budget", "5000"], "--budget 5000 is not of the form tokens=N"),
        (["some.yaml", "--quick"], "leave them out beside a CONFIG"),
    ],
)
def test_wrong_input(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_true_contest_and_its_resumption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["compare", "--quick", "--level", "easy", "--method", "opd", "--method", "sgsd", "--seeds", "1"]
    assert main([*command, "--budget", "tokens=600", "--out", str(out), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in first["rows"]] == ["opd", "sgsd"]
    for found in first["rows"]:
        assert 600 <= found["tokens"] < 2 * 600 + 32 * 24  # ends with the step that reaches the budget
        assert found["tokens"] == found["curve"][-1]["tokens"]
        assert found["problems"] == 100
        assert found["step"] in {point["step"] for point in found["curve"][1:]}
        assert found["peak_mb"] > 0
    assert "| easy | sgsd | 1 |" in (out / "compare.md").read_text(encoding="utf-8")
    times = {file: file.stat().st_mtime_ns for file in out.rglob("result.json")}
    assert main([*command, "--budget", "tokens=600", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == first["rows"]
    assert {file: file.stat().st_mtime_ns for file in out.rglob("result.json")} == times
