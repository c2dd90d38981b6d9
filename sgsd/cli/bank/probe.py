"""`sgsd bank probe`: does an entry help a model that reads it?"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.bank.app import app
from sgsd.cli.bank.entry_text import probed
from sgsd.cli.bank.options import BankOption, IdArgument, JsonOption, writing
from sgsd.cli.common import counted, emit, from_options, offline_without_network, progress, waiting, warn
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
)

if TYPE_CHECKING:
    from skillbank.store.probes import Probe


@app.command(epilog="Example: sgsd bank probe 3 --bank bank --model arena --data arena:easy --limit 200")
def probe(
    entry_id: IdArgument,
    bank: BankOption,
    data: Annotated[str, typer.Option(help="Problems: a JSONL or parquet file, a hub name, or arena:LEVEL.")],
    model: ModelName = "arena",
    k: Annotated[int, typer.Option("--k", "-k", help="Completions a problem, with the entry and without.")] = 1,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. Default: 0 when k is 1, else 1.")] = None,
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
    json: JsonOption = False,
) -> None:
    """Draw rollouts on sample problems with an entry in the prompt and without: repairs, regressions, an interval.

    Problems from which the entry was mined are left out. The result is kept in the bank and stands on the entry's page.
    """
    from sgsd.config import DataConfig, SamplingConfig

    heat = (0.0 if k == 1 else 1.0) if temperature is None else temperature
    sampling = from_options(
        SamplingConfig,
        {"n": k, "temperature": heat, "top_p": top_p, "top_k": top_k, "batch_size": batch_size}
        | {"thinking": thinking, "max_prompt_tokens": max_prompt_tokens},
        {"n": "--k"},
    )
    judge = judge_from_options(verifier, timeout, truncated)
    drawn_by = engine_from_options(engine, server or [], server_model, gpu_memory_utilization)
    offline_without_network(data, model)
    with ExitStack() as held:
        opened = held.enter_context(writing(bank))
        from skillbank.store.probes import make_room, record

        opened.get(entry_id)
        make_room(opened)

        from sgsd.cli.sources import load_source

        problems = load_source(DataConfig(source=data, split=split, limit=limit))
        with waiting("loading the model"):
            from sgsd.probe import probe_entry
            from sgsd.verify import load_verifier

            checker = load_verifier(judge)
            held.callback(checker.close)
            drawer = held.enter_context(drawing(drawn_by, model, sampling, max_new_tokens))
        advance = held.enter_context(progress("with the entry and without", total=2 * len(problems)))
        found = probe_entry(
            opened,
            entry_id,
            drawer.generator,
            drawer.tokenizer,
            problems,
            checker,
            drawer.sampling,
            model=model,
            data=f"{data}, {split}",
            truncated=judge.truncated,
            seed=seed,
            on_progress=advance,
        )
        record(opened, found)
        kind = opened.get(entry_id).kind
    if count := retokenised(drawer.generator):
        warn(f"the server tells no token ids: those of {counted(count, 'completion')} are counted from the text")
    emit(found, json, lambda: _print(found, kind))


def _print(found: Probe, kind: str) -> None:
    drawn = f"{counted(found.problems, 'problem')} of {found.data}"
    typer.echo(f"{kind} {found.entry_id} with {found.model} on {drawn}, {counted(found.draws, 'draw')} each way")
    typer.echo(probed(found))
    for count, what in (
        (found.own_problems, "left out: the entry was mined from them"),
        (found.too_long, "left out: longer than --max-prompt-tokens with the entry"),
    ):
        if count:
            typer.echo(f"{counted(count, 'problem')} {what}")
    if found.unverifiable:
        typer.echo(f"{counted(found.unverifiable, 'pair')} of draws without a verdict, not counted")
    for name, ids in (("repaired", found.repaired), ("regressed", found.regressed)):
        if ids:
            typer.echo(f"{name}: {', '.join(ids)}")
