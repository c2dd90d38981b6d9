"""`sgsd eval`: accuracy of a model on held-out problems, plain or with the bank in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgsd import __version__
from sgsd.cli.common import check_file, counted, emit, from_options, offline_without_network, progress, waiting, warn
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
from sgsd.cli.evaluate_text import Measured, payload, show, write
from sgsd.evalsets import PAPER_NEW_TOKENS, PAPER_SAMPLING, SETS, named

if TYPE_CHECKING:
    from sgsd.config import BankConfig, EngineConfig, SamplingConfig, VerifierConfig
    from sgsd.evaluate import EvalResult
    from sgsd.generate.engines import Drawer
    from skillbank.retrieve import Retriever

NAMES = ", ".join(one.name for one in SETS)


def evaluate_command(
    data: Annotated[
        list[str],
        typer.Option(
            help=f"Problems: {NAMES} (from the hub), a JSONL or parquet file, a hub name, or arena:LEVEL. Several "
            "make one table with their mean."
        ),
    ],
    model: ModelName = "arena",
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help=f"The paper's sampling: avg@{PAPER_SAMPLING['n']}, temperature 1, top-p 0.95, thinking, "
            f"{PAPER_NEW_TOKENS:,} new tokens. Options beside it win.",
        ),
    ] = False,
    k: Annotated[
        int | None, typer.Option("--k", "-k", help="Completions a problem: avg@k, pass@k, majority@k. Default: 1.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. Default: 0 when k is 1, else 1.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: 1.")] = None,
    top_k: TopK = 0,
    max_new_tokens: NewTokens = None,
    max_prompt_tokens: PromptTokens = 2048,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Completions drawn at once, the most that a kill loses. Default: 64, with an engine 256."),
    ] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="Let models think that can. Default: no.")
    ] = None,
    bank: Annotated[Path | None, typer.Option(help="Put pairs retrieved from this bank into the prompt.")] = None,
    pairs: Annotated[int, typer.Option(help="With --bank: pairs a problem.")] = 8,
    engine: EngineName = None,
    server: Servers = None,
    server_model: ServerModel = None,
    gpu_memory_utilization: MemoryShare = 0.3,
    verifier: VerifierName = "math",
    timeout: Timeout = 5.0,
    truncated: Truncated = "grade",
    split: Annotated[str, typer.Option(help="Which split of the problems.")] = "test",
    limit: Limit = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write numbers and outcomes here, as JSON. Finished problems are kept beside it, in "
            "NAME.records.jsonl: the same command goes on from there."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure avg@k, pass@k and majority@k on held-out problems, with 95 % bootstrap intervals.

    Example: sgsd eval --model runs/arena/student --data arena:easy

    As in the paper: sgsd eval --model MODEL --paper --data AIME24 --data AIME25 --data HMMT25 --out result.json
    """
    from sgsd.config import BankConfig

    drawn_by = engine_from_options(engine, server or [], server_model, gpu_memory_utilization)
    given = {"n": k, "temperature": temperature, "top_p": top_p, "thinking": thinking, "batch_size": batch_size}
    sampling = _sampling(
        given | {"top_k": top_k, "max_prompt_tokens": max_prompt_tokens}, paper=paper, engine=drawn_by.engine
    )
    new_tokens = max_new_tokens or (PAPER_NEW_TOKENS if paper else None)
    judge = judge_from_options(verifier, timeout, truncated)
    pool = from_options(BankConfig, {"path": str(bank) if bank else None, "k": pairs}, {"k": "--pairs"})
    if out is not None:
        check_file(out, "--out", "numbers.json")
    offline_without_network(model, *(known.hub if (known := named(source)) else source for source in data))
    sets = _sets(data, split, limit)

    with ExitStack() as held:
        with waiting("loading the model"):
            from sgsd.methods import open_bank
            from sgsd.verify import load_verifier

            retriever = open_bank(pool.path, pool, seed=seed) if pool.path else None
            checker = load_verifier(judge)
            held.callback(checker.close)
            drawer = held.enter_context(drawing(drawn_by, model, sampling, new_tokens))
        of = _identity(model, drawn_by, drawer, judge, retriever, pool, seed)
        results = _evaluate_all(sets, drawer, checker, judge, retriever, seed, of, out)
    if count := retokenised(drawer.generator):
        warn(f"the server tells no token ids: those of {counted(count, 'completion')} are counted from the text")

    from sgsd.config import EvalConfig
    from sgsd.evaluate import mean_over_sets

    mean = mean_over_sets(results, bootstrap=EvalConfig().bootstrap, seed=seed) if len(results) > 1 else None
    report = payload(sets, results, mean, of)
    if out is not None:
        write(out, report, results)
    emit(report, as_json, lambda: show(sets, results, mean))


def _sampling(given: Mapping[str, Any], *, paper: bool, engine: str) -> SamplingConfig:
    """What the options say, else the paper's sampling where it is asked for, else the defaults."""
    from sgsd.config import SamplingConfig

    told = {key: value for key, value in given.items() if value is not None}
    values = {"batch_size": 64 if engine == "transformers" else 256, **(PAPER_SAMPLING if paper else {}), **told}
    values.setdefault("temperature", 0.0 if values.get("n", 1) == 1 else 1.0)
    return from_options(SamplingConfig, values, {"n": "--k"})


def _sets(data: Sequence[str], split: str, limit: int | None) -> list[Measured]:
    """The problems of each source, under names of their own."""
    from sgsd.cli.sources import load_source
    from sgsd.config import DataConfig

    sets: list[Measured] = []
    for source in data:
        known = named(source)
        name = known.name if known else Path(source).stem if Path(source).is_file() else source
        name = source if any(name == one.name for one in sets) else name
        sets.append(Measured(name, source, load_source(DataConfig(source=source, split=split, limit=limit))))
    return sets


def _identity(
    model: str,
    drawn_by: EngineConfig,
    drawer: Drawer,
    judge: VerifierConfig,
    retriever: Retriever | None,
    pool: BankConfig,
    seed: int,
) -> dict[str, Any]:
    """What is measured and how; see sgsd.provenance."""
    from sgsd.generate.server import ServerGenerator
    from sgsd.provenance import engine_identity, model_identity, verifier_identity

    generator = drawer.generator
    served = generator.servers.models.values() if isinstance(generator, ServerGenerator) else ()
    shown = {"path": pool.path, "revision": retriever.bank.revision, "pairs": pool.k} if retriever else None
    return {
        "model": model_identity(model, drawn_by, served),
        "bank": shown,
        "sampling": drawer.sampling.model_dump(mode="json"),
        "seed": seed,
        "verifier": verifier_identity(judge),
        "engine": engine_identity(drawn_by),
        "sgsd": __version__,
    }


def _evaluate_all(
    sets: Sequence[Measured],
    drawer: Drawer,
    checker: Any,
    judge: VerifierConfig,
    retriever: Retriever | None,
    seed: int,
    of: Mapping[str, Any],
    out: Path | None,
) -> list[EvalResult]:
    from sgsd.config import EvalConfig
    from sgsd.evaluate import evaluate
    from sgsd.journal import Journal
    from sgsd.provenance import problems_hash
    from sgsd.rollout import bank_guidance

    journal = Journal(out.with_suffix(".records.jsonl"), of) if out is not None else None
    guidance = bank_guidance(retriever) if retriever is not None else None
    with progress("evaluation", total=sum(len(one.problems) for one in sets)) as advance:
        return [
            evaluate(
                drawer.generator,
                drawer.tokenizer,
                one.problems,
                checker,
                EvalConfig(sampling=drawer.sampling, with_bank=guidance is not None),
                truncated=judge.truncated,
                seed=seed,
                guidance=guidance,
                on_progress=advance,
                finished=journal.part(problems_hash(one.problems)) if journal is not None else None,
            )
            for one in sets
        ]
