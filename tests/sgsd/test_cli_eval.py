"""`sgsd rollout` and `sgsd eval` as a user runs them, on a tiny model with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgsd.cli import main
from skillbank.records import problem_hash
from skillbank.rollouts import read_rollouts


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "problems.jsonl"
    rows = [{"problem": f"What is {i} + {i} ?", "answer": str(2 * i)} for i in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"problem": "cut o')
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_rollout_writes_what_bank_build_reads(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "rollouts.jsonl"
    command = ("rollout", "--model", tiny_folder, "--data", data, "--n", 2, "--max-new-tokens", 8, "--json", "--out")
    code, printed, notes = run(capsys, *command, out)
    assert code == 0
    report = json.loads(printed)
    assert (report["rollouts"], report["problems"], report["too_long"]) == (12, 6, 0)
    assert report["correct"] + report["wrong"] + report["unverifiable"] == 12
    assert "1 unusable (not a whole JSON object; first in row 7)" in notes
    rollouts = list(read_rollouts(out))
    assert len({rollout.rollout_id for rollout in rollouts}) == 12
    assert rollouts[0].problem_id == problem_hash("What is 0 + 0 ?")
    assert rollouts[0].reference == "0"
    assert rollouts[0].sampling is not None
    assert rollouts[0].sampling["max_new_tokens"] == 8
    assert [p.name for p in out.parent.iterdir()] == ["rollouts.jsonl"]
    run(capsys, *command, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()


def test_eval_prints_its_numbers(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("eval", "--model", tiny_folder, "--data", data, "--max-new-tokens", 8, "--limit", 5)
    out = tmp_path / "numbers.json"
    code, printed, _ = run(capsys, *command, "--k", 3, "--json", "--out", out)
    assert code == 0
    got = json.loads(printed)
    assert (got["accuracy"], got["k"], got["problems"]) == (0.0, 3, 5)
    assert got["ci"] == [0.0, 0.0]
    assert list(got["pass_at_k"]) == ["1", "2", "3"]
    written = json.loads(out.read_text())
    assert len(written["records"]) == 5
    assert {key: value for key, value in written.items() if key != "records"} == got
    code, printed, _ = run(capsys, *command)
    assert code == 0
    assert printed.startswith("accuracy 0.000 [0.000, 0.000]  avg@1 over 5 problems\n")


def test_length_comes_from_the_model_when_it_is_not_given(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    own = tmp_path / "own"
    shutil.copytree(tiny_folder, own)
    settings = json.loads((own / "generation_config.json").read_text())
    (own / "generation_config.json").write_text(json.dumps({**settings, "max_new_tokens": 5}))
    out = tmp_path / "rollouts.jsonl"
    run(capsys, "rollout", "--model", own, "--data", data, "--n", 1, "--out", out)
    assert {rollout.sampling["max_new_tokens"] for rollout in read_rollouts(out) if rollout.sampling} == {5}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "missing.jsonl"], 1, "no file missing.jsonl"),
        (["--data", "arena:nowhere"], 1, "arena:nowhere"),
        (["--model", "./missing"], 1, "no model folder at ./missing"),
        (["--verifier", "mathematics"], 2, "take math, exact, choice"),
        (["--temperature", "0", "--k", "4"], 2, "4 greedy completions would all be equal"),
        (["--truncated", "maybe"], 2, "maybe"),
        (["--max-prompt-tokens", "3"], 1, "exceed max_prompt_tokens = 3"),
        (["--bank", "no-bank"], 1, "no-bank"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], code: int, message: str, tiny_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["eval", "--model", str(tiny_folder), "--data", str(data), "--max-new-tokens", "4"]
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        if option in given:
            given[given.index(option) + 1] = value
        else:
            given += [option, value]
    got, printed, errors = run(capsys, *given)
    assert got == code
    assert printed == ""
    assert message in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors


def test_rollout_leaves_nothing_behind_when_it_fails(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    code, _, errors = run(capsys, "rollout", "--model", "./missing", "--data", data, "--out", tmp_path / "r.jsonl")
    assert code == 1
    assert "no model folder" in errors
    code, _, errors = run(capsys, "rollout", "--data", data, "--out", tmp_path)
    assert code == 2
    assert "is a folder" in errors
    assert sorted(tmp_path.iterdir()) == before
