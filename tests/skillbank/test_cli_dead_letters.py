"""`sgsd bank dead-letters`: what came to nothing is listed, and made again against a server that has recovered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main
from skillbank.mine.model.client import ChatClient, ClientSettings
from skillbank.mine.model.extract import ExtractSettings, ModelMiner
from skillbank.mine.model.ledger import Ledger
from skillbank.store import Bank

from .scripted_server import Answer, Asked, ScriptedServer, completion
from .writer import PROBLEM, groups, written


class Moody:
    """Writes no JSON about some problems, until it is in the mood."""

    def __init__(self, *stubborn: str) -> None:
        self.stubborn = set(stubborn)

    def __call__(self, asked: Asked) -> Answer:
        refused = PROBLEM.findall(asked.prompt)[0] in self.stubborn
        return completion("no" if refused else written(asked.prompt))


def mine(bank: Bank, url: str) -> list[int]:
    client = ChatClient(ClientSettings(endpoints=(url,), model="tiny"))
    mined = ModelMiner(client, ExtractSettings(), Ledger(bank.db)).mine(groups(6))
    return [len(one.items) for one in mined]


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main(["bank", "dead-letters", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_dead_letters_are_listed_and_retried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bank"
    moody = Moody("What is p001?", "What is p004?")
    with ScriptedServer(moody) as server:
        with Bank.create(folder) as bank:
            assert mine(bank, server.url) == [1, 0, 1, 1, 0, 1]
        letters = sorted(report(capsys, "--bank", folder)["dead_letters"], key=lambda one: str(one["problem_id"]))
        assert [(one["kind"], one["problem_id"], one["rollouts"], one["attempts"]) for one in letters] == [
            ("mistakes", "p001", ["p001-3"], 1),
            ("mistakes", "p004", ["p004-3"], 1),
        ]
        assert letters[0]["replies"] == ["no", "no"]
        assert main(["bank", "dead-letters", "--bank", str(folder)]) == 0
        listed = capsys.readouterr()
        assert "mistakes from p001-3 by tiny, 1 attempt: reply invalid after a repair" in listed.out
        assert "2 dead letters" in listed.err

        moody.stubborn.remove("What is p004?")
        before = len(server.asked)
        told = report(capsys, "--bank", folder, "--retry", "--endpoint", server.url, "--temperature", 0.9)
        assert (told["retried"], told["answered"], told["dead"], told["items"]) == (2, 1, 1, 1)
        assert len(server.asked) == before + 3
        assert {asked.body["temperature"] for asked in server.asked[before:]} == {0.9}

        moody.stubborn.clear()
        assert main(["bank", "dead-letters", "--bank", str(folder), "--retry", "--endpoint", server.url]) == 0
        assert "1 call made again: 1 answered, 0 still dead" in capsys.readouterr().out
        before = len(server.asked)
        with Bank.open(folder) as bank:
            assert mine(bank, server.url) == [1] * 6
        assert len(server.asked) == before
    assert report(capsys, "--bank", folder)["dead_letters"] == []
    assert report(capsys, "--bank", folder, "--retry", "--model", "tiny")["retried"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--endpoint", "http://127.0.0.1:1"], "add --retry"),
        (["--temperature", "1"], "add --retry"),
        (["--retry", "--endpoint", "nowhere"], "'nowhere' is no address of a server: write http://HOST:PORT/v1"),
        (["--retry", "--tokens-per-minute", "5"], "limits are for servers"),
    ],
)
def test_wrong_usage_is_one_line(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer(Moody("What is p001?")) as server, Bank.create(tmp_path / "bank") as bank:
        mine(bank, server.url)
    assert main(["bank", "dead-letters", "--bank", str(tmp_path / "bank"), *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_dead_letters_of_two_models_want_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(Moody("What is p001?")) as server:
        with Bank.create(tmp_path / "bank") as bank:
            for model in ("one", "two"):
                client = ChatClient(ClientSettings(endpoints=(server.url,), model=model))
                list(ModelMiner(client, ExtractSettings(), Ledger(bank.db)).mine(groups(3)))
        arguments = ["bank", "dead-letters", "--bank", str(tmp_path / "bank"), "--retry", "--endpoint", server.url]
        assert main(arguments) == 2
        assert "dead letters of one, two: choose one with --model" in capsys.readouterr().err
        told = report(capsys, *arguments[2:], "--model", "two")
        assert (told["retried"], told["dead"]) == (1, 1)
        assert len(report(capsys, "--bank", tmp_path / "bank", "--model", "one")["dead_letters"]) == 1
