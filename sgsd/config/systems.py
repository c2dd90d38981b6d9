"""The other methods' sections: OPSD, OPD, GRPO and SFT (docs/systems.md). SGSD's are `bank` and `objective`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sgsd.config.base import Config
from sgsd.config.endpoint import EndpointConfig


class OPSDConfig(Config):
    """Answer-conditioned self-distillation. Defaults: the release of OPSD (arXiv 2601.18734) and its paper."""

    privilege: Literal["solution", "answer"] = "solution"
    """What the teacher is shown: the reference solution, or the final answer alone. A problem without a solution shows
    its answer."""
    loss: Literal["divergence", "sampled"] = "divergence"
    """The divergence of both distributions, or a policy gradient on the sampled token."""
    beta: float = Field(0.0, ge=0.0, le=1.0)
    """0 is KL(teacher || student), 1 KL(student || teacher), between them the Jensen-Shannon divergence."""
    clip: PositiveFloat | None = 0.05
    """Bound on what one vocabulary entry adds to a token's divergence, in nats; null for none."""
    top_k: NonNegativeInt = 0
    """n > 0: on the teacher's n likeliest tokens, both sides renormalised there."""
    temperature: PositiveFloat | None = None
    """Of both sides; null takes rollout.temperature, as the release does."""


class OPDConfig(Config):
    """On-policy distillation from another model of the same tokenizer. Defaults: arXiv 2604.13016 and its release."""

    teacher: str | None = None
    """A folder or a hub name: weights, or an adapter. Of a teacher behind a server its tokenizer alone is read."""
    server: EndpointConfig = EndpointConfig()
    """vLLM servers of the teacher, for one that is too large to be here. They tell log-probs of few tokens: for `loss`
    sampled, or top_k with strategy teacher, at temperature 1."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of a teacher that is here."""
    loss: Literal["sampled", "full", "top_k"] = "top_k"
    """Reverse KL on the sampled token, on the whole vocabulary, or on a few tokens."""
    k: PositiveInt = 16
    strategy: Literal["student", "teacher", "intersection", "union", "union-intersection"] = "student"
    """Whose k likeliest tokens are compared; `union-intersection` are those that one side alone holds."""
    weighting: Literal["student_p", "teacher_p", "none"] = "student_p"
    """Of each token's advantage; the first two are normalised on the set but for `union-intersection`."""
    temperature: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _servers_tell_what_is_asked(self) -> Self:
        if not self.server.urls:
            return self
        if self.loss == "full":
            raise ValueError(
                "loss = full wants whole distributions, of which a server tells a few tokens: set loss to sampled, or "
                "to top_k with strategy teacher"
            )
        if self.loss == "top_k" and self.strategy != "teacher":
            raise ValueError(
                f"strategy = {self.strategy} wants the teacher's log-probs of tokens that the student chooses, which a "
                "server does not tell: set strategy to teacher, or loss to sampled"
            )
        if self.temperature != 1.0:
            raise ValueError(f"temperature = {self.temperature}: a server tells log-probs at temperature 1, set that")
        return self


class GRPOConfig(Config):
    """Group-relative policy optimisation, TRL's trainer. Defaults: the baseline of OPSD's release."""

    generations: int = Field(8, ge=2)
    """Rollouts of one problem. An optimiser step has per_device_batch_size * gradient_accumulation_steps a process."""
    iterations: PositiveInt = 2
    """Optimiser steps on each set of rollouts."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL to the initial student."""
    epsilon: PositiveFloat = 0.2
    """Clip of the importance ratio."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    """How token losses are averaged; TRL's own default."""


class SFTConfig(Config):
    """Supervised fine-tuning, TRL's trainer."""

    rollouts: str | None = None
    """A rollout file, whose right completions are learned; null takes the problems' reference solutions."""
