"""What `sgsd rollout` and `sgsd eval` share: options into settings, the student, words for the outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sgsd.cli.common import from_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import SamplingConfig, VerifierConfig
    from sgsd.generate import Generator

SHOWN_REASONS = 3


def judge_from_options(verifier: str, timeout: float, truncated: str) -> VerifierConfig:
    """The verifier's settings. Raises ConfigError that names the option."""
    from sgsd.config import VerifierConfig

    values = {"name": verifier, "timeout_s": timeout, "truncated": truncated}
    return from_options(VerifierConfig, values, {"name": "--verifier", "timeout_s": "--timeout"})


def unverifiable_reasons(verdicts: Iterable[tuple[str, str]]) -> dict[str, int]:
    """The most frequent reasons of (outcome, reason) for being unverifiable: a broken verifier is to be seen."""
    reasons = Counter(reason or "no reason given" for outcome, reason in verdicts if outcome == "unverifiable")
    return dict(reasons.most_common(SHOWN_REASONS))


def open_student(model: str) -> tuple[Generator, PreTrainedTokenizerBase, int | None]:
    """A generator over the student, its tokenizer, and the completion length that its generation settings suggest.

    Raises ModelNotFound or ConfigError, in one line.
    """
    from sgsd.config import ModelConfig
    from sgsd.generate.transformers import TransformersGenerator
    from sgsd.models import default_dtype, load_student

    student, tokenizer = load_student(ModelConfig(name_or_path=model, dtype=default_dtype()))
    suggested = getattr(student.generation_config, "max_new_tokens", None)
    return TransformersGenerator(student, tokenizer), tokenizer, suggested


def with_length(sampling: SamplingConfig, given: int | None, suggested: int | None) -> SamplingConfig:
    """The length limit: what the command line gives, else what the model suggests, else the configuration's default."""
    limit = given or suggested
    return sampling.model_copy(update={"max_new_tokens": limit}) if limit else sampling
