"""Looking after a bank's files: `doctor`, `vacuum`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import BankOption, JsonOption, phases
from sgsd.cli.common import coloured, counted, emit, offline_without_network

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillbank.doctor import Finding, Report, Vacuumed
    from skillbank.index.embed import Embedder


@app.command(epilog="Example: sgsd bank doctor --fix --bank bank")
def doctor(
    bank: BankOption,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be computed again; nothing is invented.")] = False,
    embed: Annotated[
        bool, typer.Option("--embed", help="Load the bank's embedder and compare some vectors with their texts.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check the whole bank: database, history, counts, vectors, index. Exits with 1 when something is wrong."""
    from skillbank.doctor import doctor as examine

    with phases() as on_phase:
        embedder = _embedder(bank) if embed else None
        report = examine(bank, embedder=embedder, fix=fix, on_progress=on_phase)
    payload = {**report.model_dump(mode="json"), "sound": report.sound}
    emit(payload, json, lambda: _print_report(report))
    if not report.sound:
        raise typer.Exit(1)


@app.command(epilog="Example: sgsd bank vacuum --drop-other-vectors --bank bank")
def vacuum(
    bank: BankOption,
    drop_other_vectors: Annotated[
        bool, typer.Option("--drop-other-vectors", help="Drop the vectors of other embedders than the bank's.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Give back disk space that the bank no longer needs. Nothing that it says is touched."""
    from skillbank.doctor import vacuum as rewrite

    with phases() as on_phase:
        on_phase("vacuum", 0, None)
        done = rewrite(bank, drop_other_vectors=drop_other_vectors)
    emit(done, json, lambda: _print_vacuumed(done))


def _embedder(bank: Path) -> Embedder | None:
    """The bank's own; None when it has none yet."""
    from skillbank.index.vectors import bank_embedder
    from skillbank.store import Bank

    with Bank.open(bank) as opened:
        name = opened.meta("embedder")
        if name is None:
            return None
        offline_without_network(name)
        return bank_embedder(opened)


def _print_report(report: Report) -> None:
    _print_findings("mended", report.fixed, typer.colors.GREEN)
    _print_findings("error", report.errors, typer.colors.RED)
    _print_findings("note", [f for f in report.findings if f.severity == "note"], typer.colors.YELLOW)
    if report.entries is None:
        typer.echo(f"{report.bank}: cannot be read")
        return
    errors = counted(len(report.errors), "error") if report.errors else "sound"
    typer.echo(f"{report.bank}: {report.entries:,} entries at revision {report.revision}, {errors}")


def _print_findings(label: str, findings: Sequence[Finding], colour: str) -> None:
    for finding in findings:
        number = f"{finding.count:,} times: " if finding.count > 1 else ""
        typer.echo(f"{coloured(label, colour)}: {number}{finding}")


def _print_vacuumed(done: Vacuumed) -> None:
    dropped = f", {counted(done.vectors_dropped, 'vector')} of other embedders dropped" if done.vectors_dropped else ""
    typer.echo(f"{done.bank}: {done.bytes_before:,} bytes before, {done.bytes_after:,} after{dropped}")
