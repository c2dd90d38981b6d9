"""A signal that one of two processes gets: both save the same step and end; so too when the launcher is told to end."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from sgsd.checkpoint import damage, numbered_checkpoints

from .launch import started
from .test_command import config as config  # the fixture
from .test_command import rank_process, steps

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("told", ["one process", "the launcher"])
def test_all_processes_save_the_step_under_way(config: Path, told: str) -> None:
    out = config.parent / "run"
    number = signal.SIGUSR1 if told == "one process" else signal.SIGTERM

    def tell() -> None:
        while not (out / "metrics.jsonl").exists() or not steps(out):
            time.sleep(0.1)
        worker = rank_process(1, str(config))
        parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(") ")[2].split()[1])
        os.kill(worker if told == "one process" else parent, number)

    Thread(target=tell, daemon=True).start()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = started(
        [
            *launcher,
            "-m",
            "sgsd",
            "train",
            str(config),
            "--set",
            "train.max_steps=100000",
            "--set",
            "train.save_every=90000",
        ],
        timeout_s=150,
    )
    assert ended.code != 0
    ((step, checkpoint),) = numbered_checkpoints(out).items()
    assert damage(checkpoint) is None
    assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert steps(out)[-1] == step
    said = [line for line in ended.err.splitlines() if f"{number.name}: stopped after step {step} of 100000" in line]
    assert len(said) == 1
    if told == "the launcher":
        return
    more = ["--resume", "--set", f"train.max_steps={step + 1}", "--set", "train.gradient_accumulation_steps=4"]
    one = started([sys.executable, "-m", "sgsd", "train", str(config), *more], timeout_s=120)
    assert one.code == 0, one.err
    assert steps(out) == list(range(1, step + 2))
