from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main
from skillbank.index.embed import Embedder, build_lexical_embedder
from skillbank.index.vectors import adopt
from skillbank.records import Rollout
from skillbank.rollouts import write_rollouts
from skillbank.store import Bank

from .made_up import OPERATIONS


@pytest.fixture
def folder(bank: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The made-up bank, closed, named by the environment."""
    adopt(bank, embedder.name, device="cpu")
    bank.close()
    monkeypatch.setenv("SGSD_BANK", str(bank.path))
    monkeypatch.setenv("USER", "ada")
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    return bank.path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `sgsd bank ...` and returns (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["bank", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def run_json(run: Any) -> Any:
    def call(*arguments: object) -> Any:
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


def test_stats(folder: Path, run: Any, run_json: Any) -> None:
    stats = run_json("stats")
    assert stats["entries"] == {"skill": 6, "mistake": 6, "pair": 6}
    assert stats["by_status"] == {"active": 18}
    assert (stats["evidence"], stats["revision"]) == (12, 1)
    _, out, _ = run("stats", "--bank", folder)
    assert "6 skills, 6 mistakes, 6 pairs" in out


def test_list(folder: Path, run: Any, run_json: Any) -> None:
    listed = run_json("list", "--kind", "skill", "--limit", 2, "--offset", 1)
    assert listed["total"] == 6
    assert [entry["id"] for entry in listed["entries"]] == [4, 7]
    _, out, _ = run("list", "--kind", "pair", "--limit", 1)
    assert " ".join(out.split()) == (
        "3 pair active 2 places zorp means double the first and add the seco… not zorp taken as the sum of both "
        "1 to 1 of 6 (--limit and --offset show others)"
    )
    assert run("list", "--status", "retired")[1] == "no entry found\n"


def test_show_prints_evidence_status_and_history(folder: Path, run: Any, run_json: Any) -> None:
    _, out, _ = run("show", 3)
    for expected in (
        "pair 3  active  mined  version 1",
        "zorp means double the first and add the second",
        "zorp taken as the sum of both",
        "evidence: 2 places",
        "problem p-zorp\n    correct  “so it is 3”",
        "    wrong    “so it is 3”\n             rollout p-zorp-wrong, characters 4 to 14 of unknown",
        "add  miner: rollouts.jsonl",
    ):
        assert expected in out
    assert "in pairs 3 (active)" in run("show", 1)[1]
    shown = run_json("show", 1)
    assert shown["entry"]["content"]["title"] == "Step on zorp"
    assert shown["evidence"][0]["span"] == [4, 14]
    assert shown["history"][0]["op"] == "add"
    assert shown["usage"] == {"helpful": 0, "harmful": 0, "neutral": 0, "mean_support": None}
    assert (shown["utility"], shown["retrieved"], shown["stands_for"]) == (None, True, [])


def test_search_by_words_and_by_vectors(folder: Path, run: Any, run_json: Any) -> None:
    assert {entry["id"] for entry in run_json("search", "ZORP first")["entries"]} == {1, 2, 3}
    assert run("search", "nothing like it")[1] == "no entry found; try --hybrid\n"
    near = run_json("search", "zorp", "--semantic", "--kind", "mistake", "--limit", 1)["entries"]
    assert near[0]["id"] == 2
    assert near[0]["cosine"] > 0.5
    code, _, err = run("search", "zorp", "--semantic", "--kind", "pair")
    assert code == 2
    assert "pairs have no vectors" in err


def test_retrieve(folder: Path, run: Any, run_json: Any) -> None:
    found = run_json("retrieve", "What is 5 zorp 7?", "--k", 2)
    assert found["pairs"][0]["skill_id"] == 1
    assert sum(pair["weight"] for pair in found["pairs"]) == pytest.approx(1)
    assert found["embedder"].startswith("lexical")
    left = run_json("retrieve", "What is 5 zorp 7?", "--k", 2, "--problem-id", "p-zorp")
    assert 1 not in [pair["skill_id"] for pair in left["pairs"]]
    kept = run_json("retrieve", "What is 5 zorp 7?", "--k", 2, "--problem-id", "p-zorp", "--own")
    assert kept == found
    assert len(run_json("retrieve", "x", "--mode", "random", "--k", 3, "--seed", 4)["pairs"]) == 3
    _, out, err = run("retrieve", "What is 5 zorp 7?", "--k", 9)
    assert "1. weight 0." in out
    assert "matches words, not meaning" in out
    assert err.count("warning: k is 9 but") == 1


def test_edit_disable_enable_undo(folder: Path, run: Any, run_json: Any) -> None:
    _, out, _ = run("edit", 1, "--title", "Zorping", "--reason", "shorter", "--preview")
    assert out.splitlines() == ["skill 1  title", "  - Step on zorp", "  + Zorping", "preview: nothing was changed"]
    assert run_json("stats")["revision"] == 1
    _, out, _ = run("edit", 1, "--title", "Zorping", "--when", "", "--reason", "shorter")
    assert out.splitlines()[-1] == f"edit: revision 2 (take it back with `sgsd bank undo 2 --bank {folder}`)"
    assert run_json("show", 1)["entry"]["content"]["when_to_apply"] == ""
    last = run_json("show", 1)["history"][-1]
    assert (last["actor"], last["reason"]) == ("ada", "shorter")
    assert run_json("disable", 3, 6, "--reason", "misleads")["leaving"] == [1, 2, 4, 5]
    assert run("disable", 3)[1] == "nothing changed\n"
    assert run_json("enable", 6)["joining"] == [4, 5]
    assert run_json("undo", 2)["revision"] == 5
    assert run_json("show", 1)["entry"]["content"]["title"] == "Step on zorp"
    assert run_json("undo")["action"] == "undo of revision 5"
    assert run_json("show", 1)["entry"]["content"]["title"] == "Zorping"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", 99], 1, "no entry 99"),
        (["disable", 1, 99], 1, "no entry 99"),
        (["edit", 1], 2, "there is no editor to write in: set EDITOR"),
        (["edit", 3, "--title", "x"], 1, "entry 3 is a pair"),
        (["undo", 7], 1, "no revision 7 to undo: the bank is at revision 1"),
        (["stats", "--bank", "nowhere"], 1, "no bank at nowhere: build one with"),
        (["retrieve", "x", "--bank", "nowhere"], 1, "no bank at nowhere"),
        (["list", "--kind", "lesson"], 2, "'lesson'"),
        (["retrieve", "x", "--k", 0], 2, "--k must be at least 1 (got '0')"),
        (["show", 2**63], 2, "ID must be at most 9223372036854775807"),
        (["search", " "], 2, "nothing to search for"),
        (["retrieve", ""], 2, "the problem has no words"),
        (["list", "--limit", -1], 2, "--limit must be at least 1 (got '-1')"),
        (["build"], 2, "name at least one file of past rollouts"),
        (["build", "--embedder", "./nowhere"], 1, "no embedding model at ./nowhere"),
        (["build", "--rollouts", "nowhere.jsonl"], 1, "nowhere.jsonl"),
    ],
)
def test_wrong_input_is_one_line(folder: Path, run: Any, arguments: list[object], code: int, message: str) -> None:
    exit_code, out, err = run(*arguments)
    assert exit_code == code
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert message in err
    with Bank.open(folder) as bank:
        assert bank.revision == 1


def test_no_bank_named_is_wrong_usage(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGSD_BANK", raising=False)
    code, _, err = run("stats")
    assert code == 2
    assert "--bank" in err


def test_a_damaged_bank_is_one_line(folder: Path, run: Any) -> None:
    (folder / "bank.sqlite").write_bytes(b"no database at all" * 100)
    code, out, err = run("stats")
    assert (code, out) == (1, "")
    assert "bank.sqlite cannot be read" in err
    assert len(err.strip().splitlines()) == 1


def test_another_embedder_is_taken_on_demand(folder: Path, run: Any, run_json: Any, tmp_path: Path) -> None:
    build_lexical_embedder(tmp_path / "other", ["zorp", "blen"])
    done = run_json("build", "--embedder", tmp_path / "other")
    assert done["embedded"] == 12
    assert run_json("stats")["embedder"] == str((tmp_path / "other").resolve())
    assert run_json("retrieve", "zorp", "--k", 1)["pairs"][0]["skill_id"] == 1


def test_build(run: Any, run_json: Any, tmp_path: Path) -> None:
    rollouts = [
        Rollout(
            rollout_id=f"{operation}-{n}-{outcome}",
            problem_id=f"{operation}-{n}",
            problem=f"What is {n} {operation} 7 modulo 23?",
            completion=f"{operation} means {rule}\n{n} {operation} 7 = {n}\n\\boxed{{{n}}}",
            outcome=outcome,
        )
        for operation in OPERATIONS
        for n in range(2)
        for outcome, rule in (("correct", "doubled sum"), ("wrong", "plain difference"))
    ]
    write_rollouts(tmp_path / "rollouts.jsonl", rollouts)
    bank = tmp_path / "bank"
    report = run_json("build", "--rollouts", tmp_path / "rollouts.jsonl", "--bank", bank)
    assert report["rollouts"] == 24
    stats = run_json("stats", "--bank", bank)
    assert stats["entries"] == report["entries"] == {"skill": 6, "mistake": 6, "pair": 6}
    assert stats["revision"] == 1
    found = run_json("retrieve", "What is 5 quix 7 modulo 23?", "--bank", bank, "--k", 1)["pairs"][0]
    assert "quix" in found["skill"]["principle"]
    assert "quix" in found["mistake"]["description"]
    code, out, _ = run("build", "--rollouts", tmp_path / "rollouts.jsonl", "--bank", bank)
    assert code == 0
    assert "added       0 skills, 0 mistakes, 0 pairs" in out
    assert run_json("stats", "--bank", bank)["revision"] == 1
