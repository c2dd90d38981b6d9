"""From a configuration to a trainer: the student, the training settings, and what the method wants besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import TrainingArguments, set_seed

from sgsd.config import RunConfig
from sgsd.errors import ConfigError
from sgsd.methods import Retriever, opd_method, opsd_method
from sgsd.models import load_student, mixed_precision
from sgsd.ranks import deepspeed_asked
from sgsd.records import Problem
from sgsd.rollout import GuidanceSource, bank_guidance
from sgsd.score import check_scoring
from sgsd.trainer import DistillationTrainer, SGSDTrainer
from sgsd.verify import Verifier

if TYPE_CHECKING:
    from sgsd.baselines import GroupTrainer, TextTrainer

AnyTrainer: TypeAlias = "DistillationTrainer | GroupTrainer | TextTrainer"


def make_trainer(
    config: RunConfig, problems: Sequence[Problem], retriever: Retriever | None, verifier: Verifier
) -> AnyTrainer:
    """The trainer of `config.method`; `retriever` is what sgsd and skills in the prompt need.

    Raises ConfigError when nothing of the student is trained; the errors of models and data as they come.
    """
    set_seed(config.seed)  # a new adapter's weights are drawn
    model, tokenizer = load_student(config.model, training=True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"nothing to train: {config.model.name_or_path} is an adapter, set model.lora to go on with it"
        )
    guidance = bank_guidance(retriever) if config.skills_in_prompt and retriever is not None else None
    what = (model, training_settings(config), config, verifier, problems, tokenizer)
    if config.method in ("grpo", "sft"):
        return _of_trl(what, guidance)
    return _distillation(what, retriever, guidance)


_What = tuple[Any, dict[str, Any], RunConfig, Verifier, Sequence[Problem], Any]
"""Student, training settings, configuration, verifier, problems, tokenizer."""


def _distillation(what: _What, retriever: Retriever | None, guidance: GuidanceSource | None) -> DistillationTrainer:
    model, settings, config, verifier, problems, tokenizer = what
    common: dict[str, Any] = {
        "model": model,
        "args": TrainingArguments(**settings),
        "verifier": verifier,
        "train_dataset": problems,
        "processing_class": tokenizer,
    }
    if config.method == "sgsd":
        assert retriever is not None  # bank.path is set
        return SGSDTrainer(method=config, bank=retriever, **common)
    check_scoring(model)
    method = opsd_method(config, tokenizer) if config.method == "opsd" else opd_method(config, tokenizer)
    return DistillationTrainer(config=config, method=method, guidance=guidance, **common)


def _of_trl(what: _What, guidance: GuidanceSource | None) -> GroupTrainer | TextTrainer:
    from sgsd.baselines import GroupTrainer, TextTrainer

    if what[2].method == "grpo":
        return GroupTrainer(*what, guidance=guidance)
    return TextTrainer(*what)


def training_arguments(config: RunConfig) -> TrainingArguments:
    return TrainingArguments(**training_settings(config))


def training_settings(config: RunConfig) -> dict[str, Any]:
    """The configuration's `train` section in the words of transformers.TrainingArguments."""
    train = config.train
    # transformers 5.23 renamed it
    known = {field.name for field in fields(TrainingArguments)}
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    values: dict[str, Any] = {checkpointing: train.gradient_checkpointing}
    return dict(
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
        bf16=mixed_precision(config.model) and config.model.dtype == "bfloat16",
        fp16=mixed_precision(config.model) and config.model.dtype == "float16",
        # DeepSpeed knows of a CPU by itself (DS_ACCELERATOR=cpu), and is not used where accelerate is told of one.
        use_cpu=not torch.cuda.is_available() and not deepspeed_asked(),
        ddp_backend="gloo" if deepspeed_asked() and not torch.cuda.is_available() else None,
        ddp_timeout=train.timeout_s,
        ddp_find_unused_parameters=False,  # each pass uses all trained weights: `GatedObjective.loss`
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number ends the run; it is not averaged away
        save_steps=train.save_every,
        save_total_limit=train.keep_checkpoints,
        report_to=list(train.report_to) or "none",
        seed=config.seed,
        disable_tqdm=True,
        **values,
    )
