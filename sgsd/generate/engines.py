"""Which generator a configuration asks for."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, GenerationConfig

from sgsd.config import ModelConfig
from sgsd.errors import ConfigError
from sgsd.generate import Generator
from sgsd.generate.transformers import TransformersGenerator, stop_token_ids
from sgsd.models import default_dtype, load_student, locate_model, tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import EngineConfig, SamplingConfig


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
    stop_ids = stop_token_ids(inner, tokenizer)
    if config.engine == "server":
        from sgsd.generate.server import ServerGenerator
        from sgsd.generate.trl_server import WeightPusher

        pusher = WeightPusher(config.server, student, dtype)
        return ServerGenerator(config.server, tokenizer, stop_ids, pusher=pusher, exact=True, logprobs=True)
    from sgsd.generate.vllm import VllmGenerator

    if not inner.name_or_path:
        raise ConfigError("generation.engine = vllm reads the architecture from a folder or the hub: name the model")
    return VllmGenerator(
        config.vllm,
        inner.name_or_path,
        tokenizer,
        stop_ids,
        student=student,
        revision=getattr(inner.config, "_commit_hash", None),
        dtype=dtype,
        max_model_len=config.vllm.max_model_len or context_tokens(inner.config, drawn_tokens),
        logprobs=True,
    )


@dataclass(frozen=True)
class Drawer:
    """A generator that stands alone, its tokenizer, and how it is to draw."""

    generator: Generator
    tokenizer: PreTrainedTokenizerBase
    sampling: SamplingConfig


def drawing_generator(
    config: EngineConfig, name: str, sampling: SamplingConfig, *, max_new_tokens: int | None = None
) -> Drawer:
    """What draws from the model called `name`, for rollouts and evaluation; servers draw from what they serve.

    Without `max_new_tokens` the length limit is what the model's generation settings say, else that of `sampling`.
    Raises ModelNotFound, ConfigError or ServerError, in one line.
    """
    dtype = default_dtype()
    if config.engine == "transformers":
        student, tokenizer = load_student(ModelConfig(name_or_path=name, dtype=dtype))
        drawing = _with_length(sampling, max_new_tokens, student.generation_config)
        return Drawer(TransformersGenerator(student, tokenizer), tokenizer, drawing)
    path, base = locate_model(name)
    tokenizer = tokenizer_of(path, base)
    settings = _generation_settings(path) or _generation_settings(base)
    drawing = _with_length(sampling, max_new_tokens, settings)
    stop_ids = stop_token_ids(SimpleNamespace(generation_config=_generation_settings(base)), tokenizer)
    if config.engine == "server":
        from sgsd.generate.server import ServerGenerator

        return Drawer(ServerGenerator(config.server, tokenizer, stop_ids), tokenizer, drawing)
    from sgsd.generate.vllm import VllmGenerator

    # An adapter is added to its base in main memory and pushed; the engine has the device for itself.
    adapted = load_student(ModelConfig(name_or_path=name, dtype="float32"), device="cpu")[0] if path != base else None
    wanted = drawing.max_prompt_tokens + drawing.max_new_tokens
    generator = VllmGenerator(
        config.vllm,
        base,
        tokenizer,
        stop_ids,
        student=adapted,
        dtype=dtype,
        max_model_len=config.vllm.max_model_len or context_tokens(AutoConfig.from_pretrained(base), wanted),
    )
    return Drawer(generator, tokenizer, drawing)


def _with_length(sampling: SamplingConfig, given: int | None, settings: Any) -> SamplingConfig:
    limit = given or getattr(settings, "max_new_tokens", None)
    return sampling.model_copy(update={"max_new_tokens": limit}) if limit else sampling


def _generation_settings(path: str) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:  # not every model has some
        return None


def context_tokens(config: Any, wanted: int) -> int:
    """`wanted`, as far as the positions of a model with this configuration reach."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(wanted, positions) if positions else wanted
