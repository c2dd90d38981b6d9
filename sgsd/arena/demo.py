"""The whole method on the arena: rollouts, bank, retrieval, gated training, evaluation. What `sgsd demo` runs.

Nothing here is special: each phase is the function that its own command calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from sgsd.arena.entries import hit_share, plant
from sgsd.arena.settings import PAST_DRAWS, PAST_PROBLEMS, arena_config, sampling
from sgsd.arena.tasks import Level, load_problems
from sgsd.config import RunConfig, apply_override, parse_config
from sgsd.errors import ConfigError
from sgsd.generate.transformers import TransformersGenerator
from sgsd.methods import open_bank
from sgsd.models import load_student
from sgsd.rollout import draw_rollouts, write_past_rollouts
from sgsd.run import train_run
from sgsd.verify import load_verifier
from skillbank.building import BuildReport, build_bank


class DemoReport(BaseModel):
    """What the demo came to. Accuracies are greedy, on plain prompts, over the test split."""

    model_config = ConfigDict(frozen=True)

    level: str
    seed: int
    accuracy_before: float
    accuracy_after: float
    accuracy_best: float
    curve: list[dict[str, Any]]
    generated_tokens: int
    entries: dict[str, int]
    retrieval_hit_share: float
    """Share of training problems whose pool states the true rule of one of their operations."""
    polarity: dict[str, float]
    seconds: dict[str, float]
    student: str
    bank: str
    held_out: int


Say = Callable[[str], None]


def run_demo(
    level: Level = "easy",
    *,
    seed: int = 0,
    out: Path,
    quick: bool = False,
    misleading: float = 0.0,
    irrelevant: float = 0.0,
    overrides: list[str] | None = None,
    say: Say = lambda text: None,
) -> DemoReport:
    """Rollouts of the base model, a bank mined from them, gated training with it, and the accuracy before and after.

    `misleading` and `irrelevant` are shares of the bank's entries that are planted. `quick` is a few steps, to see that
    all parts work. Raises ConfigError when `out` holds something already.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: name a folder with --out")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: name another folder with --out, or remove it")
    config = _config(level, out, seed, quick, overrides or [])
    if config.threads:
        torch.set_num_threads(config.threads)
    seconds: dict[str, float] = {}
    started = time.monotonic()

    say(f"1/4 rollouts: the base model tries problems of arena:{level}")
    rollouts = out / "rollouts.jsonl"
    say("    " + past_rollouts_of_base(config, level, seed, rollouts, quick))
    seconds["rollouts"], started = _lap(started)

    say("2/4 bank: skill-mistake pairs mined from right against wrong attempts")
    report = build_bank([rollouts], out / "bank")
    planted = plant(out / "bank", misleading=misleading, irrelevant=irrelevant, seed=seed)
    say("    " + _of_bank(report, planted))
    seconds["bank"], started = _lap(started)

    problems = load_problems(level, "train", limit=config.data.limit, seed=seed)
    held_out = load_problems(level, "test", limit=100 if quick else None)
    retriever = open_bank(out / "bank", config.bank, seed=seed)
    with retriever.bank as bank:
        entries, hits = dict(bank.stats().entries), hit_share(retriever, problems[:500])
    say(f"3/4 retrieval: {hits:.0%} of the training problems are given a pair that knows an operation of theirs")
    seconds["retrieval"], started = _lap(started)

    say(f"4/4 gated training: {config.train.max_steps} steps, up to {config.bank.k} teachers a problem")
    result = train_run(config, problems, held_out)
    seconds |= result.seconds
    accuracies = [point["accuracy"] for point in result.curve]
    return DemoReport(
        level=level,
        seed=seed,
        accuracy_before=accuracies[0],
        accuracy_after=accuracies[-1],
        accuracy_best=max(accuracies),
        curve=list(result.curve),
        generated_tokens=result.generated_tokens,
        entries={str(kind): count for kind, count in entries.items()},
        retrieval_hit_share=hits,
        polarity=result.polarity,
        seconds={phase: round(value, 1) for phase, value in seconds.items()},
        student=str(result.student),
        bank=str(out / "bank"),
        held_out=len(held_out),
    )


def past_rollouts_of_base(config: RunConfig, level: Level, seed: int, path: Path, quick: bool) -> str:
    """Write the rollout file that the bank is mined from; one line on it."""
    model, tokenizer = load_student(config.model)
    verifier = load_verifier(config.verifier)
    problems = load_problems(level, "train", limit=60 if quick else PAST_PROBLEMS[level], seed=seed + 1)
    drawing = sampling(level, n=PAST_DRAWS)
    drawn = draw_rollouts(
        TransformersGenerator(model, tokenizer), tokenizer, problems, verifier, drawing, seed=seed
    ).rollouts
    verifier.close()
    write_past_rollouts(path, drawn, model=config.model.name_or_path, sampling=drawing, seed=seed)
    right = sum(rollout.verdict.outcome == "correct" for rollout in drawn)
    return f"{len(drawn)} rollouts of {len(problems)} problems, {right / len(drawn):.0%} correct"


def _config(level: Level, out: Path, seed: int, quick: bool, overrides: list[str]) -> RunConfig:
    values = arena_config(level, output_dir=str(out), seed=seed).model_dump(mode="json")
    for override in [*(["train.max_steps=4", "eval.every_steps=2"] if quick else []), *overrides]:
        apply_override(values, override)
    return parse_config(values, where="demo")


def _of_bank(report: BuildReport, planted: int) -> str:
    text = f"{report.problems_with_both} problems with both outcomes gave {report.pairs} pairs: " + ", ".join(
        f"{count} {kind}s" for kind, count in report.entries.items() if kind != "pair"
    )
    return text + (f"; {planted} planted pairs" if planted else "")


def _lap(started: float) -> tuple[float, float]:
    now = time.monotonic()
    return now - started, now
