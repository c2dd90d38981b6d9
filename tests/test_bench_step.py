"""The benchmark of a training step runs, and its three ways are one step: no time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHAPE = {"vocab": 500, "hidden": 32, "layers": 2, "heads": 2, "kv-heads": 1, "head-dim": 16, "completion": 12}
SHAPE |= {"prompt": 5, "teacher-prompt": 11, "spread": 4, "teachers": 3, "batch": 2, "rounds": 1, "threads": 1}
TINY = [word for name, value in SHAPE.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
def test_the_benchmark_of_a_step() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench_step.py"), *TINY, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    result = json.loads(done.stdout[done.stdout.index("{") :])
    assert result["agree"]["float64"] < 1e-8
    assert result["agree"]["float32"] < 1e-3
    assert {"trainer_s", "restated_s", "floor_s", "speedup", "over_floor"} <= result.keys()
    assert result["peak_mb"].keys() == {"trainer", "restated", "finetune"}
    assert result["speedup"] == pytest.approx(result["restated_s"] / result["trainer_s"])
    assert all(megabytes > 0 for megabytes in result["peak_mb"].values())
