"""Who teaches: pools of privileged prompts, and the weights under which they are read.

A pool turns problems into teacher prompts. Teacher weights turn the student's network into the teachers' network: the student
itself (`live`), its initial weights (`base`), a moving average (`ema`) or a copy renewed now and then (`periodic`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sgsd.config import TeacherConfig
from sgsd.prompts import NEUTRAL, Guidance, guided_user_text, render
from sgsd.records import Problem, TeacherPrompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from skillbank.retrieve import Retriever


@dataclass(frozen=True)
class Pools:
    """The teachers of a window of problems, in the problems' order."""

    teachers: list[list[TeacherPrompt]]
    placebos: list[TeacherPrompt]
    """One neutral teacher a problem, when the support baseline asks for it; else empty."""
    too_long: int = 0
    """Teachers left out because their prompt exceeds the limit."""


class TeacherPool(Protocol):
    """Problems in, teachers out."""

    def __call__(self, problems: Sequence[Problem]) -> Pools: ...


class SkillPairPool:
    """One teacher a retrieved skill-mistake pair (METHOD.md, 1.3 and 1.4)."""

    def __init__(
        self,
        retriever: Retriever,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_prompt_tokens: int,
        thinking: bool = False,
        placebo: bool = False,
    ) -> None:
        self.retriever = retriever
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.thinking = thinking
        self.placebo = placebo

    def __call__(self, problems: Sequence[Problem]) -> Pools:
        retrieved = self.retriever.retrieve([p.problem for p in problems], [p.problem_id for p in problems])
        teachers: list[list[TeacherPrompt]] = []
        too_long = 0
        for problem, pairs in zip(problems, retrieved, strict=True):
            prompts = [
                TeacherPrompt(
                    prompt_ids=self._render(problem, Guidance(pair.skill, pair.mistake)),
                    weight=pair.weight,
                    label={"skill_id": pair.skill_id, "mistake_id": pair.mistake_id, "pair_id": pair.pair_id},
                )
                for pair in pairs
            ]
            fitting = [prompt for prompt in prompts if len(prompt.prompt_ids) <= self.max_prompt_tokens]
            too_long += len(prompts) - len(fitting)
            teachers.append(fitting)
        placebos = [TeacherPrompt(self._render(problem, NEUTRAL), 0.0) for problem in problems] if self.placebo else []
        return Pools(teachers, placebos, too_long)

    def _render(self, problem: Problem, guidance: Guidance) -> tuple[int, ...]:
        return tuple(render(self.tokenizer, guided_user_text(problem.problem, [guidance]), thinking=self.thinking))


class TeacherWeights:
    """The network that scores as teacher, and how it follows the student.

    `base` switches a LoRA adapter off, or keeps a frozen copy of full weights. `ema` and `periodic` keep a copy of the
    *trained* weights alone and swap them in for the teacher pass, so an adapter run stores an adapter's worth.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config
        self._shadow: dict[str, torch.Tensor] = {}

    def start(self, model: PreTrainedModel) -> None:
        """Take the copy that the kind of weights needs. Call before the first optimiser step."""
        if self.config.weights == "live" or self._shadow or (self.config.weights == "base" and _has_adapter(model)):
            return
        self._shadow = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def after_step(self, model: PreTrainedModel, step: int) -> None:
        """Follow the student after optimiser step `step` (counted from 1)."""
        if self.config.weights == "ema":
            rate = 1 - self.config.ema_decay
        elif self.config.weights == "periodic" and step % self.config.period_steps == 0:
            rate = 1.0
        else:
            return
        parameters = dict(model.named_parameters())
        for name, shadow in self._shadow.items():
            shadow.lerp_(parameters[name].detach(), rate)

    @contextmanager
    def active(self, model: PreTrainedModel) -> Iterator[None]:
        """Within this context `model` is the teacher; afterwards its weights are the student's, bit for bit."""
        if self.config.weights == "base" and _has_adapter(model):
            with model.disable_adapter():  # type: ignore[operator]
                yield
            return
        with self._swapped(model) if self._shadow else nullcontext():
            yield

    @contextmanager
    def _swapped(self, model: PreTrainedModel) -> Iterator[None]:
        parameters = dict(model.named_parameters())
        students = {name: parameters[name].data for name in self._shadow}
        try:
            for name, shadow in self._shadow.items():
                parameters[name].data = shadow
            yield
        finally:
            for name, student in students.items():
                parameters[name].data = student

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold to go on exactly."""
        return self._shadow

    def load_state(self, state: dict[str, Any]) -> None:
        self._shadow = {name: tensor.clone() for name, tensor in state.items()}


def _has_adapter(model: Any) -> bool:
    return hasattr(model, "disable_adapter") and hasattr(model, "peft_config")
