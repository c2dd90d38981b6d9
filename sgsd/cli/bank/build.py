"""`sgsd bank build`: past rollouts into a bank, or a bank embedded anew."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sgsd.cli.bank import build_text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.endpoint import (
    ApiKeyOption,
    ConcurrencyOption,
    EndpointOption,
    ModelOption,
    PromptsOption,
    RequestsOption,
    TimeoutOption,
    TokensOption,
    open_writer,
)
from sgsd.cli.bank.options import BankOption, JsonOption, phases
from sgsd.cli.common import check_folder, emit, offline_without_network

if TYPE_CHECKING:
    from skillbank.building import Engine
    from skillbank.mine.model.extract import ExtractSettings
    from skillbank.rollouts import Reading

Miner = Literal["contrast", "model"]
EngineName = Literal["local", "ray"]
# Spelt out here as well as in skillbank.rollouts, which would bring pydantic into `sgsd --help`.
Format = Literal["auto", "native", "gsm8k_model_solutions", "trl_completions", "verl_rollouts", "memories", "plain"]


@app.command(epilog="Example: sgsd bank build --rollouts rollouts.jsonl --bank bank")
def build(
    bank: BankOption,
    rollouts: Annotated[
        list[Path] | None, typer.Option(help="Past rollouts, JSONL or parquet; give it again for more files.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            help="A sentence-transformers name or folder, such as Qwen/Qwen3-Embedding-0.6B; without rollouts, an "
            "existing bank is embedded anew by it. A new bank without one gets a lexical embedder of its own."
        ),
    ] = None,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluation problems that no entry may come near; give it again for more files."),
    ] = None,
    merge_cosine: Annotated[float, typer.Option(min=-1, max=1, help="Merge texts at least this near.")] = 0.95,
    split: Annotated[str, typer.Option(help="Mine the rollouts of this split.")] = "train",
    format_: Annotated[
        Format, typer.Option("--format", help="Of the rollout files; docs/mining.md tells each.")
    ] = "auto",
    reward: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of files with several rewards: the one that decides.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Of files with rewards and no outcome: from here an attempt is right.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="Work in this process, or as Ray Data stages on the cluster of RAY_ADDRESS.")
    ] = "local",
    miner: Annotated[
        Miner, typer.Option(help="Compare right and wrong attempts (no model), or have --model write the lessons.")
    ] = "contrast",
    endpoint: EndpointOption = None,
    model: ModelOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --miner model: count rollouts, calls and tokens; call nothing.")
    ] = False,
    max_items: Annotated[int, typer.Option(min=1, help="Lessons of one call.")] = 3,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one reply, thinking included.")] = 2048,
    show_reference: Annotated[
        bool,
        typer.Option("--show-reference", help="Show the writer the reference answer: it may leak into lessons."),
    ] = False,
    prompts: PromptsOption = None,
    concurrency: ConcurrencyOption = 16,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    timeout_s: TimeoutOption = 300.0,
    api_key_env: ApiKeyOption = "SGSD_API_KEY",
    json: JsonOption = False,
) -> None:
    """Mine skill-mistake pairs from past rollouts into a bank, or embed a bank anew."""
    if not rollouts:
        if embedder is None:
            raise typer.BadParameter("name at least one file of past rollouts", param_hint="--rollouts")
        _embed_anew(bank, embedder, json)
        return
    if miner == "contrast":
        _only_with_a_model(endpoint=endpoint, model=model, prompts=prompts, dry_run=dry_run or None)
    elif model is None:
        raise typer.BadParameter("name the model that is to write", param_hint="--model")
    check_folder(bank, "--bank")
    from skillbank.rollouts import Reading

    reading = Reading(format=format_, reward=reward, threshold=threshold)
    if dry_run and model is not None:
        _plan(rollouts, bank, model, _extract(max_items, max_tokens, show_reference, prompts), split, reading, json)
        return
    offline_without_network(embedder)
    writer = None
    if model is not None:
        writer = open_writer(
            endpoint,
            model,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            timeout_s=timeout_s,
            api_key_env=api_key_env,
        )
    from skillbank.building import build_bank

    with phases() as on_phase, _engine(engine) as where:
        report = build_bank(
            rollouts,
            bank,
            embedder=embedder,
            miner=miner,
            complete=writer,
            extract=_extract(max_items, max_tokens, show_reference, prompts),
            merge_cosine=merge_cosine,
            split=split,
            reading=reading,
            evaluations=evaluations or (),
            engine=where,
            on_progress=on_phase,
        )
    emit(report, json, lambda: build_text.report(report))
    build_text.warnings(report)


def _only_with_a_model(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            hint = f"--{name.replace('_', '-')}"
            raise typer.BadParameter("the miner `contrast` asks no model: add --miner model", param_hint=hint)


def _extract(max_items: int, max_tokens: int, show_reference: bool, prompts: Sequence[Path] | None) -> ExtractSettings:
    from skillbank.mine.model.extract import ExtractSettings

    return ExtractSettings(
        max_items=max_items, max_tokens=max_tokens, show_reference=show_reference, prompts=tuple(prompts or ())
    )


def _engine(name: EngineName) -> AbstractContextManager[Engine]:
    if name == "ray":
        from skillbank.building.sharded import Sharded

        return Sharded()
    from skillbank.building import Local

    return nullcontext(Local())


def _plan(
    rollouts: Sequence[Path],
    bank: Path,
    model: str,
    extract: ExtractSettings,
    split: str,
    reading: Reading,
    json: bool,
) -> None:
    from skillbank.building.intake import plan_build

    with phases() as on_phase:
        plan = plan_build(
            rollouts,
            bank,
            model=model,
            extract=extract,
            split=split,
            reading=reading,
            on_rollouts=lambda done: on_phase("read", done, None),
        )
    emit(plan, json, lambda: build_text.plan(plan))


def _embed_anew(path: Path, embedder: str, json: bool) -> None:
    offline_without_network(embedder)
    from skillbank.index import VectorIndex
    from skillbank.index.vectors import adopt, embed_missing
    from skillbank.store import Bank

    with Bank.open(path) as bank, phases() as on_phase:
        model = adopt(bank, embedder)
        embedded = embed_missing(bank, model, lambda done, total: on_phase("embed", done, total))
        VectorIndex.open(bank, model)
    payload = {"bank": str(path), "embedder": model.describe(), "embedded": embedded}
    emit(payload, json, lambda: typer.echo(f"{path}: {embedded} texts embedded by {model.describe()}"))
