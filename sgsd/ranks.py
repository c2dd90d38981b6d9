"""The processes of a run: how many a launcher started, what they agree on, which of them speaks.

`torchrun` and `accelerate launch` start one process an accelerator and tell each its number in its environment. Some
launches start fewer than they were asked for, or wrap the model in something else than they were asked for, and say
nothing; `check_launch` and `check_wrapper` make errors of that. Nothing here imports torch before it is needed: the
command line asks `launched()` on its way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from sgsd.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

Value = TypeVar("Value")

_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE")
"""How many processes other launchers say they started."""
_LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "pair closure"),
    *("NCCL", "Watchdog", "remote process exited"),
)
"""What the errors of gloo and NCCL say when another process is gone or stands still."""


@dataclass(frozen=True)
class Processes:
    """This process's number, from 0, and how many there are."""

    index: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """The one that prints and writes what there is once a run."""
        return self.index == 0

    def gather(self, value: Value) -> list[Value]:
        """Each process's value, in their order. Every process must call it."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Value] = [value] * self.count
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through, the others wait and follow. Every process must enter it."""
        if not self.main:
            self.gather(None)
        yield
        if self.main:
            self.gather(None)


ALONE = Processes()


def launched() -> Processes:
    """What the launcher says of this process. Raises ConfigError when it says it half."""
    index, count = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if count is None or int(count) == 1:
        return ALONE
    if index is None:
        raise ConfigError(f"WORLD_SIZE = {count} and RANK is not set: start the run with torchrun or accelerate launch")
    return Processes(int(index), int(count))


@contextmanager
def together(timeout_s: int) -> Iterator[Processes]:
    """The processes of a run, joined: at the end they wait for each other and part.

    `timeout_s` bounds the wait for a process that stands still. Within, what tells of another process's end is turned
    into one TrainingError. Raises ConfigError when the launch is not what it was asked to be. A process group that is
    there already is used, and left as it is.
    """
    check_launch()
    processes = launched()
    if processes.count == 1:
        yield processes
        return
    import torch
    import torch.distributed as dist

    ours = not dist.is_initialized()
    if ours:
        # Here and not by TrainingArguments, which on a CPU would forget the timeout.
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            backend = "cuda:nccl,cpu:gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield processes
    except (RuntimeError, ValueError) as error:
        if any(sign in str(error) for sign in _LOST):
            raise TrainingError(
                f"another of the {processes.count} processes ended or stood still for {timeout_s} s (process "
                f"{processes.index} waited for it): the launcher names it; the run goes on with --resume"
            ) from error
        raise
    if ours:
        processes.gather(None)
        dist.destroy_process_group()


def check_launch() -> None:
    """Raise ConfigError when a launcher was asked for several processes and this one was not told of the others."""
    if os.environ.get("WORLD_SIZE"):
        return
    for name in _COUNTS:
        if int(os.environ.get(name) or 1) > 1:
            raise ConfigError(
                f"{name} = {os.environ[name]}, but WORLD_SIZE is not set: each process would be a run of its own; "
                "let each node start its processes with torchrun"
            )
    # `accelerate launch` sets an address for the processes to meet at when it was asked for several; on a CPU it then
    # starts one.
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and os.environ.get("MASTER_PORT"):
        raise ConfigError(
            "accelerate launch started one process for several on a CPU: use torchrun --nproc_per_node N instead"
        )


def check_wrapper(accelerator: Accelerator, model: nn.Module) -> str:
    """What wraps the model for training: the name of a class, `none` for a single process.

    Raises ConfigError when accelerate knows of fewer processes than there are, when FSDP or DeepSpeed was asked for and
    the model was wrapped in something else (accelerate shards on accelerators alone, and says nothing), or when FSDP's
    first version was.
    """
    wanted = next((name for name in ("FSDP", "DEEPSPEED") if _asked(f"ACCELERATE_USE_{name}")), None)
    kind, there = accelerator.distributed_type.value, launched().count
    if accelerator.num_processes != there:  # each would train on all problems
        raise ConfigError(
            f"the launcher started {there} processes, and accelerate knows of {accelerator.num_processes} on "
            f"{accelerator.device.type}: use torchrun, or a file of configs/accelerate"
        )
    wrapper = type(model).__name__ if kind != "NO" else "none"
    if wanted and kind != wanted:
        raise ConfigError(
            f"the launcher asked for {wanted}, and accelerate trains with {kind} on {accelerator.device.type} "
            f"({wrapper}): use configs/accelerate/ddp.yaml there"
        )
    if kind == "FSDP" and not accelerator.is_fsdp2:
        raise ConfigError("fsdp_version 1 is not supported: set fsdp_version: 2, as configs/accelerate/fsdp2.yaml does")
    return wrapper


def describe(accelerator: Accelerator, model: nn.Module) -> str:
    """ "1 process" or "4 processes, DistributedDataParallel": what a run that was started wrongly shows first."""
    wrapper, count = check_wrapper(accelerator, model), accelerator.num_processes
    return f"{count} process{'es' if count > 1 else ''}{'' if wrapper == 'none' else f', {wrapper}'}"


def deepspeed_asked() -> bool:
    """Whether the launcher asked for DeepSpeed."""
    return _asked("ACCELERATE_USE_DEEPSPEED")


def _asked(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1")


def deepspeed_to_stderr() -> None:
    """DeepSpeed, which accelerate imports where it is installed, logs to what is stdout at that time; stdout is for
    results. Call it before the first use of accelerate."""
    import torch

    if find_spec("deepspeed") is None:
        return
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with redirect_stdout(sys.stderr):
        import_module("deepspeed")


def first_to_tell() -> bool:
    """True for the first process of a launch that asks, and wherever the launcher's store cannot be asked.

    One fault ends all processes, the first with it, the others for want of the first: one message is enough.
    """
    if launched().count == 1:
        return True
    import torch.distributed as dist

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=10),
            wait_for_workers=False,
        )
        return bool(store.add(f"sgsd/told/{attempt}", 1) == 1)
    except (KeyError, ValueError, RuntimeError):
        return True
