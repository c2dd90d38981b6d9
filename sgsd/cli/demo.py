"""`sgsd demo`: the real system on the arena, from nothing to a better student."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.common import check_folder, emit, note, waiting
from sgsd.errors import ConfigError

if TYPE_CHECKING:
    from sgsd.arena.demo import DemoReport


def demo_command(
    level: Annotated[str, typer.Option(help="easy, medium or hard: chains of one, two or more operations.")] = "easy",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything it makes. Default: runs/demo-LEVEL-SEED.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps only, to see that all parts work.")] = False,
    misleading: Annotated[float, typer.Option(help="Share of the bank's entries that teach wrong rules.")] = 0.0,
    irrelevant: Annotated[float, typer.Option(help="Share of the bank's entries that are beside the point.")] = 0.0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the run, such as objective.polarity=off.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a small model with its own mined experience and show what it gains.

    Example: sgsd demo --level easy --seed 0 --out runs/first
    """
    from sgsd.arena.tasks import CHAIN_LENGTH

    if level not in CHAIN_LENGTH:
        raise ConfigError(f"--level {level} is no level: choose {', '.join(CHAIN_LENGTH)}")
    if not (misleading >= 0 and irrelevant >= 0 and misleading + irrelevant < 1):
        raise ConfigError(
            f"--misleading {misleading} and --irrelevant {irrelevant} are shares: neither below 0, together below 1"
        )
    folder = out or _free_folder(level, seed)
    check_folder(folder, "--out")
    with waiting("loading"):
        from sgsd.arena.demo import run_demo

    report = run_demo(
        level,
        seed=seed,
        out=folder,
        quick=quick,
        misleading=misleading,
        irrelevant=irrelevant,
        overrides=overrides,
        say=note,
    )
    emit(report, as_json, lambda: _print(report))


def _free_folder(level: str, seed: int) -> Path:
    """The default folder, numbered on when an earlier demo has it."""
    first = Path("runs") / f"demo-{level}-{seed}"
    candidates = (first if i == 1 else first.with_name(f"{first.name}-{i}") for i in range(1, 10_000))
    return next(folder for folder in candidates if not folder.exists())


def _print(report: DemoReport) -> None:
    typer.echo("")
    typer.echo(f"plain-prompt accuracy on {report.held_out:,} held-out problems")
    for point in report.curve:
        bar = "█" * round(40 * point["accuracy"])
        typer.echo(f"  step {point['step']:>4}  {point['tokens']:>8,} tokens  {point['accuracy']:6.1%}  {bar}")
    shares = ", ".join(f"{share:.0%} {name}" for name, share in report.polarity.items())
    typer.echo(
        f"{report.accuracy_before:.1%} -> {report.accuracy_after:.1%} with {report.generated_tokens:,} generated "
        f"tokens in {sum(report.seconds.values()):.0f} s; teachers: {shares}"
    )
    typer.echo(f"student: {report.student}    bank: {report.bank}")
    program = "sgsd" if shutil.which("sgsd") else sys.argv[0]  # `make demo` runs it without activating .venv
    typer.echo(f"next:    {program} eval --model {report.student} --data arena:{report.level} --split test")
    typer.echo(f"         {program} bank list --bank {report.bank}")
