"""`sgsd bank build`: past rollouts into a bank, or a bank embedded anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.bank import build_text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import BankOption, JsonOption, phases
from sgsd.cli.common import check_folder, emit, offline_without_network

if TYPE_CHECKING:
    pass


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
    json: JsonOption = False,
) -> None:
    """Mine skill-mistake pairs from past rollouts into a bank, or embed a bank anew."""
    if not rollouts:
        if embedder is None:
            raise typer.BadParameter("name at least one file of past rollouts", param_hint="--rollouts")
        _embed_anew(bank, embedder, json)
        return
    check_folder(bank, "--bank")
    offline_without_network(embedder)
    from skillbank.mine.build import build_bank

    with phases() as on_phase:
        report = build_bank(
            rollouts,
            bank,
            embedder=embedder,
            merge_cosine=merge_cosine,
            split=split,
            evaluations=evaluations or (),
            on_progress=on_phase,
        )
    emit(report, json, lambda: build_text.report(report))
    build_text.warnings(report)


def _embed_anew(path: Path, embedder: str, json: bool) -> None:
    offline_without_network(embedder)
    from skillbank.index import VectorIndex
    from skillbank.store import Bank
    from skillbank.vectors import adopt, embed_missing

    with Bank.open(path) as bank, phases() as on_phase:
        model = adopt(bank, embedder)
        embedded = embed_missing(bank, model, lambda done, total: on_phase("embed", done, total))
        VectorIndex.open(bank, model)
    payload = {"bank": str(path), "embedder": model.describe(), "embedded": embedded}
    emit(payload, json, lambda: typer.echo(f"{path}: {embedded} texts embedded by {model.describe()}"))
