"""From a configuration to a finished run folder. What `sgsd train` and `sgsd demo` both call.

The run folder: `config.yaml` (resolved), `metrics.jsonl`, `rollouts/`, `checkpoint-*/`, `student/`. Nothing is written
before model, bank, verifier and problems have been found good.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar

from sgsd.checkpoint import STAGING, no_room_is_an_error, numbered_checkpoints, put_in_place
from sgsd.config import RunConfig, save_config
from sgsd.curve import collapsed, curve_points
from sgsd.errors import ConfigError, SGSDWarning, TrainingStopped
from sgsd.evaluate import EvalResult, evaluate
from sgsd.generate import Engine
from sgsd.methods import Retriever, open_bank
from sgsd.models import merge_adapter
from sgsd.preemption import StopOnSignal
from sgsd.progress import (
    POLARITIES,
    AccuracyCurve,
    MetricsFile,
    ProgressLine,
    TokenBudget,
)
from sgsd.ranks import Processes, check_wrapper, deepspeed_to_stderr, describe, together
from sgsd.recipe import AnyTrainer, make_trainer
from sgsd.records import Problem, Rollout
from sgsd.rollout import bank_guidance, write_past_rollouts
from sgsd.shards import sharded, whole
from sgsd.trainer import DistillationTrainer, draw_seed
from sgsd.verify import Verifier, load_verifier


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    student: Path
    """Folder of the trained student: full weights, or an adapter."""
    merged: Path | None
    """Folder of adapter and base in one, when asked for; full weights are that already."""
    steps: int
    generated_tokens: int
    dropped_problems: int
    curve: tuple[dict[str, Any], ...]
    """Points {step, tokens, accuracy, ci} of the held-out accuracy, those before a resume included."""
    polarity: dict[str, float]
    """Shares of helpful, harmful and neutral teachers over the whole run; empty where a method judges none."""
    collapsed: bool
    """True when eval.stop_on_collapse ended it."""
    flops: float
    """Of students, teachers and rollouts, all ranks (docs/systems.md)."""
    seconds: dict[str, float]
    """Of this call: training, and the curve when there is one."""
    processes: int
    wrapper: str
    """The class that wraps the model for several processes; `none` for one."""


def train_run(
    config: RunConfig,
    problems: Sequence[Problem],
    held_out: Sequence[Problem] = (),
    *,
    resume: bool = False,
    merge: bool = False,
) -> RunResult:
    """Train a student as `config` says on `problems`, with a curve over `held_out` when eval.every_steps asks for one.

    With `resume` it goes on from the folder's newest sound checkpoint, and begins with a warning where there is none.

    Raises ConfigError when the folder already holds a run and `resume` is false; the errors of model, bank and data as
    they come; TrainingError when the loss is no number, no checkpoint is sound or a disk is full; TrainingStopped when
    a signal ended it.
    """
    out = Path(config.output_dir)
    if config.method == "sgsd" and config.bank.path is None:
        raise ConfigError("bank.path is not set: name the bank that `sgsd bank build` made")
    deepspeed_to_stderr()
    # The bar for reading and writing weights is drawn without a terminal too.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    if config.threads:
        torch.set_num_threads(config.threads)
    with no_room_is_an_error("the run's folder", out), ExitStack() as stack:
        processes = stack.enter_context(together(config.train.timeout_s))
        with processes.main_first():  # what it refuses is told before the others wait for it
            if processes.main:
                resume = _goes_on(out, resume)
        resume = processes.gather(resume)[0]
        retriever = None
        if config.reads_bank:
            with processes.main_first():  # it makes an index that is behind its bank, the others read it
                retriever = open_bank(str(config.bank.path), config.bank, seed=config.seed)
                stack.callback(retriever.bank.close)
                retriever.retrieve([""])
        verifier = load_verifier(config.verifier)
        stack.callback(verifier.close)
        trainer = _trainer(config, problems, retriever, verifier)
        if isinstance(trainer.generator, Engine):
            stack.callback(trainer.generator.close)
        if isinstance(trainer, DistillationTrainer):
            stack.callback(trainer.method.close)
        curve = None
        if config.train.max_generated_tokens is not None:
            trainer.add_callback(TokenBudget(lambda: trainer.generated_tokens, config.train.max_generated_tokens))
        if config.eval.every_steps and held_out:
            curve = _curve(config, trainer, held_out, retriever, processes)
            trainer.add_callback(curve)
        stop = stack.enter_context(StopOnSignal(trainer.accelerator))
        trainer.add_callback(stop)
        started = time.monotonic()
        trainer.train(resume_from_checkpoint=resume)
        seconds = {"train": time.monotonic() - started - (curve.seconds if curve else 0.0)}
        step = trainer.state.global_step
        if stop.heard and step < trainer.state.max_steps:
            raise TrainingStopped(
                f"{stop.heard.name}: stopped after step {step} of {trainer.state.max_steps}, saved in "
                f"{out / f'checkpoint-{step}'}; --resume goes on from there",
                stop.heard,
            )
        student, merged = _save(config, trainer, merge)
    totals = trainer.tally.totals if isinstance(trainer, DistillationTrainer) else {}
    points = curve_points(trainer.state.log_history)
    return RunResult(
        student=student,
        merged=merged,
        steps=trainer.state.global_step,
        generated_tokens=trainer.generated_tokens,
        dropped_problems=trainer.dropped_problems,
        curve=points,
        collapsed=config.eval.stop_on_collapse and collapsed([point["accuracy"] for point in points]),
        flops=trainer.state.total_flos,
        polarity={key: totals[key] / max(1.0, totals["judged"]) for key in POLARITIES if key in totals},
        seconds={**seconds, **({"curve": curve.seconds} if curve else {})},
        processes=processes.count,
        wrapper=check_wrapper(trainer.accelerator, trainer.model_wrapped),
    )


def _goes_on(out: Path, resume: bool) -> bool:
    """Whether the run goes on from a checkpoint. With `resume` it begins where there is none, so that every start of a
    job that is requeued has the same command. Raises ConfigError where beginning would overwrite something."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"output_dir {out} is a file: name a folder")
    if numbered_checkpoints(out):
        if not resume:
            raise ConfigError(f"{out} already holds a run: add --resume to go on with it, or set another output_dir")
        return True
    if (out / "student").exists():
        raise ConfigError(f"{out} holds a student and no checkpoint to go on from: set another output_dir")
    if resume:
        warnings.warn(f"{out} holds no checkpoint to go on from: the run begins", SGSDWarning, stacklevel=2)
    elif (out / "metrics.jsonl").exists():
        raise ConfigError(
            f"{out} holds a run that ended before its first checkpoint: add --resume to begin it anew, or set another "
            "output_dir"
        )
    return False


def _trainer(
    config: RunConfig, problems: Sequence[Problem], retriever: Retriever | None, verifier: Verifier
) -> AnyTrainer:
    """The trainer, and what it leaves in the run's folder and on the screen."""
    trainer = make_trainer(config, problems, retriever, verifier)
    trainer.on_rollouts = _rollout_writer(config, trainer)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Folder(config, trainer.accelerator.wait_for_everyone))
    trainer.add_callback(MetricsFile(Path(config.output_dir) / "metrics.jsonl"))
    trainer.add_callback(
        ProgressLine(lambda: trainer.generated_tokens, lambda: describe(trainer.accelerator, trainer.model_wrapped))
    )
    return trainer


class _Folder(TrainerCallback):
    """Makes the run folder ready once training begins, when a checkpoint to go on from has been accepted too: writes
    the resolved configuration, removes the rollouts of steps that the checkpoint does not know."""

    def __init__(self, config: RunConfig, wait: Callable[[], None]) -> None:
        self.config, self.wait = config, wait

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        out = Path(self.config.output_dir)
        if state.is_world_process_zero:
            save_config(self.config, out / "config.yaml")
            for path in (out / "rollouts").glob("step-*"):  # of all ranks, whose number may have changed
                if int(path.name[5:11]) > state.global_step:
                    path.unlink()
        self.wait()


def _rollout_writer(config: RunConfig, trainer: Trainer) -> Callable[[int, Sequence[Rollout]], None]:
    """Writes `rollouts/step-N.jsonl`, one file a rank. Ids tell the run, the step and the rank apart."""
    rank = trainer.args.process_index
    suffix = f"-rank{rank}" if trainer.args.world_size > 1 else ""

    def write(step: int, rollouts: Sequence[Rollout]) -> None:
        write_past_rollouts(
            Path(config.output_dir) / "rollouts" / f"step-{step:06d}{suffix}.jsonl",
            rollouts,
            model=f"{config.output_dir}@{step - 1}",
            sampling=config.rollout,
            seed=draw_seed(config.seed, step - 1, rank),
            guided=config.skills_in_prompt,
            with_tokens=True,
        )

    return write


def _curve(
    config: RunConfig,
    trainer: AnyTrainer,
    held_out: Sequence[Problem],
    retriever: Retriever | None,
    processes: Processes,
) -> AccuracyCurve:
    def point() -> EvalResult:
        if isinstance(trainer.generator, Engine) and sharded(trainer.student):
            raise ConfigError(
                f"eval.every_steps = {config.eval.every_steps}: each process draws its own share, but a student in "
                f"shards is pushed to generation.engine {config.generation.engine} by all of them together, and they "
                "would wait for ever; set it to 0 and measure checkpoints with `sgsd eval`"
            )
        with trainer.accelerator.autocast(), whole(trainer.model_wrapped):
            return evaluate(
                trainer.generator,
                trainer.tokenizer,
                held_out,
                trainer.verifier,
                config.eval,
                truncated=config.verifier.truncated,
                seed=config.seed,
                guidance=bank_guidance(retriever) if config.eval.with_bank and retriever else None,
                processes=processes,
            )

    return AccuracyCurve(
        point,
        config.eval.every_steps,
        lambda: trainer.generated_tokens,
        trainer.log,
        stop_on_collapse=config.eval.stop_on_collapse,
    )


def _save(config: RunConfig, trainer: AnyTrainer, merge: bool) -> tuple[Path, Path | None]:
    """The student's folder, and the merged one when it is asked for: each whole, in exchange for that of an earlier end
    of this run. The main process writes, the others wait."""
    student = Path(config.output_dir) / "student"
    staged = student.parent / STAGING
    if config.model.lora is None and not sharded(trainer.student):  # shards are saved in the dtype of their wrapper
        trainer.student.to(getattr(torch, config.model.dtype))  # trained in float32 under mixed precision
    trainer.save_model(str(staged / student.name))
    trainer.accelerator.wait_for_everyone()
    merged = None
    if merge:
        merged = Path(f"{student}-merged") if config.model.lora is not None else student
    if trainer.is_world_process_zero():
        put_in_place(staged / student.name, student)
        if merged is not None and merged != student:
            merge_adapter(student, staged / merged.name)
            GenerationConfig.from_pretrained(student).save_pretrained(staged / merged.name)
            put_in_place(staged / merged.name, merged)
        shutil.rmtree(staged)
    trainer.accelerator.wait_for_everyone()
    return student, merged
