"""A run that is asked to end saves first.

Schedulers announce the end of a job by a signal: SIGTERM (Kubernetes, Slurm's scancel and time limit, spot machines),
SIGUSR1 or SIGUSR2 (`sbatch --signal`, Grid Engine, LSF), a person by Ctrl-C. The step under way is finished, a
checkpoint is saved and training ends. A second signal ends the process at once, as if nobody had listened.

transformers' own `enable_jit_checkpoint` is not used: it hears SIGTERM alone, may save within a step, and its ranks do
not agree on which.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopOnSignal(TrainerCallback):
    """Within its context, the first signal makes training save and stop at the end of the step.

    `heard` is then the signal, the same on all ranks whichever of them got it, else None. Signals that the process was
    told to ignore stay ignored, and outside the main thread, where Python takes none, nothing is heard.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.heard: signal.Signals | None = None
        self._here = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {number: old for number, old in handlers.items() if old not in (signal.SIG_IGN, None)}
            for number in self._before:
                signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, old in self._before.items():
            signal.signal(number, old)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._here:
            self.__exit__()
            signal.raise_signal(number)
            return
        self._here = number
        # Not print: a handler may run in the midst of another write to the same stream.
        os.write(2, f"\n{name}: this step is finished and saved, then the run ends; again to end it now\n".encode())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        here = torch.tensor([self._here], device=self.accelerator.device)
        anywhere = int(self.accelerator.gather(here).max())
        if anywhere:
            self.heard = signal.Signals(anywhere)
            control.should_save = control.should_training_stop = True
