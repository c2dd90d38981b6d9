"""SGSD: a pool of skill-pair teachers, the gated objective, and a ledger of what each pair did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sgsd.config import BankConfig, ObjectiveConfig, SGSDConfig, TeacherConfig
from sgsd.ledger import UsageLedger
from sgsd.methods.base import Method, MethodResult, Window
from sgsd.methods.gap import engine_gap
from sgsd.objectives.gated import (
    GatedDiagnostics,
    GatedResult,
    GatedSettings,
    gated_local_loss,
    gated_loss,
    local_support_mask,
)
from sgsd.records import OUTCOME_SIGN, TeacherPrompt
from sgsd.score import ScoreRow, completion_mask, score, score_support, score_top
from sgsd.screen import by_ledger, by_prefix
from sgsd.shards import sharded
from sgsd.teachers import Example, SkillPairPool, TeacherScores
from skillbank.retrieve import Retriever, open_retriever
from skillbank.store import Bank


def open_bank(path: str | Path, config: BankConfig, seed: int = 0) -> Retriever:
    """The bank in a folder behind a retriever, as the configuration wants it."""
    return open_retriever(
        path,
        embedder=config.embedder,
        k=config.k,
        temperature=config.temperature,
        mode=config.mode,
        pairing=config.pairing,
        diversity=config.diversity,
        min_cosine=config.min_cosine,
        where=config.where,
        leave_one_problem_out=config.leave_one_problem_out,
        seed=seed,
    )


def sgsd_method(
    config: SGSDConfig, retriever: Retriever, tokenizer: PreTrainedTokenizerBase, *, run: str, seed: int = 0
) -> Method:
    """Skill-pair teachers, the gated objective, and a ledger of what each pair did in the retriever's bank."""
    pool = SkillPairPool(
        retriever,
        tokenizer,
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        thinking=config.teacher.thinking,
        placebo_share=1.0 if config.objective.support_baseline == "placebo" else config.ledger.placebo_share,
        seed=seed,
    )
    objective = GatedObjective(config.objective, tokenizer, config.teacher, retriever.bank)
    return Method("sgsd", pool, objective, UsageLedger(retriever.bank, run))


class GatedObjective:
    """docs/method.md, steps 5 to 8: K teacher forwards without gradient, one student pass with it."""

    teacher_network = None
    counted = (
        *("teachers", "below_threshold", "judged", "helpful", "harmful", "neutral", "teacher_tokens", "clipped"),
        *("gate_mass", "support", "teachers_skipped", "read_tokens"),
    )

    def __init__(
        self,
        config: ObjectiveConfig,
        tokenizer: PreTrainedTokenizerBase,
        teacher: TeacherConfig,
        bank: Bank | None = None,
    ) -> None:
        """`bank` is the one whose ledger teacher.min_usefulness asks."""
        if teacher.min_usefulness is not None and bank is None:
            raise ValueError(f"teacher.min_usefulness = {teacher.min_usefulness} needs a bank with a usage ledger")
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
        self.teacher = teacher
        self.bank = bank

    def score_teachers(self, model: nn.Module, examples: Sequence[Example]) -> list[Example]:
        """All teachers of all examples in one sweep, so that passes are as full as the token budget allows."""
        screened = self._screened(model, examples)
        teaching = [example for example in screened if example.teaches]
        rows = [example.row(teacher.prompt_ids) for example in teaching for teacher in _readers(example)]
        if not rows and not sharded(model):  # else the others' passes want this rank's
            return screened
        scores = iter(self._local(model, teaching, rows) if self.top_k else self._full(model, teaching, rows))
        return [
            replace(example, scores=next(scores), read_tokens=example.read_tokens + self._reading(example))
            if example.teaches
            else example
            for example in screened
        ]

    def _screened(self, model: nn.Module, examples: Sequence[Example]) -> list[Example]:
        """Without the teachers that are not asked; what teaches nothing anyway stays as it is."""
        teaching = [example for example in examples if example.teaches]
        if self.teacher.min_usefulness is not None and self.bank is not None:
            teaching = by_ledger(self.bank, teaching, self.teacher.min_usefulness)
        if self.teacher.screen_tokens is not None:
            tokens, budget = self.teacher.screen_tokens, self.teacher.token_budget
            teaching = by_prefix(model, teaching, tokens, self.settings, self._mask, token_budget=budget)
        rest = iter(teaching)
        return [next(rest) if example.teaches else example for example in examples]

    def _mask(self, completion_ids: Sequence[int]) -> Tensor:
        return completion_mask(completion_ids, self.tokenizer)

    def _reading(self, example: Example) -> int:
        """Tokens of the passes that score its teachers."""
        read = sum(len(teacher.prompt_ids) + len(example) for teacher in _readers(example))
        return read * (2 if self.top_k else 1)

    def _full(self, model: nn.Module, teaching: Sequence[Example], rows: list[ScoreRow]) -> list[TeacherScores]:
        logp_RT = score(model, rows, token_budget=self.teacher.token_budget)
        parts = torch.split(logp_RT, [len(_readers(example)) for example in teaching])
        found = []
        for example, part in zip(teaching, parts, strict=True):
            K, T = len(example.teachers), len(example)
            found.append(TeacherScores(part[:K, :T], part[K, :T] if example.placebo else None))
        return found

    def _local(self, model: nn.Module, teaching: Sequence[Example], rows: list[ScoreRow]) -> list[TeacherScores]:
        top = score_top(model, rows, self.top_k, token_budget=self.teacher.token_budget)
        sampled_RT = torch.zeros(top.ids_NK.shape[:2], dtype=torch.int64, device=top.ids_NK.device)
        for r, row in enumerate(rows):
            sampled_RT[r, : len(row.completion_ids)] = torch.tensor(row.completion_ids)
        ids_RTS = torch.cat([top.ids_NK, sampled_RT[..., None]], dim=-1)
        logits_RTS = score_support(model, rows, ids_RTS, token_budget=self.teacher.token_budget)
        counts = [len(_readers(example)) for example in teaching]
        found = []
        for example, ids, logits in zip(
            teaching, torch.split(ids_RTS, counts), torch.split(logits_RTS, counts), strict=True
        ):
            K, T = len(example.teachers), len(example)
            scores = TeacherScores(support_ids_KTS=ids[:K, :T], support_logits_KTS=logits[:K, :T])
            if example.placebo:
                scores = replace(scores, placebo_ids_TS=ids[K, :T], placebo_logits_TS=logits[K, :T])
            found.append(scores)
        return found

    def loss(self, model: nn.Module, batch: Sequence[Example], window: Window) -> MethodResult:
        """One student forward over what teaches. Where nothing does, the shortest row passes and a zero goes back
        through the graph: under DDP the other ranks wait for this one's gradients."""
        examples = [example for example in batch if example.teaches]
        if not examples:
            shortest = min(batch, key=lambda example: len(example.rollout.prompt_ids) + len(example))
            examples = [Example(shortest.rollout, (), scores=TeacherScores(torch.zeros(0, len(shortest))))]
        rows = [example.row(example.rollout.prompt_ids) for example in examples]
        mask_BT = _padded([self._mask(row.completion_ids) for row in rows])
        outcome_B = torch.tensor([OUTCOME_SIGN[e.rollout.verdict.outcome] for e in examples])
        weight_BK = _padded([torch.tensor([t.weight for t in e.teachers], dtype=torch.float64) for e in examples])
        judged = _Judged(examples, rows, mask_BT, outcome_B, weight_BK, window.examples)
        local = self.top_k > 0 and bool(examples[0].teachers)
        gap = None  # a local support's log-probs are not of the whole vocabulary, as an engine's are
        if local:
            result, placebo = self._local_loss(model, judged)
        else:
            student_BT = score(model, judged.rows, grad=True)
            result, placebo = self._full_loss(student_BT, judged)
            gap = engine_gap(examples, student_BT)
        sums = _sums(result) | {
            "teachers_skipped": sum(example.skipped for example in batch),
            "read_tokens": sum(example.read_tokens for example in batch),
        }
        return MethodResult(result.loss, sums, tuple(examples), result.diagnostics, placebo, gap)

    def _full_loss(self, student_BT: Tensor, judged: _Judged) -> tuple[GatedResult, GatedDiagnostics | None]:
        mask_BT, outcome_B, weight_BK = judged.beside(student_BT)
        teacher_BKT = judged.stacked(lambda scores: scores.logp_KT).to(student_BT)
        placebo_BT = judged.stacked(lambda scores: scores.placebo_T).to(student_BT)
        result = gated_loss(
            student_BT,
            teacher_BKT,
            mask_BT,
            outcome_B,
            weight_BK,
            self.settings,
            num_examples=judged.num_examples,
            placebo_logp_BT=placebo_BT if self.settings.support_baseline == "placebo" else None,
        )
        if not judged.drawn_B.any():
            return result, None
        # The placebo is judged as a teacher is, against the same baseline; the pool's is the mean of its teachers.
        settings, baseline_BT = self.settings, None
        if settings.support_baseline != "none":
            exists_BK1 = (weight_BK != 0)[..., None]
            pool_BT = (teacher_BKT * exists_BK1).sum(dim=1) / exists_BK1.sum(dim=1).clamp(min=1)
            baseline_BT = pool_BT if settings.support_baseline == "pool" else placebo_BT
            settings = replace(settings, support_baseline="placebo")
        placebo = gated_loss(
            student_BT.detach(),
            placebo_BT[:, None],
            mask_BT,
            outcome_B,
            judged.drawn_B[:, None].to(student_BT),
            settings,
            num_examples=judged.num_examples,
            placebo_logp_BT=baseline_BT,
        )
        return result, placebo.diagnostics

    def _local_loss(self, model: nn.Module, judged: _Judged) -> tuple[GatedResult, GatedDiagnostics | None]:
        ids_BKTS = judged.stacked(lambda scores: scores.support_ids_KTS)
        teacher_BKTS = judged.stacked(lambda scores: scores.support_logits_KTS)
        K = ids_BKTS.shape[1]
        if judged.drawn_B.any():  # the placebo comes last
            placebo_ids_BTS = judged.stacked(lambda scores: scores.placebo_ids_TS, ids_BKTS.shape[-1])
            placebo_BTS = judged.stacked(lambda scores: scores.placebo_logits_TS, ids_BKTS.shape[-1])
            ids_BKTS = torch.cat([ids_BKTS, placebo_ids_BTS[:, None]], dim=1)
            teacher_BKTS = torch.cat([teacher_BKTS, placebo_BTS[:, None]], dim=1)
        B, R, T, S = ids_BKTS.shape
        # One pass for the tokens of all who read: [B, T, R S].
        student_BTS = score_support(model, judged.rows, ids_BKTS.transpose(1, 2).reshape(B, T, R * S), grad=True)
        student_BKTS = student_BTS.reshape(B, T, R, S).transpose(1, 2)
        mask_BT, outcome_B, weight_BK = judged.beside(student_BKTS)
        there_BKTS = local_support_mask(ids_BKTS)

        def judge(student: Tensor, readers: slice, weight_BK: Tensor) -> GatedResult:
            return gated_local_loss(
                student[:, readers],
                teacher_BKTS[:, readers].to(student),
                there_BKTS[:, readers],
                mask_BT,
                outcome_B,
                weight_BK,
                self.settings,
                num_examples=judged.num_examples,
            )

        result = judge(student_BKTS, slice(K), weight_BK)
        if R == K:
            return result, None
        drawn_B1 = judged.drawn_B[:, None].to(student_BKTS)
        return result, judge(student_BKTS.detach(), slice(K, None), drawn_B1).diagnostics

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Shares in [0, 1]; gate mass and support are means over teachers; what was skipped and read is counted."""
        judged, teachers = max(1.0, sums["judged"]), max(1.0, sums["teachers"])
        return {
            "helpful": sums["helpful"] / judged,
            "harmful": sums["harmful"] / judged,
            "neutral": sums["neutral"] / judged,
            "below_threshold": sums["below_threshold"] / teachers,
            "clipped": sums["clipped"] / max(1.0, sums["teacher_tokens"]),
            "gate_mass": sums["gate_mass"] / teachers,
            "support": sums["support"] / teachers,
            "teachers_skipped": sums["teachers_skipped"],
            "read_tokens": sums["read_tokens"],
        }


@dataclass(frozen=True)
class _Judged:
    """The examples of a micro-batch that go through the student."""

    examples: list[Example]
    rows: list[ScoreRow]
    mask_BT: Tensor
    outcome_B: Tensor
    weight_BK: Tensor
    num_examples: int

    @property
    def drawn_B(self) -> Tensor:
        """Which of them have a placebo that read them."""
        return torch.tensor([example.placebo is not None for example in self.examples])

    def stacked(self, of: Callable[[TeacherScores], Tensor | None], *tail: int) -> Tensor:
        """One thing of the examples' scores as one tensor; zeros [T, *tail] where an example lacks it."""
        found = [of(example.scores) for example in self.examples]
        like = next((one for one in found if one is not None), torch.zeros(0))
        pairs = zip(found, self.examples, strict=True)
        return _padded([like.new_zeros(len(example), *tail) if one is None else one for one, example in pairs])

    def beside(self, student: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, outcomes and weights on the student's device; weights in its precision."""
        return self.mask_BT.to(student.device), self.outcome_B.to(student.device), self.weight_BK.to(student)


def _readers(example: Example) -> tuple[TeacherPrompt, ...]:
    """Who reads an example: its teachers and, last, its placebo."""
    return (*example.teachers, example.placebo) if example.placebo else example.teachers


def _sums(result: GatedResult) -> dict[str, float]:
    seen, counts = result.diagnostics, result.diagnostics.counts
    return {
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
    }


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of like rank into one, each filled up with zeros at the far ends."""
    shape = [max(sizes) for sizes in zip(*(t.shape for t in tensors), strict=True)]
    out = tensors[0].new_zeros(len(tensors), *shape)
    for i, tensor in enumerate(tensors):
        out[i][tuple(slice(size) for size in tensor.shape)] = tensor
    return out
