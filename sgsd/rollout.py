"""Rollouts: draw completions of problems and verify them. What evaluation, mining and `sgsd rollout` have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import skillbank.records
from sgsd.errors import DataInvalid, ProblemTooLong
from sgsd.prompts import Guidance, guided_user_text, render
from sgsd.records import Problem, Rollout
from sgsd.verify import TruncationPolicy, Verifier, grade
from skillbank.rollouts import write_rollouts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import SamplingConfig
    from sgsd.generate import Generator
    from skillbank.retrieve import Retriever

GuidanceSource = Callable[[Sequence[Problem]], Sequence[Sequence[Guidance]]]
"""The lessons to put into the prompt of each problem."""

Asked = tuple[Problem, tuple[int, ...]]
"""A problem and the token ids of its prompt."""


@dataclass(frozen=True)
class Drawn:
    """Verified rollouts, problem after problem, `sampling.n` of each."""

    rollouts: tuple[Rollout, ...]
    too_long: int
    """Problems left out, their prompt being over the limit (docs/method.md, pitfall 15)."""


def draw_rollouts(
    generator: Generator,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    verifier: Verifier,
    sampling: SamplingConfig,
    *,
    truncated: TruncationPolicy = "grade",
    seed: int = 0,
    guidance: GuidanceSource | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Drawn:
    """Draw `sampling.n` completions a problem and verify them. Plain prompts, unless `guidance` gives lessons.

    `on_progress` is called with the number of problems finished since its last call.

    Raises DataInvalid without problems, ProblemTooLong when every prompt exceeds `sampling.max_prompt_tokens`.
    """
    asked = prompts_that_fit(tokenizer, problems, sampling, guidance)
    rollouts = roll_out(generator, asked, verifier, sampling, truncated=truncated, seed=seed, on_progress=on_progress)
    return Drawn(rollouts, too_long=len(problems) - len(asked))


def prompts_that_fit(
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    sampling: SamplingConfig,
    guidance: GuidanceSource | None = None,
) -> list[Asked]:
    """The problems with their prompts, without those whose prompt is too long. Raises as `draw_rollouts` does."""
    if not problems:
        raise DataInvalid("no problems to draw rollouts of: give at least one")
    lessons = guidance(problems) if guidance is not None else [()] * len(problems)
    prompts = [
        tuple(render(tokenizer, guided_user_text(problem.problem, given), thinking=sampling.thinking))
        for problem, given in zip(problems, lessons, strict=True)
    ]
    limit = sampling.max_prompt_tokens
    kept = [(problem, ids) for problem, ids in zip(problems, prompts, strict=True) if len(ids) <= limit]
    if not kept:
        raise ProblemTooLong(
            f"all {len(problems)} prompts exceed max_prompt_tokens = {limit} (the shortest has "
            f"{min(map(len, prompts))}): raise the limit"
        )
    return kept


def roll_out(
    generator: Generator,
    asked: Sequence[Asked],
    verifier: Verifier,
    sampling: SamplingConfig,
    *,
    truncated: TruncationPolicy,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Rollout, ...]:
    """Verified rollouts, problem after problem, `sampling.n` of each."""
    drawn = generator.generate([ids for _, ids in asked], sampling, seed=seed, on_progress=on_progress)
    owned = [(*of, completion) for of, completions in zip(asked, drawn, strict=True) for completion in completions]
    verdicts = grade(
        verifier, [completion for _, _, completion in owned], [problem for problem, _, _ in owned], truncated
    )
    return tuple(
        Rollout(problem, ids, completion, verdict)
        for (problem, ids, completion), verdict in zip(owned, verdicts, strict=True)
    )


def bank_guidance(retriever: Retriever) -> GuidanceSource:
    """Retrieved pairs as guidance: at most the retriever's k a problem, best first."""

    def guidance(problems: Sequence[Problem]) -> list[list[Guidance]]:
        found = retriever.retrieve([p.problem for p in problems], [p.problem_id for p in problems])
        return [[Guidance(pair.skill, pair.mistake) for pair in pairs] for pairs in found]

    return guidance


def past_rollouts(
    rollouts: Sequence[Rollout],
    *,
    model: str,
    sampling: SamplingConfig,
    seed: int,
    guided: bool = False,
    with_tokens: bool = False,
) -> Iterator[skillbank.records.Rollout]:
    """The same rollouts as `skillbank` keeps them: the lines of a rollout file. `guided` says that lessons of a bank
    stood in their prompts: a bank that learned from its own words would echo. `with_tokens` keeps the token ids too,
    which whoever scores the completions again needs and whoever mines them does not.

    An id names the problem, the drawing (model, sampling, seed) and the number of the draw, so that files of different
    drawings can be mined together and a file that is read twice is known to be the same.
    """
    settings = {**sampling.model_dump(mode="json"), "seed": seed}
    drawing = hashlib.sha256(json.dumps([model, settings], sort_keys=True).encode()).hexdigest()[:8]
    drawn: dict[str, int] = {}
    for rollout in rollouts:
        problem = rollout.problem
        number = drawn[problem.problem_id] = drawn.get(problem.problem_id, -1) + 1
        yield skillbank.records.Rollout(
            rollout_id=f"{problem.problem_id}-{drawing}-{number}",
            problem_id=problem.problem_id,
            problem=problem.problem,
            completion=rollout.completion.text,
            outcome=rollout.verdict.outcome,
            answer=rollout.verdict.answer,
            reference=problem.answer,
            model=model,
            sampling=settings,
            source=problem.source,
            split=problem.split,
            guided=guided,
            token_ids=rollout.completion.token_ids if with_tokens else None,
        )


def write_past_rollouts(
    path: Path,
    rollouts: Sequence[Rollout],
    *,
    model: str,
    sampling: SamplingConfig,
    seed: int,
    guided: bool = False,
    with_tokens: bool = False,
) -> None:
    """A rollout file, whole or not at all; the rest is as in `past_rollouts`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = past_rollouts(rollouts, model=model, sampling=sampling, seed=seed, guided=guided, with_tokens=with_tokens)
    write_rollouts(path, lines)
