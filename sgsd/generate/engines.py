"""Which generator a configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sgsd.errors import ConfigError
from sgsd.generate import Generator
from sgsd.generate.transformers import TransformersGenerator, stop_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import EngineConfig


def training_generator(
    config: EngineConfig, student: Any, tokenizer: PreTrainedTokenizerBase, *, dtype: str, drawn_tokens: int
) -> Generator:
    """What draws the rollouts of a run, from the student's weights of the moment.

    `student` is the model, with or without an adapter; `dtype` is what an engine computes in, `drawn_tokens` the most
    that a prompt and its completion have together.

    Raises ConfigError when the engine cannot be had.
    """
    if config.engine == "transformers":
        return TransformersGenerator(student, tokenizer)
    inner = student.get_base_model() if hasattr(student, "get_base_model") else student
    from sgsd.generate.vllm import VllmGenerator

    if not inner.name_or_path:
        raise ConfigError("generation.engine = vllm reads the architecture from a folder or the hub: name the model")
    return VllmGenerator(
        config.vllm,
        inner.name_or_path,
        tokenizer,
        stop_token_ids(inner, tokenizer),
        student=student,
        revision=getattr(inner.config, "_commit_hash", None),
        dtype=dtype,
        max_model_len=config.vllm.max_model_len or context_tokens(inner, drawn_tokens),
        logprobs=True,
    )


def context_tokens(model: Any, wanted: int) -> int:
    """`wanted`, as far as the model's positions reach."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(wanted, positions) if positions else wanted
