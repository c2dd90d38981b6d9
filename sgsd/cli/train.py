"""`sgsd train`: a run from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgsd.cli.common import check_folder, counted, emit, note, offline_without_network, waiting

if TYPE_CHECKING:
    from sgsd.run import RunResult


def train_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file; see configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value over the file; may be given several times.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run; without one it begins.")
    ] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Also save adapter and base as one model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a student under teachers that are conditioned on retrieved pairs.

    Example: sgsd train configs/arena.yaml --set train.max_steps=50 --set bank.path=my-bank

    On several GPUs: torchrun --nproc_per_node 8 -m sgsd train CONFIG
    """
    from sgsd.config import load_config

    settings = load_config(config, overrides)
    check_folder(Path(settings.output_dir), "output_dir")
    offline_without_network(settings.model.name_or_path, settings.data.source, settings.bank.embedder)

    from sgsd.cli.sources import load_source

    problems = load_source(settings.data)
    held_out = load_source(settings.eval.data) if settings.eval.data and settings.eval.every_steps else []

    with waiting("loading"):
        from sgsd.run import train_run

    try:
        result = train_run(settings, problems, held_out, resume=resume, merge=merge)
    except KeyboardInterrupt:
        if any(Path(settings.output_dir).glob("checkpoint-*")):
            note(f"{settings.output_dir} holds the run so far: the same command with --resume goes on from there")
        raise
    emit(_payload(result), as_json, lambda: _print(result))


def _payload(result: RunResult) -> dict[str, Any]:
    return {
        "student": str(result.student),
        "merged": str(result.merged) if result.merged else None,
        "steps": result.steps,
        "generated_tokens": result.generated_tokens,
        "dropped_problems": result.dropped_problems,
        "curve": list(result.curve),
        "collapsed": result.collapsed,
        "polarity": result.polarity,
        "seconds": result.seconds,
        "processes": result.processes,
        "wrapper": result.wrapper,
    }


def _print(result: RunResult) -> None:
    if result.dropped_problems:
        typer.echo(f"{counted(result.dropped_problems, 'problem')} left out: longer than rollout.max_prompt_tokens")
    shares = ", ".join(f"{share:.0%} {name}" for name, share in result.polarity.items())
    teachers = f"; teachers: {shares}" if shares else ""
    typer.echo(f"{result.steps} steps, {result.generated_tokens:,} generated tokens{teachers}")
    if result.curve:
        typer.echo(f"held-out accuracy {result.curve[0]['accuracy']:.1%} -> {result.curve[-1]['accuracy']:.1%}")
    if result.collapsed:
        typer.echo("ended early: the last two points of the curve lie below half of the best one")
    typer.echo(f"student: {result.student}")
    if result.merged:
        typer.echo(f"merged:  {result.merged}")
