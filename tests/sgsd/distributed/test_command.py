"""`torchrun -m sgsd train`: who writes and who speaks, resuming on another number of processes, and how it ends when
one of them does."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from skillbank.store import Bank

from ..conftest import save_tiny
from ..training import make_bank, problems
from .launch import Ended, started, torchrun

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run of three steps of four problems, by as many processes as divide four."""
    rows = [{"id": p.problem_id, "problem": p.problem, "answer": p.answer} for p in problems()]
    (tmp_path / "problems.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = {"source": str(tmp_path / "problems.jsonl")}
    values = {
        "output_dir": str(tmp_path / "run"),
        "model": {"name_or_path": str(save_tiny(tmp_path / "tiny")), "dtype": "float32"},
        "data": data,
        "verifier": {"name": "exact"},
        "bank": {"path": str(make_bank(tmp_path / "bank")), "k": 2, "mode": "random"},
        "ledger": {"placebo_share": 1},
        "rollout": {"max_new_tokens": 6, "max_prompt_tokens": 200},
        "train": {"max_steps": 3, "per_device_batch_size": 1, "gradient_accumulation_steps": 2, "save_every": 2},
        "eval": {"every_steps": 3, "data": data | {"limit": 3}, "sampling": {"temperature": 0, "max_new_tokens": 4}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "config.yaml"


def steps(folder: Path) -> list[int]:
    logs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [log["step"] for log in logs if "loss" in log]


def test_a_run_of_two_processes_goes_on_in_one(config: Path) -> None:
    out = config.parent / "run"
    first = torchrun(2, "-m", "sgsd", "train", str(config), "--json")
    assert first.code == 0, first.err
    told: dict[str, Any] = json.loads(first.out)  # the main process alone prints
    assert (told["processes"], told["wrapper"], told["steps"]) == (2, "DistributedDataParallel", 3)
    assert first.err.count("2 processes, DistributedDataParallel") == 1
    assert first.err.count("step 3/3") == 1
    assert steps(out) == [1, 2, 3]
    assert [point["step"] for point in told["curve"]] == [0, 3]
    about = json.loads((out / "checkpoint-2" / "sgsd.json").read_text())
    assert (about["processes"], about["wrapper"]) == (2, "DistributedDataParallel")
    written = sorted(path.name for path in (out / "rollouts").iterdir())
    assert written == [f"step-00000{step}-rank{rank}.jsonl" for step in (1, 2, 3) for rank in (0, 1)]
    lines = sum(len(path.read_text().splitlines()) for path in (out / "rollouts").iterdir())
    assert lines == 3 * 4
    with Bank.open(config.parent / "bank") as bank:
        measured = bank.stats().usage
        # Each problem has two teachers and a placebo, and a random model is never unverifiable.
        assert measured == 3 * 4 * (2 + 1)

    again = torchrun(2, "-m", "sgsd", "train", str(config))
    refused = [line for line in again.err.splitlines() if line.startswith("sgsd (")]
    assert again.code != 0
    assert len(refused) == 1
    assert "already holds a run" in refused[0]

    more = ["--resume", "--set", "train.max_steps=5", "--set", "train.gradient_accumulation_steps=4", "--json"]
    one = started([sys.executable, "-m", "sgsd", "train", str(config), *more], timeout_s=120)
    assert one.code == 0, one.err
    told = json.loads(one.out)
    assert (told["processes"], told["wrapper"], told["steps"]) == (1, "none", 5)
    assert steps(out) == [1, 2, 3, 4, 5]
    with Bank.open(config.parent / "bank") as bank:
        assert bank.stats().usage == measured + 2 * 4 * (2 + 1)


def test_a_killed_process_ends_the_run(config: Path) -> None:
    out, killed = config.parent / "run", []

    def kill() -> None:
        while not (out / "metrics.jsonl").exists() or not steps(out):
            time.sleep(0.1)
        killed.append(rank_process(1, str(config)))
        os.kill(killed[0], signal.SIGKILL)

    Thread(target=kill, daemon=True).start()
    ended = torchrun(2, "-m", "sgsd", "train", str(config), "--set", "train.max_steps=100000")
    assert killed
    assert ended.code != 0
    assert "Signal 9 (SIGKILL)" in ended.err  # the launcher's word
    assert ended.err.count("Traceback (most recent call last)") == 1  # the launcher's own
    told = [line for line in ended.err.splitlines() if line.startswith("sgsd (")]
    assert len(told) <= 1  # the launcher may stop the other before it has noticed
    assert all("process 0 of 2" in line and "--resume" in line for line in told)


def rank_process(rank: int, argument: str) -> int:
    """The number of the process that a launcher gave `rank`, among those with that argument."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environment, line = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"\0RANK={rank}\0".encode() in b"\0" + environment and argument.encode() in line:
            return int(entry.name)
    raise LookupError(f"no process of rank {rank} with {argument}")


WAITING = """
import sys, time
from sgsd.ranks import together
import torch.distributed as dist
with together(2) as processes:
    if processes.index == 1:
        time.sleep(600)
    dist.barrier()
"""


def test_a_process_that_stands_still_is_waited_for_so_long(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    ended: Ended = torchrun(2, str(tmp_path / "waiting.py"), timeout_s=90)
    assert ended.code != 0
    assert "TrainingError: another of the 2 processes ended or stood still for 2 s" in ended.err
