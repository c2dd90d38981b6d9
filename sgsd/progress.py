"""What a run writes and shows while it goes: metrics.jsonl, the rollouts, the accuracy curve, one live line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sgsd.evaluate import EvalResult


class MetricsFile(TrainerCallback):
    """One JSON line a log, flushed. A resumed run drops the lines beyond its checkpoint, so no step stands twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        kept = []
        if state.global_step and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class AccuracyCurve(TrainerCallback):
    """Evaluates before the first step, every `every` steps and after the last.

    `evaluate` runs on the main process alone and draws from a seed of its own, so a run with a curve trains as one without.
    """

    def __init__(
        self, evaluate: Callable[[], EvalResult], every: int, tokens: Callable[[], int], log: Callable[..., None]
    ) -> None:
        self.evaluate, self.every, self.tokens, self.log = evaluate, every, tokens, log
        self.points: list[dict[str, Any]] = []
        self.seconds = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._point(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            wanted = control.should_log
            self._point(state)
            control.should_log = wanted  # logging the point takes the step's own log for done

    def _point(self, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        started = time.monotonic()
        result = self.evaluate()
        self.seconds += time.monotonic() - started
        point = {"step": state.global_step, "tokens": self.tokens(), "accuracy": result.accuracy, "ci": list(result.ci)}
        self.points.append(point)
        self.log({"eval_accuracy": result.accuracy, "eval_low": result.ci[0], "eval_high": result.ci[1]})


class ProgressLine(TrainerCallback):
    """Step, reward, loss, shares, tokens, time left: one line that is rewritten on a terminal, one in `every` elsewhere."""

    def __init__(self, tokens: Callable[[], int], every: int = 10, stream: TextIO | None = None) -> None:
        self.tokens, self.every = tokens, every
        self.stream = stream or sys.stderr
        self.accuracy: float | None = None
        self.started = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        self.accuracy = logs.get("eval_accuracy", self.accuracy)
        if "reward" not in logs:
            return
        live = self.stream.isatty()
        if live or state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.stream.write(f"\r\x1b[2K{self.text(state, logs)}" if live else f"{self.text(state, logs)}\n")
            self.stream.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and self.stream.isatty():
            self.stream.write("\n")

    def text(self, state: TrainerState, logs: dict[str, float]) -> str:
        done = max(1, state.global_step - self.first_step)
        left = (time.monotonic() - self.started) / done * (state.max_steps - state.global_step)
        parts = [
            f"step {state.global_step}/{state.max_steps}",
            f"reward {logs['reward']:.2f}",
            f"loss {logs['loss']:+.4f}",
            f"helpful {logs['helpful']:.0%} harmful {logs['harmful']:.0%} neutral {logs['neutral']:.0%}",
            f"{self.tokens():,} tokens",
        ]
        if self.accuracy is not None:
            parts.append(f"held-out {self.accuracy:.1%}")
        return " | ".join([*parts, f"{int(left // 60)}:{int(left % 60):02d} left"])
