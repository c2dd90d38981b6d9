"""`sgsd bank dedupe`: shows clusters, asks, merges, says how to undo."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main
from skillbank.index.vectors import bank_embedder
from skillbank.store import Bank

from .scripted_server import ScriptedServer, completion
from .test_dedupe import MODULO, PARITY, entry, fill, skill


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Skills 1, 2 and 4 say the same, 3 and 5 stand alone."""
    texts = [PARITY, f"{PARITY} now", MODULO, f"{PARITY} too", "Draw the figure and name its points"]
    with Bank.create(tmp_path / "bank") as bank:
        fill(bank, *(entry(skill(text), ["p", "q"] if n == 1 else ["p"]) for n, text in enumerate(texts)))
        bank_embedder(bank)
    monkeypatch.setenv("SGSD_BANK", str(tmp_path / "bank"))
    monkeypatch.setenv("USER", "ada")
    return tmp_path / "bank"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A terminal on which these answers are typed."""
    answers: list[str] = []

    class Typed:
        def isatty(self) -> bool:
            return True

        def readline(self, *_: object) -> str:
            return f"{answers.pop(0)}\n"

    monkeypatch.setattr(sys, "stdin", Typed())
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt="": answers.pop(0))
    return answers  # type: ignore[return-value]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["bank", "dedupe", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def active(folder: Path) -> list[int]:
    with Bank.open(folder, readonly=True) as bank:
        return bank.retrievable("skill")


def test_a_preview_shows_clusters_and_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--preview")
    assert code == 0
    assert "skills that say the same: 3 (rests on 2 places, the next on 1)" in out
    assert "keep       2         Look first: Compare the parity" in out
    assert "skills           5 -> 3; pairs at 0.9 or above: 3 (30.000% of all pairs) -> 0 (0.000%)" in out
    assert "preview: 2 entries would be superseded; nothing was changed" in out
    assert active(folder) == [1, 2, 3, 4, 5]


def test_merge_and_undo(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--yes", "--threshold", "0.9", "--json")
    done = json.loads(out)
    assert (code, done["revision"], done["superseded"], done["rewording"]) == (0, 2, 2, None)
    assert sorted(member["entry"]["id"] for member in done["found"]["clusters"][0]["members"]) == [1, 2, 4]
    assert active(folder) == [2, 3, 5]
    _, out, _ = run(capsys, "--yes")
    assert "nothing to merge" in out
    assert main(["bank", "undo", "2"]) == 0
    assert active(folder) == [1, 2, 3, 4, 5]


def test_it_asks_on_a_terminal(folder: Path, terminal: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    terminal.append("n")
    code, out, err = run(capsys)
    assert (code, terminal) == (0, [])
    assert "say the same" in out
    assert "nothing was changed" in err
    assert active(folder) == [1, 2, 3, 4, 5]
    terminal.append("y")
    code, out, _ = run(capsys)
    assert f"2 entries superseded: revision 2 (take it back with `sgsd bank undo 2 --bank {folder}`)" in out
    assert active(folder) == [2, 3, 5]


def test_a_model_words_the_cluster(folder: Path, terminal: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def write(asked: Any) -> Any:
        covered = [{"member": n, "covered": True} for n in (1, 2, 3)]
        words = {"title": "Parity first", "principle": PARITY}
        return completion(json.dumps({"entry": words, "members": covered}))

    with ScriptedServer(write) as server:
        model = ("--model", "writer", "--endpoint", server.url)
        _, out, _ = run(capsys, *model, "--preview")
        assert "1 wording by writer, 1 call to make" in out
        assert "preview: at most 2 entries would be superseded; nothing was changed" in out
        assert len(server.asked) == 0
        terminal += ["y", "n"]
        _, out, _ = run(capsys, *model)
        assert "for the cluster of 2, covering " in out
        assert "title: Parity first" in out
        assert active(folder) == [1, 2, 3, 4, 5]
        terminal += ["y", "y"]
        _, out, _ = run(capsys, *model)
        assert "1 wording, 0 calls made now" in out
        assert "3 entries superseded: revision 2" in out
        assert len(server.asked) == 1
    assert active(folder) == [3, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nobody can be asked here: look with --preview, merge with --yes"),
        (["--threshold", "0.2", "--preview"], 2, "--threshold must be at least 0.5 (got '0.2')"),
        (["--yes", "--endpoint", "http://127.0.0.1:1"], 2, "name the model that the server is to run"),
        (["--yes", "--bank", "nowhere"], 1, "no bank at nowhere"),
    ],
)
def test_wrong_input_is_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    found, _, err = run(capsys, *arguments)
    assert found == code
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert active(folder) == [1, 2, 3, 4, 5]
