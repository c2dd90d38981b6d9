"""`sgsd bank --help` stays readable: every command under a heading, documentation that names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sgsd.cli import main
from sgsd.cli.bank import app
from sgsd.cli.bank.panels import PANELS


def names() -> list[str]:
    found = []
    for command in app.registered_commands:
        assert command.callback is not None
        found.append(command.name or command.callback.__name__.replace("_", "-"))
    return found


def test_every_command_stands_under_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert [name for name in names() if not any(name in panel for panel in PANELS.values())] == []
    assert main(["bank", "--help"]) == 0
    out = capsys.readouterr().out
    headings = [out.index(f"─ {heading} ") for heading in PANELS]
    assert headings == sorted(headings)


def test_the_page_about_curation_names_commands_that_are_there(root: Path) -> None:
    page = (root / "docs" / "curation.md").read_text(encoding="utf-8")
    assert set(re.findall(r"sgsd bank ([a-z-]+)", page)) <= set(names())
    for command in PANELS["Curate"]:
        assert f"`{command}" in page or command == "dedupe"
