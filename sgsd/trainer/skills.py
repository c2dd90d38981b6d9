"""SGSD as a trainer: skill-pair teachers from a bank, the gated objective, a ledger, maintenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments, set_seed

from sgsd.config import ModelConfig, SGSDConfig
from sgsd.errors import ConfigError
from sgsd.maintain import Maintenance
from sgsd.methods import Retriever, open_bank, sgsd_method
from sgsd.models import check_adapter, default_dtype, load_student, put_on
from sgsd.records import Problem
from sgsd.score import check_scoring
from sgsd.trainer.distillation import DistillationTrainer
from sgsd.verify import Verifier, load_verifier

if TYPE_CHECKING:
    from peft import PeftConfig


class SGSDTrainer(DistillationTrainer):
    """Skill-Conditioned Gated Self-Distillation, in the manner of TRL's trainers.

    `model` is a model or a name, `bank` a bank folder or an open Retriever, `verifier` a Verifier, a name that
    `load_verifier` knows, or None for `method.verifier`; `method` holds rollouts, retrieval, teachers and objective.
    `peft_config` trains an adapter in place of the full weights.
    """

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: TrainingArguments,
        method: SGSDConfig,
        bank: Retriever | str | Path,
        verifier: Verifier | str | None = None,
        train_dataset: Sequence[Problem | Mapping[str, Any]] = (),
        peft_config: PeftConfig | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(model, str):
            settings = ModelConfig(name_or_path=model, dtype=default_dtype())
            model, tokenizer = load_student(settings, training=peft_config is None)
            processing_class = processing_class or tokenizer
        if processing_class is None:
            raise ConfigError("processing_class is None: a model that is given as an object needs its tokenizer")
        if peft_config is not None:
            set_seed(args.seed)  # its weights are drawn
            model = cast(PreTrainedModel, put_on(model, peft_config))
        check_adapter(model)
        check_scoring(cast(PreTrainedModel, model))
        if verifier is None or isinstance(verifier, str):
            verifier = load_verifier(method.verifier.model_copy(update={"name": verifier or method.verifier.name}))
        retriever = open_bank(bank, method.bank, seed=args.seed) if isinstance(bank, str | Path) else bank
        retriever.retrieve([""])  # opens the index: an embedder that does not fit is told now, not in the first step
        super().__init__(
            model=cast(PreTrainedModel, model),
            args=args,
            config=method,
            method=sgsd_method(
                method, retriever, processing_class, run=Path(args.output_dir or "run").name, seed=args.seed
            ),
            maintenance=_maintenance(method, retriever, args, (model, processing_class)),
            verifier=verifier,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )


def _maintenance(
    config: SGSDConfig, retriever: Retriever, args: TrainingArguments, student: tuple[Any, Any]
) -> Maintenance | None:
    if not config.maintain.every_steps:
        return None
    return Maintenance(
        config.maintain,
        retriever,
        output_dir=str(args.output_dir),
        sampling=config.rollout,
        student=student,
    )
