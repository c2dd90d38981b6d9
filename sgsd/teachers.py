"""Who teaches: pools of privileged prompts, and the weights under which they are read.

A pool turns problems into teacher prompts. Teacher weights turn the student's network into the teachers' network: the
student itself (`live`), its initial weights (`base`), a moving average (`ema`) or a copy renewed now and then
(`periodic`). An `Example` is a rollout with its teachers and, once they have read it, what they say of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from safetensors.torch import load_file, save_file

from sgsd.config import TeacherConfig
from sgsd.errors import TrainingError
from sgsd.paired import Side
from sgsd.prompts import NEUTRAL, Guidance, guided_user_text, plain_user_text, reference_user_text, render
from sgsd.records import Problem, Rollout, TeacherPrompt
from sgsd.score import ScoreRow

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from skillbank.retrieve import Retriever

TEACHER_FILE = "teacher.safetensors"
"""In a checkpoint: the teachers' weights where they differ from the student's present and initial ones."""


@dataclass(frozen=True)
class TeacherScores:
    """What the teachers of one example say of its completion. T is that example's own length."""

    logp_KT: Tensor | None = None
    """log p of the sampled tokens over the full vocabulary."""
    placebo_T: Tensor | None = None
    """log p of the neutral teacher, where there is one."""
    placebo_ids_TS: Tensor | None = None
    """Its local support, in that variant."""
    placebo_logits_TS: Tensor | None = None
    support_ids_KTS: Tensor | None = None
    """Local support: each teacher's top n and, last, the sampled token."""
    support_logits_KTS: Tensor | None = None
    side: Side | None = None
    """Whole distributions: the first teacher's hidden states, [T, H], and its head."""


@dataclass(frozen=True)
class Example:
    """A rollout, who is to judge it, and the judgement."""

    rollout: Rollout
    teachers: tuple[TeacherPrompt, ...]
    placebo: TeacherPrompt | None = None
    scores: TeacherScores = TeacherScores()
    skipped: int = 0
    """Teachers that were not asked (sgsd.screen)."""
    read_tokens: int = 0
    """Tokens that passes without gradient have read to hear the teachers, prompts included."""

    @property
    def teaches(self) -> bool:
        """False for what adds nothing to the loss: no teacher, or an outcome of 0."""
        return bool(self.teachers) and self.rollout.verdict.outcome != "unverifiable"

    @property
    def scored(self) -> bool:
        """True once its teachers have read it."""
        return any(getattr(self.scores, field.name) is not None for field in fields(self.scores))

    def row(self, prompt_ids: Sequence[int]) -> ScoreRow:
        return ScoreRow(prompt_ids, self.rollout.completion.token_ids)

    def __len__(self) -> int:
        """Tokens of the completion."""
        return len(self.rollout.completion.token_ids)


@dataclass(frozen=True)
class Pools:
    """The teachers of a window of problems, in the problems' order."""

    teachers: list[list[TeacherPrompt]]
    placebos: list[TeacherPrompt | None]
    """The neutral teacher of a problem where one was drawn, else None."""
    too_long: int = 0
    """Teachers left out because their prompt exceeds the limit."""


class TeacherPool(Protocol):
    """Problems in, teachers out. `step` is the optimiser step, from 1, for what is drawn."""

    def __call__(self, problems: Sequence[Problem], step: int = 1) -> Pools: ...


class SkillPairPool:
    """One teacher a retrieved skill-mistake pair (docs/method.md, steps 3 and 4).

    A teacher whose prompt is too long is left out and counted; the others keep their weights, as if it had no opinion.
    A share of the examples gets a placebo as well: a teacher with neutral guidance, who is scored and not followed.
    """

    def __init__(
        self,
        retriever: Retriever,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_prompt_tokens: int,
        thinking: bool = False,
        placebo_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.retriever = retriever
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.thinking = thinking
        self.placebo_share = placebo_share
        self.seed = seed

    def __call__(self, problems: Sequence[Problem], step: int = 1) -> Pools:
        revision = self.retriever.bank.revision
        retrieved = self.retriever.retrieve([p.problem for p in problems], [p.problem_id for p in problems])
        teachers: list[list[TeacherPrompt]] = []
        too_long = 0
        for problem, pairs in zip(problems, retrieved, strict=True):
            prompts = [
                TeacherPrompt(
                    prompt_ids=self._render(problem, Guidance(pair.skill, pair.mistake)),
                    weight=pair.weight,
                    label={
                        "skill_id": pair.skill_id,
                        "mistake_id": pair.mistake_id,
                        "pair_id": pair.pair_id,
                        "revision": revision,
                    },
                )
                for pair in pairs
            ]
            fitting = [prompt for prompt in prompts if len(prompt.prompt_ids) <= self.max_prompt_tokens]
            too_long += len(prompts) - len(fitting)
            teachers.append(fitting)
        return Pools(teachers, [self._placebo(problem, step) for problem in problems], too_long)

    def _placebo(self, problem: Problem, step: int) -> TeacherPrompt | None:
        if not is_drawn(self.placebo_share, f"placebo/{self.seed}/{step}/{problem.problem_id}"):
            return None
        return TeacherPrompt(self._render(problem, NEUTRAL), 0.0)

    def _render(self, problem: Problem, guidance: Guidance) -> tuple[int, ...]:
        return tuple(render(self.tokenizer, guided_user_text(problem.problem, [guidance]), thinking=self.thinking))


def is_drawn(share: float, key: str) -> bool:
    """Draws a share of all keys, the same ones on every machine, rank and resumed run."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) < share * 2**64


class ReferencePool:
    """One teacher a problem, who is shown its reference solution, or the final answer alone (OPSD).

    A problem without a solution shows its answer. A teacher whose prompt is too long is left out and counted.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        privilege: Literal["solution", "answer"],
        max_prompt_tokens: int,
        thinking: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.privilege = privilege
        self.max_prompt_tokens = max_prompt_tokens
        self.thinking = thinking

    def __call__(self, problems: Sequence[Problem], step: int = 1) -> Pools:
        prompts = [tuple(self._prompt(problem)) for problem in problems]
        fitting = [[TeacherPrompt(ids, 1.0)] if len(ids) <= self.max_prompt_tokens else [] for ids in prompts]
        return Pools(fitting, [None] * len(prompts), sum(not teachers for teachers in fitting))

    def _prompt(self, problem: Problem) -> list[int]:
        solution = problem.solution if self.privilege == "solution" else None
        reference = f"Answer: {problem.answer}" if solution is None else solution
        return render(self.tokenizer, reference_user_text(problem.problem, reference), thinking=self.thinking)


class PlainPool:
    """One teacher a problem, who reads the plain prompt: another model (OPD)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, thinking: bool = False) -> None:
        self.tokenizer = tokenizer
        self.thinking = thinking

    def __call__(self, problems: Sequence[Problem], step: int = 1) -> Pools:
        prompts = [render(self.tokenizer, plain_user_text(p.problem), thinking=self.thinking) for p in problems]
        return Pools([[TeacherPrompt(tuple(ids), 1.0)] for ids in prompts], [None] * len(prompts))


class TeacherWeights:
    """The network that scores as teacher, and how it follows the student.

    Make it before the first optimiser step, for `base` before a checkpoint is loaded: it takes its copy at once. `base`
    switches a LoRA adapter off, or keeps a frozen copy of full weights. `ema` and `periodic` copy the *trained* weights
    alone and swap them in for the teacher pass, so an adapter run keeps an adapter's worth. The average is in float32
    at least: in bfloat16 a hundredth of a small step is nothing.
    """

    def __init__(self, config: TeacherConfig, model: PreTrainedModel) -> None:
        self.config = config
        self.model = model
        self._adapter_off = config.weights == "base" and hasattr(model, "peft_config")
        self._shadow: dict[str, Tensor] = {}
        if config.weights != "live" and not self._adapter_off:
            trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
            self._shadow = {name: p.to(self._dtype(p), copy=True) for name, p in trained.items()}

    def _dtype(self, weight: Tensor) -> torch.dtype:
        return torch.promote_types(weight.dtype, torch.float32) if self.config.weights == "ema" else weight.dtype

    def after_step(self, step: int) -> None:
        """Follow the student after optimiser step `step` (counted from 1)."""
        if self.config.weights == "ema":
            rate = 1 - self.config.ema_decay
        elif self.config.weights == "periodic" and step % self.config.period_steps == 0:
            rate = 1.0
        else:
            return
        parameters = dict(self.model.named_parameters())
        for name, shadow in self._shadow.items():
            shadow.lerp_(parameters[name].detach().to(shadow.dtype), rate)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within this context the model is the teacher; afterwards its weights are the student's, bit for bit."""
        if self._adapter_off:
            with self.model.disable_adapter():  # type: ignore[operator]
                yield
            return
        parameters = dict(self.model.named_parameters()) if self._shadow else {}
        students = {name: parameters[name].data for name in self._shadow}
        try:
            for name, shadow in self._shadow.items():
                parameters[name].data = shadow.to(students[name].dtype)
            yield
        finally:
            for name, student in students.items():
                parameters[name].data = student

    def save(self, folder: Path) -> None:
        """What a checkpoint must hold to go on exactly. Initial weights are the model's own and are not stored."""
        if self.config.weights in ("ema", "periodic"):
            save_file({name: shadow.contiguous() for name, shadow in self._shadow.items()}, folder / TEACHER_FILE)

    def load(self, folder: Path) -> None:
        """Raises TrainingError when the checkpoint lacks what these weights need."""
        if self.config.weights not in ("ema", "periodic"):
            return
        file = folder / TEACHER_FILE
        stored: dict[str, Any] = load_file(file) if file.is_file() else {}
        if stored.keys() != self._shadow.keys():
            raise TrainingError(
                f"{file} does not hold the teachers' weights: the checkpoint was not made with "
                f"teacher.weights {self.config.weights} on this model"
            )
        for name, shadow in self._shadow.items():
            shadow.copy_(stored[name])
