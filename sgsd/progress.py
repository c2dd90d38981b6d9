"""What a run counts, writes and shows while it goes: sums, metrics.jsonl, the accuracy curve, one live line."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import ENOSPC
from pathlib import Path
from typing import Any, TextIO

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sgsd.curve import collapsed, curve_points
from sgsd.evaluate import EvalResult
from sgsd.methods.gap import EngineGap
from sgsd.teachers import Example

COUNTED = (
    *("examples", "correct", "wrong", "unverifiable", "truncated", "generated_tokens"),
    *("without_teachers", "teachers_too_long", "engine_gap_nats", "engine_tokens"),
    *(f"seconds/{phase}" for phase in ("rollout", "retrieve", "teachers", "student", "ledger")),
)
"""The sums of a step that every method has; its objective adds its own."""


POLARITIES = ("helpful", "harmful", "neutral")
"""Shares of judged teachers, where a method judges them."""


def metrics_of(sums: Mapping[str, float], highest_gap_nats: float = 0.0) -> dict[str, float]:
    """What the log shows of a step's sums: counts and seconds as they are, the rest as means and shares in [0, 1].

    `engine_gap_mean` and `engine_gap_max`, in nats, are there where an engine told the log-probs that it drew from.
    """
    examples = max(1.0, sums["examples"])
    counts = ("examples", "generated_tokens", "unverifiable", "without_teachers", "teachers_too_long")
    metrics = {key: sums[key] for key in (*counts, *(key for key in COUNTED if key.startswith("seconds/")))}
    if sums["engine_tokens"]:
        metrics["engine_gap_mean"] = sums["engine_gap_nats"] / sums["engine_tokens"]
        metrics["engine_gap_max"] = highest_gap_nats
    return metrics | {
        "reward": sums["correct"] / examples,
        "truncated": sums["truncated"] / examples,
        "completion_length": sums["generated_tokens"] / examples,
    }


class Tally:
    """Counts of one rank since the last log, and of the whole run and all ranks up to it.

    `counted` are the sums that the objective adds to COUNTED, `metrics` what the log shows of them.
    """

    def __init__(
        self,
        counted: Sequence[str] = (),
        metrics: Callable[[Mapping[str, float]], dict[str, float]] = lambda sums: {},
    ) -> None:
        self.names = (*COUNTED, *counted)
        self.metrics = metrics
        self.sums = dict.fromkeys(self.names, 0.0)
        self.totals = dict.fromkeys(self.names, 0.0)
        self.highest_gap_nats = 0.0

    def add(self, counts: Mapping[str, float]) -> None:
        for key, count in counts.items():
            self.sums[key] += count

    def add_gap(self, gap: EngineGap | None) -> None:
        """Count a micro-batch's distance between engine and trainer."""
        if gap is not None:
            self.add({"engine_gap_nats": gap.total_nats, "engine_tokens": gap.tokens})
            self.highest_gap_nats = max(self.highest_gap_nats, gap.highest_nats)

    def add_window(self, examples: Sequence[Example], teachers_too_long: int) -> None:
        """Count the rollouts of an optimiser step."""
        self.add({"examples": len(examples), "teachers_too_long": teachers_too_long})
        for example in examples:
            self.add(
                {
                    example.rollout.verdict.outcome: 1,
                    "generated_tokens": len(example),
                    "truncated": example.rollout.completion.truncated,
                    "without_teachers": not example.teachers,
                }
            )

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.add({f"seconds/{phase}": time.monotonic() - started})

    def close(
        self,
        over_ranks: Callable[[Mapping[str, float]], Mapping[str, float]],
        highest: Callable[[float], float] = float,
    ) -> dict[str, float]:
        """The metrics of what was counted since the last time, over all ranks; counting starts anew.

        `over_ranks` adds up, `highest` takes the maximum; every rank calls both.
        """
        sums = over_ranks(self.sums)
        gap_nats = highest(self.highest_gap_nats) if sums["engine_tokens"] else 0.0
        self.highest_gap_nats = 0.0
        self.totals = {key: self.totals[key] + sums[key] for key in self.names}
        self.sums = dict.fromkeys(self.names, 0.0)
        return metrics_of(sums, gap_nats) | self.metrics(sums)


class AfterStep(TrainerCallback):
    """Calls `begin()` before the first optimiser step, `step(n)` after each, before it is logged and saved, and `end()`
    after the last."""

    def __init__(self, begin: Callable[[], None], step: Callable[[int], None], end: Callable[[], None]) -> None:
        self.begin, self.step, self.end = begin, step, end

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.step(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.end()


class MetricsFile(TrainerCallback):
    """One JSON line a log, on the disk before the next step. A resumed run drops what lies beyond its checkpoint, so no
    step stands twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.tmp")
        part.write_text("".join(self._kept(state.global_step)), encoding="utf-8")
        part.replace(self.path)

    def _kept(self, step: int) -> list[str]:
        """The lines up to the checkpoint: not a summary of an end that was none, nor a line that a crash spoilt."""
        if step == 0 or not self.path.is_file():
            return []
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines(True):
            with suppress(ValueError):
                log = json.loads(line)
                if line.endswith("\n") and log["step"] <= step and "train_runtime" not in log:
                    kept.append(line)
        return kept

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
        line = json.dumps({"step": state.global_step, **logs}).encode() + b"\n"
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) < len(line):  # what a disk takes of a line before it is full
                    raise OSError(ENOSPC, os.strerror(ENOSPC), str(self.path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


class AccuracyCurve(TrainerCallback):
    """Evaluates before the first step, every `every` steps and after the last.

    `evaluate` runs on every process, each with its share of the problems, and draws from seeds of its own: a run with a
    curve trains as one without. Points are logged by the main process, so that the trainer's own history keeps them
    over a resume.
    """

    def __init__(
        self,
        evaluate: Callable[[], EvalResult],
        every: int,
        tokens: Callable[[], int],
        log: Callable[..., None],
        *,
        stop_on_collapse: bool = False,
    ) -> None:
        self.evaluate, self.every, self.tokens, self.log = evaluate, every, tokens, log
        self.stop_on_collapse = stop_on_collapse
        self.seconds = 0.0
        self._accuracies: list[float] = []  # on every process, as all have to end together; only one has the logs

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._accuracies = [point["accuracy"] for point in curve_points(state.log_history)]
        if state.global_step == 0:
            self._point(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps or control.should_training_stop
        if state.global_step % self.every == 0 or last:
            self._point(state, control)
            if self.stop_on_collapse and collapsed(self._accuracies):
                control.should_training_stop = control.should_save = True

    def _point(self, state: TrainerState, control: TrainerControl) -> None:
        started = time.monotonic()
        result = self.evaluate()
        self.seconds += time.monotonic() - started
        self._accuracies.append(result.accuracy)
        if not state.is_world_process_zero:
            return
        wanted = control.should_log
        low, high = result.ci
        self.log(
            {"eval_accuracy": result.accuracy, "eval_low": low, "eval_high": high, "eval_tokens": float(self.tokens())}
        )
        control.should_log = wanted  # logging the point takes the step's own log for done


class TokenBudget(TrainerCallback):
    """Ends training with the step in which the run's generated tokens reach `limit`. Stands before the curve, which
    then adds its last point."""

    def __init__(self, tokens: Callable[[], int], limit: int) -> None:
        self.tokens, self.limit = tokens, limit

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.tokens() >= self.limit:
            control.should_training_stop = control.should_save = True


class ProgressLine(TrainerCallback):
    """Step, reward, loss, shares, tokens, time left: one line, rewritten on a terminal, printed every `every` steps
    elsewhere. Before the first step, what `launch` says of the processes."""

    def __init__(
        self, tokens: Callable[[], int], launch: Callable[[], str], every: int = 10, stream: TextIO | None = None
    ) -> None:
        self.tokens, self.launch, self.every = tokens, launch, every
        self.stream = stream or sys.stderr
        self.accuracy: float | None = None
        self.started = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            self.stream.write(f"{self.launch()}\n")
            if state.global_step:
                self.stream.write(f"going on from {args.output_dir}/checkpoint-{state.global_step}\n")
            self.stream.flush()

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
        if "loss" not in logs:
            return
        text = self.text(state, logs)
        if self.stream.isatty():
            width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be rewritten
            self.stream.write(f"\r\x1b[2K{text[:width]}")
        elif state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.stream.write(f"{text}\n")
        self.stream.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and self.stream.isatty():
            self.stream.write("\n")

    def text(self, state: TrainerState, logs: Mapping[str, float]) -> str:
        """The line of a step."""
        done = max(1, state.global_step - self.first_step)
        left = (time.monotonic() - self.started) / done * (state.max_steps - state.global_step)
        parts = [
            f"step {state.global_step}/{state.max_steps}",
            *([f"reward {logs['reward']:.2f}"] if "reward" in logs else []),
            f"loss {logs['loss']:+.4f}",
            *([" ".join(f"{name} {logs[name]:.0%}" for name in POLARITIES)] if "helpful" in logs else []),
            f"{self.tokens():,} tokens",
        ]
        if self.accuracy is not None:
            parts.append(f"held-out {self.accuracy:.1%}")
        return " | ".join([*parts, f"{int(left // 60)}:{int(left % 60):02d} left"])
