"""`sgsd eval`: accuracy of a model on held-out problems, plain or with the bank in the prompt."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgsd.cli.common import check_file, counted, emit, from_options, offline_without_network, progress, waiting, warn
from sgsd.cli.drawing import (
    EngineName,
    MemoryShare,
    ServerModel,
    Servers,
    drawing,
    engine_from_options,
    judge_from_options,
    retokenised,
    unverifiable_reasons,
)

if TYPE_CHECKING:
    from sgsd.config import BankConfig
    from sgsd.evaluate import EvalResult
    from sgsd.rollout import GuidanceSource


def evaluate_command(
    data: Annotated[str, typer.Option(help="Problems: a JSONL or parquet file, a hub name, or arena:LEVEL.")],
    model: Annotated[str, typer.Option(help="A folder (weights or an adapter), a hub name, or `arena`.")] = "arena",
    k: Annotated[int, typer.Option("--k", "-k", help="Completions a problem: avg@k, pass@k, majority@k.")] = 1,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. Default: 0 when k is 1, else 1.")] = None,
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
    bank: Annotated[Path | None, typer.Option(help="Put pairs retrieved from this bank into the prompt.")] = None,
    pairs: Annotated[int, typer.Option(help="With --bank: pairs a problem.")] = 8,
    engine: EngineName = None,
    server: Servers = None,
    server_model: ServerModel = None,
    gpu_memory_utilization: MemoryShare = 0.3,
    verifier: Annotated[str, typer.Option(help="math, exact, choice or your own module:function.")] = "math",
    timeout: Annotated[float, typer.Option(help="Seconds a verification; more is unverifiable.")] = 5.0,
    truncated: Annotated[str, typer.Option(help="Completions that were cut off: grade, wrong or ignore.")] = "grade",
    split: Annotated[str, typer.Option(help="Which split of the problems.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="The first problems only.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write numbers and outcomes here, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure avg@k, pass@k and majority@k on held-out problems, with 95 % bootstrap intervals.

    Example: sgsd eval --model runs/arena/student --data arena:easy
    """
    from sgsd.config import BankConfig, DataConfig, EvalConfig, SamplingConfig

    heat = (0.0 if k == 1 else 1.0) if temperature is None else temperature
    sampling = from_options(
        SamplingConfig,
        {"n": k, "temperature": heat, "top_p": top_p, "top_k": top_k, "batch_size": batch_size}
        | {"thinking": thinking, "max_prompt_tokens": max_prompt_tokens},
        {"n": "--k"},
    )
    judge = judge_from_options(verifier, timeout, truncated)
    drawn_by = engine_from_options(engine, server or [], server_model, gpu_memory_utilization)
    pool = from_options(BankConfig, {"path": str(bank) if bank else None, "k": pairs}, {"k": "--pairs"})
    if out is not None:
        check_file(out, "--out", "numbers.json")
    offline_without_network(data, model)

    from sgsd.cli.sources import load_source

    problems = load_source(DataConfig(source=data, split=split, limit=limit))

    with ExitStack() as held:
        with waiting("loading the model"):
            from sgsd.evaluate import evaluate
            from sgsd.verify import load_verifier

            guidance = _guidance(pool, seed)
            checker = load_verifier(judge)
            held.callback(checker.close)
            drawer = held.enter_context(drawing(drawn_by, model, sampling, max_new_tokens))
        advance = held.enter_context(progress("evaluation", total=len(problems)))
        result = evaluate(
            drawer.generator,
            drawer.tokenizer,
            problems,
            checker,
            EvalConfig(sampling=drawer.sampling, with_bank=guidance is not None),
            truncated=judge.truncated,
            seed=seed,
            guidance=guidance,
            on_progress=advance,
        )
    if count := retokenised(drawer.generator):
        warn(f"the server tells no token ids: those of {counted(count, 'completion')} are counted from the text")
    if out is not None:
        _write(out, result)
    emit(result.summary(), as_json, lambda: _print(result))


def _guidance(pool: BankConfig, seed: int) -> GuidanceSource | None:
    if pool.path is None:
        return None
    from sgsd.methods import open_bank
    from sgsd.rollout import bank_guidance

    return bank_guidance(open_bank(pool.path, pool, seed=seed))


def _write(path: Path, result: EvalResult) -> None:
    """Write summary and records, whole or not at all."""
    content: dict[str, Any] = {**result.summary(), "records": [dataclasses.asdict(r) for r in result.records]}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp")
    try:
        part.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _print(result: EvalResult) -> None:
    low, high = result.ci
    over = f"avg@{result.k} over {counted(result.problems, 'problem')}"
    typer.echo(f"accuracy {result.accuracy:.3f} [{low:.3f}, {high:.3f}]  {over}")
    if result.k > 1:
        for draws, estimate in result.pass_at_k.items():
            typer.echo(f"pass@{draws}  {estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]")
        vote = result.majority_at_k
        typer.echo(f"majority@{result.k}  {vote.value:.3f} [{vote.low:.3f}, {vote.high:.3f}]")
    notes = [f"{result.mean_tokens:.1f} tokens a completion"]
    notes += [f"{result.truncated_share:.1%} cut off"] if result.truncated_share else []
    notes += [f"{result.unverifiable} unverifiable"] if result.unverifiable else []
    notes += (
        [f"{counted(result.too_long, 'problem')} left out: longer than --max-prompt-tokens"] if result.too_long else []
    )
    typer.echo("; ".join(notes))
    said = (both for r in result.records for both in zip(r.outcomes, r.reasons, strict=True))
    for reason, count in unverifiable_reasons(said).items():
        typer.echo(f"{count} unverifiable: {reason}")
