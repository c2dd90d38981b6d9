"""`sgsd rollout`: a model's attempts at problems, verified, in a file that `sgsd bank build` reads."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from sgsd.cli.common import check_file, counted, emit, from_options, offline_without_network, progress, waiting
from sgsd.cli.drawing import (
    EngineName,
    Limit,
    MemoryShare,
    ModelName,
    NewTokens,
    PromptTokens,
    Seed,
    ServerModel,
    Servers,
    Timeout,
    TopK,
    Truncated,
    VerifierName,
    drawing,
    engine_from_options,
    judge_from_options,
    retokenised,
    unverifiable_reasons,
)


def rollout_command(
    data: Annotated[str, typer.Option(help="Problems: a JSONL or parquet file, a hub name, or arena:LEVEL.")],
    out: Annotated[Path, typer.Option(help="The rollout file to write: JSONL, or parquet when it ends in .parquet.")],
    model: ModelName = "arena",
    n: Annotated[int, typer.Option(help="Completions a problem.")] = 4,
    temperature: Annotated[float, typer.Option(help="0 is greedy, with --n 1.")] = 1.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    top_k: TopK = 0,
    max_new_tokens: NewTokens = None,
    max_prompt_tokens: PromptTokens = 2048,
    batch_size: Annotated[int, typer.Option(help="Prompts drawn at once.")] = 64,
    thinking: Annotated[bool, typer.Option(help="Let models think that can.")] = False,
    engine: EngineName = None,
    server: Servers = None,
    server_model: ServerModel = None,
    gpu_memory_utilization: MemoryShare = 0.3,
    verifier: VerifierName = "math",
    timeout: Timeout = 5.0,
    truncated: Truncated = "grade",
    split: Annotated[str, typer.Option(help="Which split of the problems.")] = "train",
    limit: Limit = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Draw completions of problems, verify them, and write a rollout file.

    Example: sgsd rollout --model arena --data arena:easy --limit 500 --n 4 --out rollouts.jsonl
    """
    from sgsd.config import DataConfig, SamplingConfig

    sampling = from_options(
        SamplingConfig,
        {"n": n, "temperature": temperature, "top_p": top_p, "top_k": top_k, "batch_size": batch_size}
        | {"thinking": thinking, "max_prompt_tokens": max_prompt_tokens},
        {},
    )
    judge = judge_from_options(verifier, timeout, truncated)
    drawn_by = engine_from_options(engine, server or [], server_model, gpu_memory_utilization)
    check_file(out, "--out", "rollouts.jsonl")
    offline_without_network(data, model)

    from sgsd.cli.sources import load_source

    problems = load_source(DataConfig(source=data, split=split, limit=limit))

    with ExitStack() as held:
        with waiting("loading the model"):
            from sgsd.rollout import draw_rollouts, write_past_rollouts
            from sgsd.verify import load_verifier

            checker = load_verifier(judge)
            held.callback(checker.close)
            drawer = held.enter_context(drawing(drawn_by, model, sampling, max_new_tokens))
        advance = held.enter_context(progress("rollouts", total=len(problems)))
        drawn = draw_rollouts(
            drawer.generator,
            drawer.tokenizer,
            problems,
            checker,
            drawer.sampling,
            truncated=judge.truncated,
            seed=seed,
            on_progress=advance,
        )
    unverifiable = unverifiable_reasons((rollout.verdict.outcome, rollout.verdict.reason) for rollout in drawn.rollouts)
    write_past_rollouts(out, drawn.rollouts, model=model, sampling=drawer.sampling, seed=seed)
    outcomes = [rollout.verdict.outcome for rollout in drawn.rollouts]
    report: dict[str, Any] = {
        "rollouts": len(outcomes),
        "problems": len(problems) - drawn.too_long,
        "correct": outcomes.count("correct"),
        "wrong": outcomes.count("wrong"),
        "unverifiable": outcomes.count("unverifiable"),
        "truncated": sum(rollout.completion.truncated for rollout in drawn.rollouts),
        "tokens": sum(len(rollout.completion.token_ids) for rollout in drawn.rollouts),
        "too_long": drawn.too_long,
        "unverifiable_reasons": unverifiable,
        "retokenised": retokenised(drawer.generator),
        "path": str(out),
    }
    emit(report, as_json, lambda: _print(report))


def _print(report: dict[str, Any]) -> None:
    counts = ", ".join(f"{report[outcome]} {outcome}" for outcome in ("correct", "wrong", "unverifiable"))
    drawn = f"{counted(report['rollouts'], 'rollout')} of {counted(report['problems'], 'problem')}"
    typer.echo(f"{drawn} in {report['path']}: {counts}")
    typer.echo(f"{report['tokens']:,} tokens; {report['truncated']:,} cut off at the limit")
    for reason, count in report["unverifiable_reasons"].items():
        typer.echo(f"{count} unverifiable: {reason}")
    if report["retokenised"]:
        typer.echo(f"{counted(report['retokenised'], 'completion')} without token ids: counted from the text")
    if report["too_long"]:
        typer.echo(f"{counted(report['too_long'], 'problem')} left out: longer than --max-prompt-tokens")
    typer.echo(f"next: sgsd bank build --rollouts {report['path']} --bank BANK")
