"""A student and a teacher before training: agreement on the student's rollouts, and who is right how often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sgsd.config import EvalConfig, ModelConfig, SamplingConfig, VerifierConfig
from sgsd.diagnostics import COUNTED, agreement_metrics, agreement_rows, agreement_sums
from sgsd.distributions import teacher_sides
from sgsd.evaluate import Estimate, EvalResult, bootstrap_means, records_of, summarise
from sgsd.generate.transformers import TransformersGenerator
from sgsd.layout import ScoreRow
from sgsd.methods.distribution import check_same_tokenizer
from sgsd.models import load_student
from sgsd.records import Problem, Rollout
from sgsd.rollout import draw_rollouts
from sgsd.verify import load_verifier

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESAMPLES = 1000


@dataclass(frozen=True)
class Pair:
    """Two models of one tokenizer."""

    student: Any
    teacher: Any
    tokenizer: PreTrainedTokenizerBase

    @property
    def suggested_tokens(self) -> int | None:
        return getattr(self.student.generation_config, "max_new_tokens", None)


@dataclass(frozen=True)
class Pairing:
    """What was found. Intervals are 95 % bootstrap intervals over problems."""

    agreement: dict[str, Estimate]
    """Under the names of the logs, means over the student's tokens."""
    student: EvalResult
    teacher: EvalResult
    lead: Estimate
    """Teacher's accuracy less the student's, problem by problem."""
    tokens: int


def open_pair(student: ModelConfig, teacher: ModelConfig) -> Pair:
    """Raises ModelNotFound, or ConfigError that names the first token on which the tokenizers differ."""
    ours, tokenizer = load_student(student)
    theirs, its_tokenizer = load_student(teacher)
    check_same_tokenizer(tokenizer, its_tokenizer, teacher.name_or_path)
    return Pair(ours, theirs, tokenizer)


def diagnose(
    pair: Pair,
    problems: Sequence[Problem],
    judge: VerifierConfig,
    sampling: SamplingConfig,
    *,
    k: int,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Pairing:
    """One rollout of each model on every problem; both networks' distributions along the student's."""
    verifier = load_verifier(judge)
    try:
        drawn = [
            draw_rollouts(
                TransformersGenerator(model, pair.tokenizer),
                pair.tokenizer,
                problems,
                verifier,
                sampling,
                truncated=judge.truncated,
                seed=seed,
                on_progress=on_progress,
            )
            for model in (pair.student, pair.teacher)
        ]
    finally:
        verifier.close()
    results = [
        summarise(records_of(side.rollouts, 1), bootstrap=EvalConfig().bootstrap, seed=seed, too_long=side.too_long)
        for side in drawn
    ]
    accuracies = [[record.accuracy for record in result.records] for result in results]
    lead = bootstrap_means(np.array([np.subtract(accuracies[1], accuracies[0])]), resamples=RESAMPLES, seed=seed)[0]
    sums = _sums_by_problem(pair, drawn[0].rollouts, sampling, k)
    return Pairing(
        agreement=_estimates(sums, seed),
        student=results[0],
        teacher=results[1],
        lead=lead,
        tokens=round(sum(one["agreement_tokens"] for one in sums)),
    )


def _sums_by_problem(
    pair: Pair, rollouts: Sequence[Rollout], sampling: SamplingConfig, k: int
) -> list[dict[str, float]]:
    rows = [ScoreRow(rollout.prompt_ids, rollout.completion.token_ids) for rollout in rollouts]
    sums = []
    for start in range(0, len(rows), sampling.batch_size):  # a batch of what was drawn at once is scored at once
        part = rows[start : start + sampling.batch_size]
        values_RTM = agreement_rows(pair.student, part, teacher_sides(pair.teacher, part), k=k)
        sums += [
            agreement_sums(values_TM[None], [len(row.completion_ids)], max_new_tokens=sampling.max_new_tokens)
            for row, values_TM in zip(part, values_RTM, strict=True)
        ]
    return sums


def _estimates(sums: Sequence[dict[str, float]], seed: int) -> dict[str, Estimate]:
    """Ratios of sums over problems, with percentiles over resampled problems."""
    values_PM = np.array([[one[name] for name in COUNTED] for one in sums])
    rng = np.random.default_rng(seed)
    drawn = [values_PM[rng.integers(0, len(sums), len(sums))].sum(axis=0) for _ in range(RESAMPLES)]
    whole = agreement_metrics(dict(zip(COUNTED, values_PM.sum(axis=0).tolist(), strict=True)))
    resampled = [agreement_metrics(dict(zip(COUNTED, one.tolist(), strict=True))) for one in drawn]
    estimates = {}
    for name, value in whole.items():
        low, high = np.percentile([one[name] for one in resampled if name in one], [2.5, 97.5])
        estimates[name] = Estimate(value, float(low), float(high))
    return estimates
