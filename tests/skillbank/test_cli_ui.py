"""`sgsd bank ui`: where it listens, what it prints, who may come in, what the playground's teachers read."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from sgsd.cli.bank import ui
from skillbank.records import Mistake, RetrievedPair, Skill
from skillbank.store import Bank
from skillbank.web import Site

from .command_line import CommandLine

PAIR = RetrievedPair(
    skill_id=1,
    mistake_id=2,
    skill=Skill(title="Step on zorp", principle="Double it"),
    mistake=Mistake(description="The sum", how_to_avoid="Not the sum"),
    skill_cosine=0.5,
    mistake_cosine=0.4,
    weight=1.0,
)


@pytest.fixture
def cli(bank: Bank, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(bank.path, capsys, monkeypatch)


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch) -> list[Site]:
    """What is served, asked once over the socket's application instead of being served until it is stopped."""
    found: list[Site] = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        app: Any = server.config.app
        found.append(app.state.site)
        assert sockets[0].getsockname()[1] > 0
        with TestClient(app, base_url="http://localhost") as client:
            assert client.get("/entries").status_code == (200 if found[-1].token is None else 401)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return found


def test_it_listens_on_this_machine_alone_and_says_where(cli: CommandLine, sites: list[Site]) -> None:
    code, out, err = cli("ui", "--port", 0)
    assert (code, out) == (0, "")
    assert re.search(r"at http://127\.0\.0\.1:\d+/ \(Control-C ends it\)", err)
    (site,) = sites
    assert (site.actor, site.readonly, site.token, site.names) == ("ada", False, None, frozenset())


def test_another_host_is_given_a_token(cli: CommandLine, sites: list[Site], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (cli("ui", "--port", 0, "--host", "0.0.0.0", "--read-only")[2] for _ in range(2))
    tokens = [re.findall(r"/\?token=(\S+)", err)[0] for err in (first, second)]
    assert [site.token for site in sites] == tokens
    assert tokens[0] != tokens[1]
    assert len(tokens[0]) >= 32
    assert sites[0].readonly
    assert socket.gethostname().lower() in sites[0].names
    monkeypatch.setenv("SGSD_UI_TOKEN", "ours")
    assert "/?token=ours " in cli("ui", "--port", 0, "--host", "0.0.0.0")[2]


def test_a_port_that_is_taken_and_a_host_that_is_elsewhere_are_refused(cli: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = cli.refused("ui", "--port", port, code=2)
    assert f"cannot listen on 127.0.0.1 port {port}" in said
    assert "choose another --port or --host" in said
    assert "cannot listen on 192.0.2.1" in cli.refused("ui", "--host", "192.0.2.1", code=2)


def test_teachers_read_what_training_gives_them() -> None:
    from sgsd.models import load_tokenizer, resolve_model_path
    from sgsd.prompts import Guidance, guided_user_text, render

    text = guided_user_text("What is zorp of 3?", [Guidance(PAIR.skill, PAIR.mistake)])
    assert ui._teacher_prompts(None)("What is zorp of 3?", [PAIR]) == [text]
    tokenizer = load_tokenizer(resolve_model_path("arena"))
    (rendered,) = ui._teacher_prompts("arena")("What is zorp of 3?", [PAIR])
    assert tokenizer(rendered, add_special_tokens=False)["input_ids"] == render(tokenizer, text)
    assert text in rendered
    assert rendered != text
