"""`sgsd rollout` and `sgsd eval` as a user runs them, on a tiny model with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main
from sgsd.provenance import folder_hash
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
    assert len(written["sets"][0].pop("records")) == 5
    assert written == got
    code, printed, _ = run(capsys, *command)
    assert code == 0
    assert printed.startswith("accuracy 0.000 [0.000, 0.000]  avg@1 over 5 problems\n")


def test_eval_says_of_what_it_is(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "What is 7 ?", "answer": "7"}\n')
    out = tmp_path / "numbers.json"
    command = ("eval", "--model", tiny_folder, "--data", data, "--data", other, "--paper", "--k", 2, "--json")
    code, printed, _ = run(capsys, *command, "--max-new-tokens", 4, "--out", out)
    assert code == 0
    got = json.loads(printed)
    assert [(one["name"], one["problems"]) for one in got["sets"]] == [("problems", 6), ("other", 1)]
    assert (got["accuracy"], got["ci"], got["k"], got["problems"]) == (0.0, [0.0, 0.0], 2, 7)
    of = got["evaluation"]
    assert (of["model"]["name"], of["model"]["sha256"]) == (str(tiny_folder), folder_hash(tiny_folder))
    assert of["bank"] is None
    asked = {key: of["sampling"][key] for key in ("n", "temperature", "top_p", "max_new_tokens", "thinking")}
    assert asked == {"n": 2, "temperature": 1.0, "top_p": 0.95, "max_new_tokens": 4, "thinking": True}
    assert of["verifier"]["version"] == f"math-verify {version('math-verify')}"
    assert of["sgsd"] == version("sgsd")
    code, printed, _ = run(capsys, *command[:-1], "--max-new-tokens", 4, "--out", out)
    assert printed.splitlines()[-1].startswith("mean      0.000 [0.000, 0.000]  of 2 sets")
    code, _, errors = run(capsys, *command, "--max-new-tokens", 5, "--out", out)
    assert code == 2
    assert "numbers.records.jsonl is of another evaluation: its sampling is" in errors


def test_an_evaluation_that_was_killed_goes_on(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was finished is drawn again, and the numbers are those of an evaluation without a break."""
    from sgsd.generate.transformers import TransformersGenerator

    draw, drawn = TransformersGenerator.generate, []

    def counting(self: TransformersGenerator, prompts: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        if len(drawn) == kill_at:
            raise KeyboardInterrupt
        drawn.append([tuple(prompt) for prompt in prompts])
        return draw(self, prompts, *args, **kwargs)

    monkeypatch.setattr(TransformersGenerator, "generate", counting)
    command = ("eval", "--model", tiny_folder, "--data", data, "--k", 2, "--batch-size", 4, "--max-new-tokens", 6)
    kill_at = 9
    assert run(capsys, *command, "--out", tmp_path / "whole.json")[0] == 0
    whole = list(drawn)
    assert list(map(len, whole)) == [2, 2, 2]
    drawn.clear()
    kill_at = 2
    assert run(capsys, *command, "--out", tmp_path / "killed.json")[0] == 130
    assert not (tmp_path / "killed.json").exists()
    journal = tmp_path / "killed.records.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])  # as if killed while the second batch was written
    drawn.clear()
    kill_at = 9
    assert run(capsys, *command, "--out", tmp_path / "killed.json")[0] == 0
    assert drawn == whole[1:]
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    lines = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert len({line["problem_id"] for line in lines}) == 6
    assert all(len(line["completions"]) == len(line["outcomes"]) == 2 for line in lines)
    drawn.clear()
    assert run(capsys, *command, "--out", tmp_path / "killed.json")[0] == 0
    assert drawn == []


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
