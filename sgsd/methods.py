"""A method is a pool of teachers and an objective. Here: SGSD.

The trainer calls `pool` and `objective.score_teachers` once an optimiser step, `objective.loss` once a micro-batch, and `report`
with what came of it. `report` is how usage gets from the trainer back to the bank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sgsd.config import BankConfig, ObjectiveConfig, SGSDConfig
from sgsd.objectives.gated import (
    GatedDiagnostics,
    GatedResult,
    GatedSettings,
    gated_local_loss,
    gated_loss,
    local_support_mask,
)
from sgsd.records import OUTCOME_SIGN, Rollout, TeacherPrompt
from sgsd.score import ScoreRow, completion_mask, score, score_support, score_top
from sgsd.teachers import SkillPairPool, TeacherPool
from skillbank.retrieve import Retriever, open_retriever
from skillbank.usage import UsageRow


@dataclass(frozen=True)
class Example:
    """A rollout and who is to judge it."""

    rollout: Rollout
    teachers: tuple[TeacherPrompt, ...]
    placebo: TeacherPrompt | None = None

    def row(self, prompt_ids: Sequence[int]) -> ScoreRow:
        return ScoreRow(prompt_ids, self.rollout.completion.token_ids)

    @property
    def teaches(self) -> bool:
        """False for what adds nothing to the loss: no teacher, or an outcome of 0."""
        return bool(self.teachers) and self.rollout.verdict.outcome != "unverifiable"


@dataclass(frozen=True)
class TeacherScores:
    """What the teachers of one example say of its completion. T is that example's own length."""

    logp_KT: Tensor | None = None
    """log p of the sampled tokens over the full vocabulary."""
    placebo_T: Tensor | None = None
    support_ids_KTS: Tensor | None = None
    """Local support: each teacher's top n and, last, the sampled token."""
    support_logits_KTS: Tensor | None = None


@dataclass(frozen=True)
class MicroBatch:
    examples: tuple[Example, ...]
    scores: tuple[TeacherScores, ...]


@dataclass(frozen=True)
class MethodResult:
    """Of one micro-batch: the loss, sums for the log, and what each teacher of each judged example did."""

    loss: Tensor
    sums: Counter[str]
    judged: tuple[Example, ...]
    diagnostics: GatedDiagnostics


class Objective(Protocol):
    def score_teachers(self, model: nn.Module, examples: Sequence[Example]) -> list[TeacherScores]: ...

    def loss(self, model: nn.Module, batch: MicroBatch, *, num_examples: int) -> MethodResult: ...


@dataclass(frozen=True)
class Method:
    """What the trainer needs to know of a method."""

    name: str
    pool: TeacherPool
    objective: Objective
    report: Callable[[int, MethodResult], None]
    """Called with the optimiser step (from 1) and each micro-batch's result."""
    bank_revision: int | None = None


def open_bank(path: str | Path, config: BankConfig, seed: int = 0) -> Retriever:
    """The bank in a folder behind a retriever, as the configuration wants it."""
    return open_retriever(
        path,
        embedder=config.embedder,
        k=config.k,
        temperature=config.temperature,
        mode=config.mode,
        leave_one_problem_out=config.leave_one_problem_out,
        seed=seed,
    )


def sgsd_method(
    config: SGSDConfig,
    retriever: Retriever,
    tokenizer: PreTrainedTokenizerBase,
    *,
    run: str = "run",
) -> Method:
    """Skill-pair teachers, the gated objective, and a ledger of what each pair did in the retriever's bank."""
    bank = retriever.bank
    revision = bank.revision

    def report(step: int, result: MethodResult) -> None:
        bank.record_usage(usage_rows(run, step, revision, result))

    pool = SkillPairPool(
        retriever,
        tokenizer,
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        thinking=config.teacher.thinking,
        placebo=config.objective.support_baseline == "placebo",
    )
    objective = GatedObjective(config.objective, tokenizer, token_budget=config.teacher.token_budget)
    return Method("sgsd", pool, objective, report, revision)


class GatedObjective:
    """METHOD.md, steps 5 to 8: K teacher forwards without gradient, one student pass with it."""

    def __init__(self, config: ObjectiveConfig, tokenizer: PreTrainedTokenizerBase, *, token_budget: int) -> None:
        self.settings = GatedSettings(
            tau=config.tau,
            clip=config.clip,
            eps=config.eps,
            polarity=config.polarity,
            gate=config.gate,
            support_baseline=config.support_baseline,
        )
        self.top_k = config.support_top_k
        self.tokenizer = tokenizer
        self.token_budget = token_budget

    def score_teachers(self, model: nn.Module, examples: Sequence[Example]) -> list[TeacherScores]:
        """All teachers of all examples in one sweep, so that micro-batches are as full as the token budget allows."""
        rows = [e.row(t.prompt_ids) for e in examples if e.teaches for t in e.teachers]
        if not rows:
            return [TeacherScores() for _ in examples]
        if self.top_k:
            return self._score_local(model, examples, rows)
        placebos = [e.row(e.placebo.prompt_ids) for e in examples if e.teaches and e.placebo]
        logp_RT = score(model, rows + placebos, token_budget=self.token_budget)
        scores, at, placebo_at = [], 0, len(rows)
        for example in examples:
            if not example.teaches:
                scores.append(TeacherScores())
                continue
            length, k = len(example.rollout.completion.token_ids), len(example.teachers)
            placebo_T = logp_RT[placebo_at, :length] if example.placebo else None
            scores.append(TeacherScores(logp_RT[at : at + k, :length], placebo_T))
            at, placebo_at = at + k, placebo_at + (example.placebo is not None)
        return scores

    def _score_local(
        self, model: nn.Module, examples: Sequence[Example], rows: Sequence[ScoreRow]
    ) -> list[TeacherScores]:
        top = score_top(model, rows, self.top_k, token_budget=self.token_budget)
        sampled_RT = _padded([torch.tensor(row.completion_ids) for row in rows]).to(top.ids_NK.device)
        ids_RTS = torch.cat([top.ids_NK, sampled_RT[..., None]], dim=-1)
        logits_RTS = score_support(model, rows, ids_RTS, token_budget=self.token_budget)
        scores, at = [], 0
        for example in examples:
            if not example.teaches:
                scores.append(TeacherScores())
                continue
            length, members = len(example.rollout.completion.token_ids), slice(at, at + len(example.teachers))
            scores.append(
                TeacherScores(
                    support_ids_KTS=ids_RTS[members, :length], support_logits_KTS=logits_RTS[members, :length]
                )
            )
            at = members.stop
        return scores

    def loss(self, model: nn.Module, batch: MicroBatch, *, num_examples: int) -> MethodResult:
        """One student forward. A micro-batch in which nothing teaches passes its shortest row and a zero through the
        graph: under DDP the other ranks wait for this one's gradients."""
        pairs = [(e, s) for e, s in zip(batch.examples, batch.scores, strict=True) if e.teaches]
        if not pairs:
            shortest = min(
                batch.examples, key=lambda e: len(e.rollout.prompt_ids) + len(e.rollout.completion.token_ids)
            )
            pairs = [(Example(shortest.rollout, ()), TeacherScores())]
        examples, scores = tuple(e for e, _ in pairs), [s for _, s in pairs]
        rows = [e.row(e.rollout.prompt_ids) for e in examples]
        device = next(model.parameters()).device
        mask_BT = _padded([completion_mask(row.completion_ids, self.tokenizer) for row in rows]).to(device)
        outcome_B = torch.tensor([OUTCOME_SIGN[e.rollout.verdict.outcome] for e in examples], device=device)
        weight_BK = _padded([torch.tensor([t.weight for t in e.teachers]) for e in examples]).to(device)
        if self.top_k and any(s.support_ids_KTS is not None for s in scores):
            result = self._local_loss(model, rows, scores, mask_BT, outcome_B, weight_BK, num_examples)
        else:
            student_BT = score(model, rows, grad=True)
            placebos = [s.placebo_T for s in scores if s.placebo_T is not None]
            settings = self.settings
            result = gated_loss(
                student_BT,
                _padded([_or_empty(s.logp_KT, row) for s, row in zip(scores, rows, strict=True)]).to(student_BT),
                mask_BT,
                outcome_B,
                weight_BK,
                settings,
                num_examples=num_examples,
                placebo_logp_BT=self._placebo(placebos, student_BT),
            )
        return MethodResult(result.loss, _sums(result, examples), examples, result.diagnostics)

    def _placebo(self, placebos: list[Tensor], student_BT: Tensor) -> Tensor | None:
        if self.settings.support_baseline != "placebo":
            return None
        return _padded(placebos).to(student_BT) if placebos else torch.zeros_like(student_BT)

    def _local_loss(
        self,
        model: nn.Module,
        rows: Sequence[ScoreRow],
        scores: Sequence[TeacherScores],
        mask_BT: Tensor,
        outcome_B: Tensor,
        weight_BK: Tensor,
        num_examples: int,
    ) -> GatedResult:
        ids_BKTS = _padded([s.support_ids_KTS for s in scores if s.support_ids_KTS is not None])
        teacher_BKTS = _padded([s.support_logits_KTS for s in scores if s.support_logits_KTS is not None])
        B, K, T, S = ids_BKTS.shape
        # The student is asked for all teachers' tokens at once: [B, T, K S].
        flat_BTS = ids_BKTS.permute(0, 2, 1, 3).reshape(B, T, K * S)
        student_BTS = score_support(model, rows, flat_BTS, grad=True)
        student_BKTS = student_BTS.reshape(B, T, K, S).permute(0, 2, 1, 3)
        return gated_local_loss(
            student_BKTS,
            teacher_BKTS.to(student_BKTS),
            local_support_mask(ids_BKTS),
            mask_BT,
            outcome_B,
            weight_BK,
            self.settings,
            num_examples=num_examples,
        )


def usage_rows(run: str, step: int, revision: int, result: MethodResult) -> list[UsageRow]:
    """One ledger row for each teacher that judged."""
    seen = result.diagnostics
    supports, polarities, masses = seen.support_BK.tolist(), seen.polarity_BK.tolist(), seen.gate_mass_BK.tolist()
    return [
        UsageRow(
            run=run,
            step=step,
            problem_id=example.rollout.problem.problem_id,
            outcome=example.rollout.verdict.outcome,
            skill_id=teacher.label["skill_id"],
            mistake_id=teacher.label["mistake_id"],
            pair_id=teacher.label["pair_id"],
            support=supports[i][k],
            polarity=round(polarities[i][k]),
            gate_mass=masses[i][k],
            weight=teacher.weight,
            revision=revision,
            placebo=False,
        )
        for i, example in enumerate(result.judged)
        for k, teacher in enumerate(example.teachers)
    ]


def _sums(result: GatedResult, examples: Sequence[Example]) -> Counter[str]:
    """Numbers that add up over micro-batches and ranks."""
    counts, seen = result.diagnostics.counts, result.diagnostics
    return Counter(
        {
            "teachers": counts.teachers,
            "below_threshold": counts.below_threshold,
            "judged": counts.judged,
            "helpful": counts.helpful,
            "harmful": counts.harmful,
            "neutral": counts.neutral,
            "teacher_tokens": counts.tokens,
            "clipped": counts.clipped,
            "gate_mass": float(seen.gate_mass_BK.sum()),
            "support": float(seen.support_BK.sum()),
            "judged_examples": sum(e.teaches for e in examples),
        }
    )


def _or_empty(logp_KT: Tensor | None, row: ScoreRow) -> Tensor:
    return logp_KT if logp_KT is not None else torch.zeros(0, len(row.completion_ids))


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of like rank into one, each filled up with zeros at the far ends."""
    shape = [max(sizes) for sizes in zip(*(t.shape for t in tensors), strict=True)]
    out = tensors[0].new_zeros(len(tensors), *shape)
    for i, tensor in enumerate(tensors):
        out[i][tuple(slice(size) for size in tensor.shape)] = tensor
    return out
