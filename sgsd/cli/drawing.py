"""What `sgsd rollout` and `sgsd eval` share: the student that a name stands for, ready to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import SamplingConfig
    from sgsd.generate import Generator


def open_student(model: str) -> tuple[Generator, PreTrainedTokenizerBase, int | None]:
    """A generator over the student, its tokenizer, and the completion length that its generation settings suggest.

    Raises ModelNotFound or ConfigError, in one line.
    """
    from transformers.utils.logging import disable_progress_bar

    from sgsd.config import ModelConfig
    from sgsd.generate.transformers import TransformersGenerator
    from sgsd.models import default_dtype, load_student

    # The bar for loading weights is drawn without a terminal too.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    student, tokenizer = load_student(ModelConfig(name_or_path=model, dtype=default_dtype()))
    suggested = getattr(student.generation_config, "max_new_tokens", None)
    return TransformersGenerator(student, tokenizer), tokenizer, suggested


def with_length(sampling: SamplingConfig, given: int | None, suggested: int | None) -> SamplingConfig:
    """The length limit: what the command line gives, else what the model suggests, else the configuration's default."""
    limit = given or suggested
    return sampling.model_copy(update={"max_new_tokens": limit}) if limit else sampling
