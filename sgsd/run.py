"""From a configuration to a finished run folder. What `sgsd train` and `sgsd demo` both call.

The run folder: `config.yaml` (resolved), `metrics.jsonl`, `rollouts/`, `checkpoint-*/`, `student/`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import disable_progress_bar

from sgsd.config import RunConfig, save_config
from sgsd.errors import ConfigError
from sgsd.evaluate import EvalResult, evaluate
from sgsd.generate import Generator
from sgsd.methods import open_bank
from sgsd.models import load_student, merge_adapter
from sgsd.progress import AccuracyCurve, MetricsFile, ProgressLine
from sgsd.records import Problem, Rollout
from sgsd.rollout import bank_guidance, write_past_rollouts
from sgsd.trainer import SGSDTrainer
from sgsd.verify import Verifier, load_verifier

if TYPE_CHECKING:
    from skillbank.retrieve import Retriever


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    student: Path
    """Folder of the trained student: full weights, or an adapter."""
    merged: Path | None
    """Folder of adapter and base in one, when asked for."""
    steps: int
    generated_tokens: int
    dropped_problems: int
    curve: tuple[dict[str, Any], ...]
    """Points {step, tokens, accuracy, ci} of the held-out accuracy."""
    polarity: dict[str, float]
    """Shares of helpful, harmful and neutral teachers over the whole run."""
    seconds: dict[str, float]


def train_run(
    config: RunConfig,
    problems: Sequence[Problem],
    held_out: Sequence[Problem] = (),
    *,
    resume: bool = False,
    merge: bool = False,
) -> RunResult:
    """Train a student as `config` says on `problems`, with a curve over `held_out` when eval.every_steps asks for one.

    Raises ConfigError when the folder already holds a run and `resume` is false, or has none and it is true; the errors
    of model, bank and data as they come.
    """
    out = Path(config.output_dir)
    checkpoint = _checkpoint(out, resume)
    if config.bank.path is None:
        raise ConfigError("bank.path is not set: name the bank that `sgsd bank build` made")
    # The bar for reading and writing weights is drawn without a terminal too.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    if config.threads:
        torch.set_num_threads(config.threads)
    retriever = open_bank(config.bank.path, config.bank, seed=config.seed)
    with retriever.bank:
        model, tokenizer = load_student(config.model)
        verifier = load_verifier(config.verifier)
        save_config(config, out / "config.yaml")
        trainer = SGSDTrainer(
            model=model,
            args=training_arguments(config),
            method=config,
            bank=retriever,
            verifier=verifier,
            train_dataset=problems,
            processing_class=tokenizer,
            on_rollouts=lambda step, rollouts: _write_rollouts(out, config, step, rollouts),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(MetricsFile(out / "metrics.jsonl"))
        trainer.add_callback(ProgressLine(lambda: trainer.generated_tokens))
        curve = None
        if config.eval.every_steps and held_out:
            curve = _curve(config, trainer, verifier, held_out, retriever)
            trainer.add_callback(curve)
        started = time.monotonic()
        trainer.train(resume_from_checkpoint=checkpoint)
        seconds = {"train": time.monotonic() - started - (curve.seconds if curve else 0.0)}
        student = out / "student"
        trainer.save_model(str(student))
        verifier.close()
    merged = merge_adapter(student, out / "student-merged") if merge else None
    totals = trainer.totals
    judged = max(1, totals["judged"])
    return RunResult(
        student=student,
        merged=merged,
        steps=trainer.state.global_step,
        generated_tokens=trainer.generated_tokens,
        dropped_problems=trainer.dropped_problems,
        curve=tuple(curve.points) if curve else (),
        polarity={key: totals[key] / judged for key in ("helpful", "harmful", "neutral")},
        seconds={**seconds, **({"curve": curve.seconds} if curve else {})},
    )


def training_arguments(config: RunConfig) -> TrainingArguments:
    """The configuration's `train` section in transformers' words."""
    train = config.train
    on_gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=config.output_dir,
        max_steps=train.max_steps,
        per_device_train_batch_size=train.per_device_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup_steps,
        max_grad_norm=train.max_grad_norm,
        weight_decay=train.weight_decay,
        adam_beta2=train.adam_beta2,
        activation_checkpointing=train.gradient_checkpointing,
        bf16=on_gpu and config.model.dtype == "bfloat16",
        fp16=on_gpu and config.model.dtype == "float16",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number ends the run; it is not averaged away
        save_steps=train.save_every,
        save_total_limit=train.keep_checkpoints,
        report_to=list(train.report_to) or "none",
        seed=config.seed,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _checkpoint(out: Path, resume: bool) -> str | None:
    """The checkpoint to go on from."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"output_dir {out} is a file: name a folder")
    last = get_last_checkpoint(str(out)) if out.is_dir() else None  # type: ignore[no-untyped-call]
    if resume and last is None:
        raise ConfigError(f"nothing to resume: {out} holds no checkpoint")
    if not resume and (last is not None or (out / "metrics.jsonl").exists()):
        raise ConfigError(f"{out} already holds a run: add --resume to go on with it, or set another output_dir")
    return last


def _curve(
    config: RunConfig, trainer: SGSDTrainer, verifier: Verifier, held_out: Sequence[Problem], retriever: Retriever
) -> AccuracyCurve:
    generator: Generator = trainer.generator

    def point() -> EvalResult:
        return evaluate(
            generator,
            trainer.tokenizer,
            held_out,
            verifier,
            config.eval,
            truncated=config.verifier.truncated,
            seed=config.seed,
            guidance=bank_guidance(retriever) if config.eval.with_bank else None,
        )

    return AccuracyCurve(point, config.eval.every_steps, lambda: trainer.generated_tokens, trainer.log)


def _write_rollouts(out: Path, config: RunConfig, step: int, rollouts: Sequence[Rollout]) -> None:
    write_past_rollouts(
        out / "rollouts" / f"step-{step:06d}.jsonl",
        rollouts,
        model=config.model.name_or_path,
        sampling=config.rollout,
        seed=step,
    )
