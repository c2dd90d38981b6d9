"""What a newcomer gets wrong, end to end: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sgsd.cli import common, main
from skillbank.building import build_bank
from skillbank.index.embed import build_lexical_embedder
from skillbank.records import Rollout
from skillbank.rollouts import write_rollouts
from skillbank.store import Bank

Tree = dict[str, int]
Run = Callable[..., tuple[int, str, str]]
PROBLEMS = [("What is 1 + 2 ?", "3"), ("What is 4 + 5 ?", "9")]


def rollouts() -> list[Rollout]:
    """Two problems, each with a right and a wrong attempt."""
    said = {"correct": "One adds the two numbers first\nA: {0}", "wrong": "One multiplies the two numbers first\nA: 0"}
    return [
        Rollout(
            rollout_id=f"{number}-{outcome}",
            problem_id=f"p{number}",
            problem=problem,
            completion=said[outcome].format(answer),
            outcome=outcome,
            reference=answer,
        )
        for number, (problem, answer) in enumerate(PROBLEMS)
        for outcome in ("correct", "wrong")
    ]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank, rollouts, problems, and one of each kind of file that is wrong."""
    folder = tmp_path_factory.mktemp("newcomer")
    write_rollouts(folder / "rollouts.jsonl", rollouts())
    build_bank([folder / "rollouts.jsonl"], folder / "bank")
    lines = (folder / "rollouts.jsonl").read_text().splitlines(keepends=True)
    (folder / "cut.jsonl").write_text("".join([*lines, lines[0][:40]]))
    (folder / "all-right.jsonl").write_text("".join(line for line in lines if '"correct"' in line))
    problems = [{"problem": problem, "answer": answer} for problem, answer in PROBLEMS]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    (folder / "long.jsonl").write_text(json.dumps({"problem": "1 + " * 500, "answer": "3"}) + "\n")
    (folder / "empty").write_text("")
    (folder / "text").write_text("hello")
    (folder / "bytes.jsonl").write_bytes(bytes(range(256)))
    (folder / "list.yaml").write_text("- a\n")
    (folder / "broken.yaml").write_text("train: [1\n")
    (folder / "no-database").mkdir()
    (folder / "no-database" / "bank.sqlite").write_text("not a database")
    (folder / "folder").mkdir()
    return folder


@pytest.fixture
def here(made: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as the current one. A test must leave it as it was."""
    monkeypatch.chdir(made)
    monkeypatch.delenv("SGSD_BANK", raising=False)
    run = {
        "model": {"name_or_path": str(tiny_folder), "dtype": "float32"},
        "data": {"source": "problems.jsonl"},
        "bank": {"path": "bank", "k": 1},
        "rollout": {"max_new_tokens": 4},
        "train": {"max_steps": 1, "per_device_batch_size": 1, "gradient_accumulation_steps": 1},
        "output_dir": "run",
    }
    (made / "run.yaml").write_text(yaml.safe_dump(run))
    before = tree(made)
    yield made
    assert tree(made) == before


def tree(folder: Path) -> Tree:
    """Every file and its size, but for what SQLite keeps beside an open database."""
    return {
        str(path.relative_to(folder)): path.stat().st_size if path.is_file() else -1
        for path in folder.rglob("*")
        if not path.name.endswith(("-wal", "-shm"))
    }


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; what is captured is what reaches the file descriptors, libraries' noise included."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def refused(run: Run, line: str, code: int, *words: str) -> None:
    got, out, err = run(*line.split())
    assert (got, out) == (code, ""), err
    said = err.strip().splitlines()
    assert len(said) == 1, err
    assert "Traceback" not in err
    assert "--debug" not in err, "an error that nobody thought of"
    for word in words:
        assert word in said[0]


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("train", 2, ["Missing argument 'CONFIG'"]),
        ("train missing.yaml", 2, ["no configuration at missing.yaml"]),
        ("train folder", 2, ["folder is a folder"]),
        ("train text", 2, ["text holds text", "sections of keys"]),
        ("train list.yaml", 2, ["holds a list"]),
        ("train broken.yaml", 2, ["not readable YAML: line 2, column 1"]),
        ("train bytes.jsonl", 2, ["not readable YAML"]),
        ("train empty", 2, ["bank.path is not set"]),
        ("train run.yaml --set nonsense", 2, ["--set 'nonsense'", "section.key=value"]),
        ("train run.yaml --set nonsense=1", 2, ["nonsense is not a key here; known: rollout"]),
        ("train run.yaml --set train.steps=1", 2, ["train.steps is not a key here; known: max_steps"]),
        ("train run.yaml --set train=1", 2, ["train is a section", "(got 1)"]),
        ("train run.yaml --set train.max_steps=0", 2, ["train.max_steps must be above 0 (got 0)"]),
        ("train run.yaml --set train.max_steps=x", 2, ["train.max_steps must be a whole number (got 'x')"]),
        ("train run.yaml --set train.learning_rate=.inf", 2, ["train.learning_rate must be a finite number"]),
        ("train run.yaml --set model.dtype=int8", 2, ["model.dtype must be 'float32', 'bfloat16' or 'float16'"]),
        ("train run.yaml --set rollout.n=2", 2, ["rollout.n = 2: sgsd has no use for it, raise the batch size"]),
        ("train run.yaml --set bank.k=0", 2, ["bank.k must be above 0 (got 0)"]),
        ("train run.yaml --set bank.path=missing", 1, ["no bank at missing"]),
        ("train run.yaml --set bank.path=text", 1, ["no bank at text"]),
        ("train run.yaml --set bank.path=no-database", 1, ["bank.sqlite cannot be read"]),
        ("train run.yaml --set bank.embedder=./missing", 1, ["no embedding model at ./missing"]),
        ("train run.yaml --set model.name_or_path=./missing", 1, ["no model folder at ./missing"]),
        ("train run.yaml --set model.name_or_path=folder", 1, ["folder holds no model"]),
        ("train run.yaml --set data.source=missing.jsonl", 1, ["no file missing.jsonl"]),
        ("train run.yaml --set verifier.name=maths", 2, ["verifier 'maths' is unknown: take math"]),
        ("train run.yaml --set rollout.max_prompt_tokens=2", 1, ["rollout.max_prompt_tokens is 2"]),
        ("train run.yaml --set output_dir=text", 2, ["output_dir text is a file"]),
        ("train run.yaml --set output_dir=text/run", 2, ["cannot be made: text is a file"]),
        ("train run.yaml --set output_dir=/proc/run", 2, ["/proc/run cannot be written"]),
    ],
)
def test_train(here: Path, run: Run, line: str, code: int, words: list[str]) -> None:
    refused(run, line, code, *words)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("rollout --out o.jsonl", 2, ["Missing option '--data'"]),
        ("rollout --data missing.jsonl --out o.jsonl", 1, ["no file missing.jsonl"]),
        ("rollout --data folder --out o.jsonl", 1, ["folder is a folder"]),
        ("rollout --data empty --out o.jsonl", 1, ["empty is empty"]),
        ("rollout --data text --out o.jsonl", 1, ["text holds no usable problem"]),
        ("rollout --data bytes.jsonl --out o.jsonl", 1, ["bytes.jsonl holds no usable problem"]),
        ("rollout --data arena:none --out o.jsonl", 1, ["easy, medium, hard"]),
        ("rollout --data problems.jsonl --out folder", 2, ["--out folder is a folder", "folder/rollouts.jsonl"]),
        ("rollout --data problems.jsonl --out text/o.jsonl", 2, ["cannot be made: text is a file"]),
        ("rollout --data problems.jsonl --out /proc/o.jsonl", 2, ["--out /proc/o.jsonl cannot be written"]),
        ("rollout --data problems.jsonl --out o --n 0", 2, ["--n must be above 0 (got 0)"]),
        ("rollout --data problems.jsonl --out o --limit -1", 2, ["--limit must be at least 1 (got '-1')"]),
        ("rollout --data problems.jsonl --out o --top-p 2", 2, ["--top-p must be at most 1 (got 2.0)"]),
        ("rollout --data problems.jsonl --out o --temperature nan", 2, ["--temperature must be a finite number"]),
        ("rollout --data problems.jsonl --out o --temperature x", 2, ["--temperature must be a number (got 'x')"]),
        ("rollout --data problems.jsonl --out o --timeout 0", 2, ["--timeout must be above 0 (got 0.0)"]),
        ("rollout --data problems.jsonl --out o --truncated drop", 2, ["--truncated must be 'grade', 'wrong'"]),
        (
            "rollout --data long.jsonl --out o --max-prompt-tokens 99",
            1,
            ["all 1 prompts exceed max_prompt_tokens = 99"],
        ),
        ("eval --data problems.jsonl --k 0", 2, ["--k must be above 0 (got 0)"]),
        ("eval --data problems.jsonl --k 2 --temperature 0", 2, ["2 greedy completions would all be equal"]),
        ("eval --data problems.jsonl --model text", 1, ["text is a file"]),
        ("eval --data problems.jsonl --bank missing", 1, ["no bank at missing"]),
        ("eval --data problems.jsonl --bank bank --pairs 0", 2, ["--pairs must be above 0 (got 0)"]),
        ("eval --data problems.jsonl --out folder", 2, ["--out folder is a folder"]),
        ("eval --data problems.jsonl --out text/o.json", 2, ["cannot be made: text is a file"]),
        ("demo --level none", 2, ["none is no level: choose easy, medium, hard"]),
        ("demo --misleading 2", 2, ["--misleading 2.0"]),
        ("demo --out folder/../text", 2, ["text is a file"]),
        ("demo --out .", 2, [". is not empty"]),
        ("demo --set train.max_steps=0 --out new", 2, ["train.max_steps must be above 0 (got 0)"]),
    ],
)
def test_rollout_eval_demo(here: Path, run: Run, tiny_folder: Path, line: str, code: int, words: list[str]) -> None:
    model = "" if "--model" in line or line.startswith("demo") else f" --model {tiny_folder}"
    refused(run, line + model, code, *words)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("bank build --bank new --rollouts missing.jsonl", 1, ["no rollout file at missing.jsonl"]),
        ("bank build --bank new --rollouts empty", 1, ["empty is empty"]),
        ("bank build --bank new --rollouts folder", 1, ["folder is a folder"]),
        ("bank build --bank new --rollouts text", 1, ["text holds no usable rollout", "line 1 is not JSON"]),
        ("bank build --bank new --rollouts bytes.jsonl", 1, ["bytes.jsonl holds no usable rollout"]),
        ("bank build --bank new --rollouts problems.jsonl", 1, ["unknown format"]),
        ("bank build --bank new --rollouts all-right.jsonl", 1, ["0 of them with both right and wrong"]),
        (
            "bank build --bank new --rollouts rollouts.jsonl --split test",
            1,
            ["no rollout of split 'test'", "4 of split"],
        ),
        ("bank build --bank new --rollouts rollouts.jsonl --embedder ./none", 1, ["no embedding model at ./none"]),
        ("bank build --bank new --rollouts rollouts.jsonl --embedder folder", 1, ["cannot load the embedding model"]),
        ("bank build --bank text --rollouts rollouts.jsonl", 2, ["--bank text is a file"]),
        ("bank build --bank text/new --rollouts rollouts.jsonl", 2, ["cannot be made: text is a file"]),
        ("bank build --bank no-database --rollouts rollouts.jsonl", 1, ["bank.sqlite cannot be read"]),
        ("bank build --bank . --rollouts rollouts.jsonl", 1, [". exists and is no bank"]),
        ("bank stats --bank text", 1, ["no bank at text"]),
        ("bank stats", 2, ["--bank"]),
    ],
)
def test_bank(here: Path, run: Run, line: str, code: int, words: list[str]) -> None:
    refused(run, line, code, *words)


def test_a_cut_line_is_counted_and_kept(here: Path, run: Run, tmp_path: Path) -> None:
    code, out, err = run("bank", "build", "--rollouts", "cut.jsonl", "--bank", tmp_path / "bank")
    assert code == 0
    assert err == f"warning: 1 line could not be used and is in {tmp_path}/bank/rejected.jsonl\n"
    assert "unusable    1: not JSON" in out
    assert "example 1   " in out
    kept = [json.loads(line) for line in (tmp_path / "bank" / "rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in kept] == [(5, "not JSON")]
    assert kept[0]["raw"] == (here / "cut.jsonl").read_text().splitlines()[-1]
    files = [path for path in (tmp_path / "bank").rglob("*") if path.is_file()]
    assert [path for path in files if not path.stat().st_mode & 0o004] == []  # others may read a bank
    report = json.loads(run("bank", "build", "--rollouts", "cut.jsonl", "--bank", tmp_path / "bank", "--json")[1])
    assert report["unusable"] == {"not JSON": 1}
    assert report["added"] == {"skill": 0, "mistake": 0, "pair": 0}
    with Bank.open(tmp_path / "bank") as bank:
        assert bank.stats().entries["pair"] == report["pairs"] == 1


def test_k_above_the_bank_is_a_warning(here: Path, run: Run, tiny_folder: Path) -> None:
    warning = "warning: k is 9 but bank has 1 skills and 1 mistakes to retrieve: a problem gets at most 1 pairs\n"
    code, out, err = run("bank", "retrieve", "What is 7 + 7 ?", "--bank", "bank", "--k", 9, "--json")
    assert (code, err, len(json.loads(out)["pairs"])) == (0, warning, 1)
    line = f"eval --data problems.jsonl --model {tiny_folder} --bank bank --pairs 9 --max-new-tokens 4 --json"
    code, out, err = run(*line.split())
    assert (code, err, json.loads(out)["problems"]) == (0, warning, 2)


def test_a_bank_of_another_embedder(here: Path, run: Run, tmp_path: Path) -> None:
    other = build_lexical_embedder(tmp_path / "other", ["something else altogether"])
    folder = getattr(other, "name", tmp_path / "other")
    refused(run, f"train run.yaml --set bank.embedder={folder}", 1, "bank was embedded by lexical:", "--embedder")


def test_problems_too_long_are_counted(here: Path, run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text((here / "long.jsonl").read_text() + (here / "problems.jsonl").read_text())
    line = f"rollout --data {mixed} --model {tiny_folder} --max-prompt-tokens 99 --max-new-tokens 4 --out {tmp_path}/o"
    code, out, err = run(*line.split())
    assert (code, err) == (0, "")
    assert "1 problem left out: longer than --max-prompt-tokens" in out


def test_what_the_verifier_says_is_told(here: Path, run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    """Zero right and zero wrong are else a riddle."""
    line = f"rollout --data problems.jsonl --model {tiny_folder} --verifier os:getcwd --max-new-tokens 4 --n 1"
    code, out, _ = run(*line.split(), "--out", tmp_path / "o.jsonl")
    assert code == 0
    assert "2 unverifiable: os:getcwd raised TypeError" in out


def test_no_network_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def no_network(host: str, port: int) -> None:
        import socket

        asked.append(host)
        raise socket.gaierror

    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    common.offline_without_network("arena", "arena:easy", "/", None)
    assert asked == []
    common.offline_without_network("some/model")
    import os

    assert (asked, os.environ.pop("HF_HUB_OFFLINE")) == (["huggingface.co"], "1")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror")
    common.offline_without_network("some/model")
    assert "HF_HUB_OFFLINE" not in os.environ
