"""What the README shows, run as it stands there with fewer steps: the walk on the arena and the Python example."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SHORTER = {"rollout": ["--limit", "40"], "train": ["--set", "train.max_steps=4", "--set", "eval.every_steps=0"]}
SHORTER["eval"] = ["--limit", "50"]


def blocks(root: Path, language: str, heading: str) -> list[str]:
    text = (root / "README.md").read_text(encoding="utf-8")
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


def commands(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("sgsd ")]


@pytest.fixture(scope="module")
def walk(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the arena's commands were typed one after the other."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "configs").symlink_to(root / "configs")
    (block,) = blocks(root, "bash", "Walk through, on the arena")
    typed = commands(block)
    assert [command[1] for command in typed].count("bank") >= 4
    for command in typed:
        run([*command[1:], *SHORTER.get(command[1], [])], folder)
    return folder


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sgsd", *arguments], cwd=folder, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, f"sgsd {shlex.join(arguments)}\n{done.stderr}"
    return done.stdout


def test_the_walk_leaves_what_it_promises(walk: Path) -> None:
    for made in ("past.jsonl", "bank/bank.sqlite", "run/config.yaml", "run/metrics.jsonl", "run/rollouts"):
        assert (walk / made).exists(), made
    assert (walk / "run" / "student" / "model.safetensors").is_file()


def test_the_python_example_runs(root: Path, walk: Path) -> None:
    (code,) = blocks(root, "python", "From Python")
    done = subprocess.run([sys.executable, "-c", code], cwd=walk, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (walk / "student" / "model.safetensors").is_file()


def test_commands_for_a_large_model_are_commands(root: Path) -> None:
    (block,) = blocks(root, "bash", "The same with Qwen3-1.7B and DAPO-Math-17k")
    typed = commands(block)
    assert [command[1] for command in typed] == ["rollout", "bank", "train", "eval"]
    for command in typed:
        group = command[1:3] if command[1] == "bank" else command[1:2]
        known = run([*group, "--help"], root)
        for option in command:
            assert not option.startswith("--") or option in known, f"{shlex.join(command)}: {option}"


def test_the_readme_speaks_of_files_that_exist(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (root / target).exists(), target
