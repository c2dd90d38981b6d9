"""`sgsd rollout`: a model's attempts at problems, verified, in a file that `sgsd bank build` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sgsd.cli.common import emit, progress
from sgsd.errors import ConfigError


def rollout_command(
    data: Annotated[str, typer.Option(help="Problems: a JSONL or parquet file, a hub name, or arena:LEVEL.")],
    out: Annotated[Path, typer.Option(help="The rollout file to write: JSONL, or parquet when it ends in .parquet.")],
    model: Annotated[str, typer.Option(help="A folder, a hub name, or `arena`.")] = "arena",
    n: Annotated[int, typer.Option(help="Completions a problem.")] = 4,
    temperature: Annotated[float, typer.Option(help="0 is greedy, with -n 1.")] = 1.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    top_k: Annotated[int, typer.Option(help="0 keeps the whole vocabulary.")] = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Default: what the model's generation settings say, else 1024.")
    ] = None,
    max_prompt_tokens: Annotated[
        int, typer.Option(min=1, help="Problems with longer prompts are left out and counted.")
    ] = 2048,
    batch_size: Annotated[int, typer.Option(help="Prompts drawn at once.")] = 64,
    thinking: Annotated[bool, typer.Option(help="Let models think that can.")] = False,
    verifier: Annotated[str, typer.Option(help="math, exact, choice or your own module:function.")] = "math",
    timeout: Annotated[float, typer.Option(help="Seconds a verification; more is unverifiable.")] = 5.0,
    truncated: Annotated[str, typer.Option(help="Completions that were cut off: grade, wrong or ignore.")] = "grade",
    split: Annotated[str, typer.Option(help="Which split of the problems.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="The first problems only.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Draw completions of problems, verify them, and write a rollout file.

    Example: sgsd rollout --model arena --data arena:easy --limit 500 --n 4 --out rollouts.jsonl
    """
    from sgsd.config import DataConfig, SamplingConfig, VerifierConfig

    sampling = SamplingConfig.model_validate(
        {"n": n, "temperature": temperature, "top_p": top_p, "top_k": top_k, "batch_size": batch_size}
        | {"thinking": thinking, "max_prompt_tokens": max_prompt_tokens}
    )
    judge = VerifierConfig.model_validate({"name": verifier, "timeout_s": timeout, "truncated": truncated})
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder: give the name of a file in it, such as {out / 'rollouts.jsonl'}")

    from sgsd.cli.sources import load_source

    problems = load_source(DataConfig(source=data, split=split, limit=limit))

    from sgsd.cli.drawing import open_student, with_length
    from sgsd.rollout import draw_rollouts, write_past_rollouts
    from sgsd.verify import load_verifier

    checker = load_verifier(judge)
    generator, tokenizer, suggested = open_student(model)
    sampling = with_length(sampling, max_new_tokens, suggested)
    with progress("rollouts", total=len(problems)) as advance:
        drawn = draw_rollouts(
            generator,
            tokenizer,
            problems,
            checker,
            sampling,
            truncated=judge.truncated,
            seed=seed,
            on_progress=advance,
        )
    checker.close()
    write_past_rollouts(out, drawn.rollouts, model=model, sampling=sampling, seed=seed)
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
        "path": str(out),
    }
    emit(report, as_json, lambda: _print(report))


def _print(report: dict[str, Any]) -> None:
    counts = ", ".join(f"{report[outcome]} {outcome}" for outcome in ("correct", "wrong", "unverifiable"))
    typer.echo(f"{report['rollouts']} rollouts of {report['problems']} problems in {report['path']}: {counts}")
    typer.echo(f"{report['tokens']} tokens; {report['truncated']} cut off at the limit")
    if report["too_long"]:
        typer.echo(f"{report['too_long']} problems left out: their prompts exceed the limit")
