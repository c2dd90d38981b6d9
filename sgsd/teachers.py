"""Who teaches: pools of privileged prompts.

A pool turns problems into teacher prompts; the weights under which they are read are sgsd.weights' matter. An
`Example` is a rollout with its teachers and, once they have read it, what they say of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, Protocol

from sgsd.paired import Side
from sgsd.prompts import NEUTRAL, Guidance, guided_user_text, plain_user_text, reference_user_text, render
from sgsd.records import Problem, Rollout, TeacherPrompt
from sgsd.score import ScoreRow

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from skillbank.retrieve import Retriever


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
        return guided_prompt(self.tokenizer, problem, guidance, thinking=self.thinking)


def guided_prompt(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, guidance: Guidance, *, thinking: bool = False
) -> tuple[int, ...]:
    """What the teacher of one lesson reads before the completion."""
    return tuple(render(tokenizer, guided_user_text(problem.problem, [guidance]), thinking=thinking))


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
