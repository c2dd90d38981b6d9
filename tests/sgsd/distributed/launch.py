"""Starting several processes, and being sure that they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parent / "worker.py"
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def torchrun(ranks: int, *arguments: str, timeout_s: float = 150, **environment: str) -> Ended:
    """`torchrun --nproc_per_node RANKS ARGUMENTS` to its end; after `timeout_s` all its processes are stopped and the
    test fails: torchrun alone would leave its workers behind."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return started([*launcher, *arguments], timeout_s=timeout_s, **environment)


def started(command: list[str], *, timeout_s: float, **environment: str) -> Ended:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=variables, text=True, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Ended(process.returncode, out, err)


def trained(ranks: int, folder: Path, **cases: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What `steps.train` made of each case in `ranks` processes of one launch."""
    named = [f"{name}={json.dumps(options)}" for name, options in cases.items()]
    ended = torchrun(ranks, str(WORKER), str(folder), *named)
    assert ended.code == 0, ended.err[-4000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in cases}
