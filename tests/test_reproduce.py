"""scripts/reproduce.sh: every command line in it parses, every configuration it names loads, and its stages run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from sgsd.cli import app
from sgsd.config import load_config

PUBLISHED, ARENA = "paper", "arena"
SGSD: Any = typer.main.get_command(app)


def script(root: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"OUT": str(out), "SGSD": f"{sys.executable} -m sgsd", "PYTHON": sys.executable, **environment}
    return subprocess.run(
        [str(root / "scripts" / "reproduce.sh")],
        env=os.environ | given,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def commands(root: Path, out: Path, scale: str) -> list[list[str]]:
    """What the script would run of sgsd, as words."""
    done = script(root, out, DRY_RUN="1", REPRODUCE=scale, SGSD="sgsd")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert {line[0] for line in lines} == {"sgsd", "cp", "rm", "touch"}
    return [line[1:] for line in lines if line[0] == "sgsd"]


def parsed(words: list[str]) -> dict[str, Any]:
    """The parameters of a command line, through the command's own parser; fails where that does."""
    command, context, rest = SGSD, None, words
    while hasattr(command, "commands"):
        context = command.make_context(command.name, rest, parent=context)
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    return dict(command.make_context(name, rest, parent=context).params)


@pytest.mark.parametrize("scale", [PUBLISHED, ARENA])
def test_every_command_line_parses_and_every_configuration_loads(root: Path, tmp_path: Path, scale: str) -> None:
    lines = commands(root, tmp_path, scale)
    made = set()
    for words in lines:
        given = parsed(words)
        if words[0] == "train":
            config = load_config(root / given["config"], given["overrides"])
            made |= {config.output_dir, f"{config.output_dir}/student"}
        elif words[0] == "bank":
            assert [str(file) in made for file in given["rollouts"]] == [True]
            made.add(str(given["bank"]))
        else:
            assert given["model"] in made or not given["model"].startswith(str(tmp_path))
            made.add(str(given["out"]))
    results = [str(given["out"].relative_to(tmp_path / "eval")) for given in map(parsed, lines) if "paper" in given]
    assert len(results) == len(set(results)) == {PUBLISHED: 9 + 8 + 7, ARENA: 9}[scale]
    assert not list(tmp_path.iterdir())  # a dry run makes nothing


def test_every_published_configuration_is_trained(root: Path, tmp_path: Path) -> None:
    named = {words[1] for words in commands(root, tmp_path, PUBLISHED) if words[0] == "train"}
    assert named == {f"configs/{file.name}" for file in (root / "configs").glob("qwen3-*.yaml")}


@pytest.mark.slow
def test_a_part_of_it_on_the_arena_and_nothing_twice(root: Path, tmp_path: Path) -> None:
    done = script(root, tmp_path, REPRODUCE=ARENA, METHODS="base sgsd")
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert table[0] == "| model/method | k | mean | 95 % | arena:easy | arena:medium |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| arena/base", "| arena/sgsd"]
    result = json.loads((tmp_path / "eval" / "arena" / "sgsd.json").read_text(encoding="utf-8"))
    assert f"{result['accuracy']:.1%}" == table[3].split(" | ")[2]
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == done.stdout
    again = script(root, tmp_path, REPRODUCE=ARENA, METHODS="base sgsd")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert again.stderr == ""  # each command it runs is told there
