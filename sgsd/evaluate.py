"""Accuracy on held-out problems: avg@k, pass@k and majority@k, with bootstrap intervals over problems.

What is drawn, how and from which prompt is all in the arguments, so that an evaluation during training, the demo's and
`sgsd eval` are this one function. Left out of the numbers and counted: problems whose prompt is too long. An
unverifiable completion counts as not correct, and is counted: the accuracy is a lower bound where there are any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from math import comb
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sgsd.errors import DataInvalid, ProblemTooLong
from sgsd.generate.seeds import prompt_seeds
from sgsd.ranks import ALONE, Processes
from sgsd.records import Outcome, Problem, Rollout
from sgsd.rollout import Asked, GuidanceSource, prompts_that_fit, roll_out
from sgsd.verify import TruncationPolicy, Verifier
from sgsd.verify.answers import fold

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import EvalConfig, SamplingConfig
    from sgsd.generate import Generator


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ProblemResult:
    """What happened on one problem: k outcomes, answers and lengths."""

    problem_id: str
    outcomes: tuple[Outcome, ...]
    answers: tuple[str | None, ...]
    tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    reasons: tuple[str, ...] = ()
    """What the verifier said of each outcome; empty texts where it said nothing."""

    @property
    def accuracy(self) -> float:
        return self.outcomes.count("correct") / len(self.outcomes)


@dataclass(frozen=True)
class EvalResult:
    """The numbers of one evaluation."""

    accuracy: float
    """avg@k: the mean over problems of the share of correct completions."""
    ci: tuple[float, float]
    k: int
    """Completions a problem."""
    problems: int
    """Problems in the numbers."""
    pass_at_k: dict[int, Estimate]
    """For 1, 2, 4, ... and k draws: the chance that one at least is correct (unbiased from the k at hand)."""
    majority_at_k: Estimate
    truncated_share: float
    """Of all completions, those that the length limit cut off."""
    unverifiable: int
    """Completions without a verdict."""
    mean_tokens: float
    """A completion, end token included."""
    too_long: int
    """Problems left out, their prompt being over the limit."""
    records: tuple[ProblemResult, ...]

    def summary(self) -> dict[str, Any]:
        """The JSON fields of `sgsd eval`; `records` are not among them."""
        return {
            "accuracy": self.accuracy,
            "ci": list(self.ci),
            "k": self.k,
            "problems": self.problems,
            "pass_at_k": {str(j): _fields(estimate) for j, estimate in self.pass_at_k.items()},
            "majority_at_k": _fields(self.majority_at_k),
            "truncated_share": self.truncated_share,
            "unverifiable": self.unverifiable,
            "mean_tokens": self.mean_tokens,
            "too_long": self.too_long,
        }


class Finished(Protocol):
    """What keeps finished problems, so that an evaluation that was ended goes on (sgsd.journal)."""

    def of(self, problems: Sequence[Problem]) -> list[ProblemResult] | None:
        """The records of these problems, None unless all are there."""
        ...

    def add(self, records: Sequence[ProblemResult], rollouts: Sequence[Rollout]) -> None:
        """Keep what a batch came to: k rollouts of each record."""
        ...


def evaluate(
    generator: Generator,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    verifier: Verifier,
    config: EvalConfig,
    *,
    truncated: TruncationPolicy = "grade",
    seed: int = 0,
    guidance: GuidanceSource | None = None,
    on_progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
    finished: Finished | None = None,
) -> EvalResult:
    """Draw `config.sampling.n` completions a problem, verify them, and count.

    `guidance` puts lessons of the bank into the prompts (base + skill); without it they are plain. `seed` rules the
    draws and the bootstrap. `on_progress` is called with the number of problems finished since its last call. Of
    several `processes`, each takes its share of the problems and all get the numbers of the whole. At most
    `sampling.batch_size` completions are drawn at a time; each such batch is handed to `finished`, and is not drawn
    where that has it from before.

    Raises DataInvalid without problems, ProblemTooLong when every prompt exceeds `sampling.max_prompt_tokens`.
    """
    mine = problems[processes.index :: processes.count]
    records: list[ProblemResult] = []
    too_long = len(mine)
    with suppress(*((ProblemTooLong, DataInvalid) if processes.count > 1 else ())):  # others may have some that fit
        asked = prompts_that_fit(tokenizer, mine, config.sampling, guidance)
        too_long = len(mine) - len(asked)
        draw = partial(roll_out, generator, verifier=verifier, sampling=config.sampling, truncated=truncated)
        records = _in_batches(draw, asked, config.sampling, seed, finished, on_progress)
    shares, counts = zip(*processes.gather((records, too_long)), strict=True)
    dealt = [record for turn in zip_longest(*shares) for record in turn if record is not None]
    if not dealt:
        raise ProblemTooLong(f"none of {len(problems)} problems fits max_prompt_tokens: raise it, or give others")
    return summarise(dealt, bootstrap=config.bootstrap, seed=seed, too_long=sum(counts))


def _in_batches(
    draw: Callable[..., tuple[Rollout, ...]],
    asked: Sequence[Asked],
    sampling: SamplingConfig,
    seed: int,
    finished: Finished | None,
    on_progress: Callable[[int], None] | None,
) -> list[ProblemResult]:
    """Records in the order of the problems. Prompts of like lengths are drawn together, a batch from a seed of its own:
    what a batch draws does not depend on which others were drawn before, in this process or an earlier one."""
    by_length = sorted(range(len(asked)), key=lambda index: len(asked[index][1]))
    size = max(1, sampling.batch_size // sampling.n)
    batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
    records: dict[int, ProblemResult] = {}
    for batch, batch_seed in zip(batches, prompt_seeds(seed, len(batches)), strict=True):
        there = finished.of([asked[index][0] for index in batch]) if finished is not None else None
        if there is None:
            rollouts = draw(asked=[asked[index] for index in batch], seed=batch_seed, on_progress=on_progress)
            there = records_of(rollouts, sampling.n)
            if finished is not None:
                finished.add(there, rollouts)
        elif on_progress is not None:
            on_progress(len(batch))
        records |= zip(batch, there, strict=True)
    return [records[index] for index in range(len(asked))]


def records_of(rollouts: Sequence[Rollout], k: int) -> list[ProblemResult]:
    """Rollouts of problem after problem, k of each."""
    return [_record(rollouts[start : start + k]) for start in range(0, len(rollouts), k)]


def summarise(records: Sequence[ProblemResult], *, bootstrap: int, seed: int = 0, too_long: int = 0) -> EvalResult:
    """The numbers of records that are at hand; all records have the same k."""
    k = len(records[0].outcomes)
    correct = [record.outcomes.count("correct") for record in records]
    draws = sorted({2**power for power in range(k.bit_length())} | {k})
    columns = [[c / k for c in correct], [majority(record) for record in records]]
    columns += [[pass_at(j, c, k) for c in correct] for j in draws]
    accuracy, vote, *passes = bootstrap_means(np.array(columns), resamples=bootstrap, seed=seed)
    completions = len(records) * k
    return EvalResult(
        accuracy=accuracy.value,
        ci=(accuracy.low, accuracy.high),
        k=k,
        problems=len(records),
        pass_at_k=dict(zip(draws, passes, strict=True)),
        majority_at_k=vote,
        truncated_share=sum(sum(record.truncated) for record in records) / completions,
        unverifiable=sum(record.outcomes.count("unverifiable") for record in records),
        mean_tokens=sum(sum(record.tokens) for record in records) / completions,
        too_long=too_long,
        records=tuple(records),
    )


def mean_over_sets(results: Sequence[EvalResult], *, bootstrap: int, seed: int = 0) -> Estimate:
    """The mean of the sets' accuracies, each set counting alike. 95 % bootstrap: problems are resampled in each set."""
    rng = np.random.default_rng(seed)
    sets = [np.array([record.accuracy for record in result.records]) for result in results]
    means_R = [np.mean([rng.choice(one, len(one)).mean() for one in sets]) for _ in range(bootstrap)]
    low, high = np.percentile(means_R, [2.5, 97.5])
    return Estimate(float(np.mean([one.mean() for one in sets])), float(low), float(high))


def pass_at(draws: int, correct: int, k: int) -> float:
    """Chance that `draws` of the k completions, taken without replacement, hold a correct one (arXiv 2107.03374)."""
    return 1.0 - comb(k - correct, draws) / comb(k, draws)


def majority(record: ProblemResult) -> float:
    """Expected accuracy of the most frequent answer, ties broken by lot.

    Correct answers are one answer, however they are written; wrong ones are as many as they have texts. A completion
    without an answer has no vote.
    """
    votes: Counter[str | None] = Counter()
    for outcome, answer in zip(record.outcomes, record.answers, strict=True):
        if outcome == "correct":
            votes[None] += 1  # None is no text, so it can stand for the right answer
        elif answer is not None:
            votes[fold(answer)] += 1
    most = max(votes.values(), default=0)
    return (votes[None] == most) / list(votes.values()).count(most) if votes[None] else 0.0


def bootstrap_means(values_MP: NDArray[np.float64], *, resamples: int, seed: int) -> list[Estimate]:
    """Mean of each of M measures over P problems, with the 2.5 and 97.5 percentiles over resampled problem sets.

    The measures share their resamples. Percentile bootstrap: problems that all agree give an interval of no width.
    """
    rng = np.random.default_rng(seed)
    problems = values_MP.shape[1]
    means_RM = np.stack([values_MP[:, rng.integers(0, problems, problems)].mean(axis=1) for _ in range(resamples)])
    low_M, high_M = np.percentile(means_RM, [2.5, 97.5], axis=0)
    return [
        Estimate(float(mean), float(low), float(high))
        for mean, low, high in zip(values_MP.mean(axis=1), low_M, high_M, strict=True)
    ]


def _record(rollouts: Sequence[Rollout]) -> ProblemResult:
    return ProblemResult(
        problem_id=rollouts[0].problem.problem_id,
        outcomes=tuple(rollout.verdict.outcome for rollout in rollouts),
        answers=tuple(rollout.verdict.answer for rollout in rollouts),
        tokens=tuple(len(rollout.completion.token_ids) for rollout in rollouts),
        truncated=tuple(rollout.completion.truncated for rollout in rollouts),
        reasons=tuple(rollout.verdict.reason for rollout in rollouts),
    )


def _fields(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci": [estimate.low, estimate.high]}
