"""Starting several processes, and being sure that they end."""

from __future__ import annotations

import json
import os
import signal
import socket
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


def accelerate(name: str, ranks: int, *arguments: str, timeout_s: float = 150) -> Ended:
    """`accelerate launch --config_file configs/accelerate/NAME.yaml ARGUMENTS`, in `ranks` processes on the CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    options = ["--config_file", str(ROOT / "configs" / "accelerate" / f"{name}.yaml"), "--num_processes", str(ranks)]
    return started([*launcher, *options, "--main_process_port", str(port), *arguments], timeout_s=timeout_s)


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


def trained(ranks: int, folder: Path, config: str | None = None, **cases: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What `steps.train` made of each case in `ranks` processes of one launch, by accelerate when `config` names one of
    its configurations."""
    what = [str(WORKER), str(folder), *(f"{name}={json.dumps(options)}" for name, options in cases.items())]
    ended = accelerate(config, ranks, *what) if config else torchrun(ranks, *what)
    assert ended.code == 0, ended.err[-4000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in cases}
