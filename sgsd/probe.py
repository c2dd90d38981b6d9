"""What one entry of a bank does to a model that reads it: rollouts on sample problems with it and without.

The same problems, sampling and seed twice; the entry stands in the prompt as its teacher would see it, which is how
base + skill puts lessons there. Problems from which the entry was mined are left out: it may hold their answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from sgsd.errors import DataInvalid
from sgsd.prompts import Guidance
from sgsd.records import Problem, Rollout
from sgsd.rollout import draw_rollouts
from sgsd.verify import TruncationPolicy, Verifier
from skillbank.records import Mistake, Pair, Skill, problem_hash
from skillbank.store import Bank
from skillbank.store.probes import Probe, words_of
from skillbank.usage.clusters import Clusters, bounded_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import SamplingConfig
    from sgsd.generate import Generator

NAMED = 20
"""Problems with a repair, and with a regression, that a probe names."""
LEVEL = 0.95


def probe_entry(
    bank: Bank,
    entry_id: int,
    generator: Generator,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    verifier: Verifier,
    sampling: SamplingConfig,
    *,
    model: str,
    data: str,
    truncated: TruncationPolicy = "grade",
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Probe:
    """Draw `sampling.n` completions a problem with the entry and as many without, and compare them in pairs.

    `on_progress` is called with the number of problems finished since its last call, twice as many in all. The bank is
    read and not written to. Raises EntryNotFound, DataInvalid when no problem is left, ProblemTooLong when none fits.
    """
    guidance = guidance_of(bank, entry_id)
    foreign = not_its_own(bank, entry_id, problems)
    if not foreign:
        raise DataInvalid(f"entry {entry_id} was mined from all of the {len(problems)} problems: give others")

    def draw(of: Sequence[Problem], lessons: Sequence[Guidance]) -> tuple[tuple[Rollout, ...], int]:
        drawn = draw_rollouts(
            generator,
            tokenizer,
            of,
            verifier,
            sampling,
            truncated=truncated,
            seed=seed,
            guidance=lambda given: [lessons] * len(given),
            on_progress=on_progress,
        )
        return drawn.rollouts, drawn.too_long

    guided, too_long = draw(foreign, [guidance])
    fitting = [rollout.problem for rollout in guided[:: sampling.n]]
    plain, _ = draw(fitting, [])
    return Probe(
        entry_id=entry_id,
        words=words_of(bank, entry_id),
        revision=bank.revision,
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        model=model,
        data=data,
        draws=sampling.n,
        temperature=sampling.temperature,
        seed=seed,
        problems=len(fitting),
        own_problems=len(problems) - len(foreign),
        too_long=too_long,
        **_compared(plain, guided, sampling.n),
    )


def guidance_of(bank: Bank, entry_id: int) -> Guidance:
    """An entry as a lesson: a skill or a mistake alone, a pair as both. Raises EntryNotFound."""
    content = bank.get(entry_id).content
    if isinstance(content, Pair):
        skill, mistake = bank.get(content.skill_id).content, bank.get(content.mistake_id).content
        assert isinstance(skill, Skill)
        assert isinstance(mistake, Mistake)
        return Guidance(skill, mistake)
    return Guidance(content, None) if isinstance(content, Skill) else Guidance(None, content)


def not_its_own(bank: Bank, entry_id: int, problems: Sequence[Problem]) -> list[Problem]:
    """The problems on which no place rests that the entry rests on, by id or by words."""
    own = {place.problem_id for place in bank.evidence(entry_id)}
    texts = {problem_hash(known.problem) for i in own if (known := bank.problem(i)) is not None}
    return [p for p in problems if p.problem_id not in own and problem_hash(p.problem) not in texts | own]


def _compared(plain: Sequence[Rollout], guided: Sequence[Rollout], draws: int) -> dict[str, Any]:
    """The numbers of a probe from rollouts of the same problems in the same order.

    The interval is `skillbank.usage.clusters.bounded_mean` of +1 for a repair, -1 for a regression, 0 for neither, with
    each problem a cluster of its draws: of one draw a problem it is the interval of Bonett and Price (J. Educ. Behav.
    Stat. 2012) for the difference of two paired proportions.
    """
    value_N: list[int] = []
    number_N: list[int] = []
    changed: dict[int, list[str]] = {1: [], -1: []}
    right_without = right_with = 0
    for n, (before, after) in enumerate(zip(plain, guided, strict=True)):
        outcomes = (before.verdict.outcome, after.verdict.outcome)
        if "unverifiable" in outcomes:
            continue
        was, is_now = (outcome == "correct" for outcome in outcomes)
        right_without, right_with = right_without + was, right_with + is_now
        value_N.append(is_now - was)
        number_N.append(n // draws)
        if is_now != was and before.problem.problem_id not in changed[is_now - was]:
            changed[is_now - was].append(before.problem.problem_id)
    if not value_N:
        raise DataInvalid(f"none of {len(plain)} pairs of draws has a verdict: look at the verifier")
    clusters = Clusters.of(np.zeros(len(value_N), dtype=np.int64), np.array(number_N, dtype=np.int64))
    bounds = bounded_mean(clusters, np.ones(len(value_N)), np.array(value_N, dtype=np.float64), LEVEL)
    difference, low, high = (float(bound[0]) for bound in bounds)
    return {
        "pairs": len(value_N),
        "unverifiable": len(plain) - len(value_N),
        "right_without": right_without,
        "right_with": right_with,
        "repairs": value_N.count(1),
        "regressions": value_N.count(-1),
        "difference": difference,
        "low": low,
        "high": high,
        "repaired": tuple(changed[1][:NAMED]),
        "regressed": tuple(changed[-1][:NAMED]),
    }
