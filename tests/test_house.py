"""The house around the code: targets, version, data files, configurations, set-up, the help of every command."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

import sgsd
from sgsd.arena.settings import arena_config
from sgsd.cli import app
from sgsd.config import load_config

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
COMMANDS = {
    "demo", "rollout", "train", "eval",
    "bank build", "bank list", "bank show", "bank search", "bank stats", "bank retrieve", "bank edit", "bank disable",
    "bank enable", "bank undo",
}  # fmt: skip


def commands() -> Iterator[tuple[str, str]]:
    """Name and help of every command, such as `bank show`; an example may stand in the docstring or the epilog."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        leaves = {f"{name} {inner}": leaf for inner, leaf in getattr(command, "commands", {}).items()} or {
            name: command
        }
        for path, leaf in leaves.items():
            yield path, f"{leaf.help}\n{leaf.epilog}"


def test_every_promised_command_is_there() -> None:
    assert sorted(COMMANDS - {name for name, _ in commands()}) == []


@pytest.mark.parametrize(("name", "help_text"), [pytest.param(*command, id=command[0]) for command in commands()])
def test_every_command_shows_an_example(name: str, help_text: str) -> None:
    assert f"sgsd {name}" in help_text, f"give `sgsd {name}` an example in its docstring"


def is_spoken_of(name: str) -> bool:
    """By its whole name in some document; a command of the bank also in a table or a list of the page on curation."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    own = name.removeprefix("bank ")
    curation = (ROOT / "docs" / "curation.md").read_text(encoding="utf-8")
    return any(re.search(rf"sgsd {name}(?![\w-])", page.read_text(encoding="utf-8")) for page in pages) or (
        own != name and bool(re.search(rf"`{own}[` ]", curation))
    )


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_has_a_word_in_the_documents(name: str) -> None:
    assert is_spoken_of(name), f"no document speaks of `sgsd {name}`"


def test_a_command_without_a_word_would_be_noticed() -> None:
    assert [name for name in ("knit", "bank knit", "bank sho", "trai") if is_spoken_of(name)] == []


@pytest.mark.parametrize(
    "target", ["demo", "test", "test-fast", "test-vllm", "install", "install-vllm", "lint", "types", "check", "clean"]
)
def test_make_knows(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_one_version() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert sgsd.__version__ == declared == importlib.metadata.version("sgsd")
    newest = re.search(r"^## (?:\[)?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == declared


def test_the_demo_brings_its_model() -> None:
    base = importlib.resources.files("sgsd") / "arena" / "data" / "base"
    names = {path.name for path in base.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    size = sum(file.stat().st_size for file in (ROOT / "sgsd/arena/data").rglob("*") if file.is_file())
    assert size <= 4_000_000


def test_configurations_are_there() -> None:
    names = {file.name for file in CONFIGS}
    assert "arena.yaml" in names
    assert "qwen3-1.7b-dapo.yaml" in names


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_configuration_loads(file: Path) -> None:
    load_config(file)


def test_the_arenas_configuration_is_the_demos() -> None:
    """configs/arena.yaml writes out what `sgsd demo` trains with; only the folders are its own."""
    written, demo = load_config(ROOT / "configs" / "arena.yaml"), arena_config("easy")
    folders = {"output_dir": written.output_dir, "bank": demo.bank.model_copy(update={"path": written.bank.path})}
    assert written == demo.model_copy(update=folders)


def set_up(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the set-up script in `folder`."""
    (folder / "scripts").mkdir(exist_ok=True)
    for name in ("setup_env.sh", "check_env.py"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts")
    command = [str(folder / "scripts" / "setup_env.sh"), ".venv"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_set_up_without_python(tmp_path: Path) -> None:
    done = set_up(tmp_path, PYTHON="no-such-python")
    assert done.returncode == 1
    assert "there is no 'no-such-python': install Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_set_up_with_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\ncase "$2" in *exit*) exit 1;; *) echo 3.8;; esac\n', encoding="utf-8")
    old.chmod(0o755)
    done = set_up(tmp_path, PYTHON=str(old))
    assert done.returncode == 1
    assert "is Python 3.8: install Python 3.11 or newer" in done.stderr


@pytest.mark.parametrize("content", ["", "#!/bin/sh\nexit 1\n"], ids=["empty interpreter", "interpreter that fails"])
def test_set_up_does_not_believe_a_half_made_environment(tmp_path: Path, content: str) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(content, encoding="utf-8")
    python.chmod(0o755)
    done = set_up(tmp_path, PYTHON="no-such-python")  # so it fails at the point where it would make it anew
    assert done.returncode == 1
    assert "there is no 'no-such-python'" in done.stderr


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="the tests do not run in a virtual environment")
def test_this_environment_is_sound() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "check_env.py")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("sound\n", "")


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        pytest.param("x = 1\n", ["--whole"], "", id="whole"),
        pytest.param("x = 2 + 2\n", [], "", id="edited"),
        pytest.param("", ["--whole"], "a.py is cut short", id="interrupted"),
        pytest.param(None, [], "a.py is missing", id="missing"),
    ],
)
def test_a_package_that_only_looks_installed_is_noticed(
    tmp_path: Path, content: str | None, options: list[str], complaint: str
) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    (packages,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    (packages / "a-1.dist-info").mkdir()
    (packages / "a-1.dist-info" / "METADATA").write_text("Name: a\nVersion: 1\n", encoding="utf-8")
    (packages / "a-1.dist-info" / "RECORD").write_text("a.py,,6\na-1.dist-info/RECORD,,\n", encoding="utf-8")
    if content is not None:
        (packages / "a.py").write_text(content, encoding="utf-8")
    check = [str(tmp_path / "env" / "bin" / "python"), str(ROOT / "scripts" / "check_env.py"), *options]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.stdout == ("" if complaint else "sound\n")
    assert complaint in done.stderr
    assert bool(done.returncode) == bool(complaint)
