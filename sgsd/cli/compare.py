"""`sgsd compare`: methods side by side over several seeds."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgsd.cli.common import check_folder, emit, note
from sgsd.errors import ConfigError

if TYPE_CHECKING:
    from sgsd.compare.contest import Outcome
    from sgsd.compare.entrants import Entrant


def compare_command(
    configs: Annotated[
        list[Path] | None, typer.Argument(metavar="[CONFIG]...", help="Configurations; none: all methods on the arena.")
    ] = None,
    levels: Annotated[
        list[str] | None, typer.Option("--level", help="Of the arena; may be given several times. Default: all.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="On the arena; may be given several times. Default: all.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method, with seeds from 0 on.")] = 3,
    budget: Annotated[
        str | None, typer.Option(help="tokens=N: every run ends with the step that reaches N generated tokens.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs and tables; runs that lie there are not repeated.")] = Path(
        "runs/compare"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of every run, such as train.learning_rate=1e-4.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps of each, to see that all parts work.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows and summary as JSON.")] = False,
) -> None:
    """Train several methods on the same problems, verifier and token budget, and print one table.

    Checkpoints are chosen on the validation split; the table shows the test split.

    Example: sgsd compare --level easy --seeds 3
    """
    check_folder(out, "--out")
    entrants = _entrants(configs or [], levels, methods, seeds, _tokens(budget), out, overrides or [], quick)
    from sgsd.compare.contest import run_all
    from sgsd.compare.table import markdown, page, summary

    done: list[None] = []

    def say(outcome: Outcome) -> None:
        done.append(None)
        one = outcome.entrant
        what = f"{outcome.row['accuracy']:.1%}" if outcome.row else outcome.error
        note(f"{len(done)}/{len(entrants)}  {one.level}  {one.method}  seed {one.seed}: {what}")

    outcomes = run_all(entrants, workers=workers, on_done=say)
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    failed = [f"{o.entrant.level} {o.entrant.method} {o.entrant.seed}: {o.error}" for o in outcomes if o.row is None]
    if not rows:
        raise ConfigError(f"no run came to its end; the first: {failed[0]}")
    lines = summary(rows)
    table = markdown(lines)
    _write(out / "compare.md", table)
    _write(out / "compare.html", page(lines, command=shlex.join(["sgsd", *sys.argv[1:]])))
    payload: dict[str, Any] = {"rows": rows, "summary": lines, "failed": failed}
    emit(payload, as_json, lambda: typer.echo(table + "".join(f"failed: {line}\n" for line in failed), nl=False))
    if failed:
        raise typer.Exit(1)


def _entrants(
    configs: list[Path],
    levels: list[str] | None,
    methods: list[str] | None,
    seeds: int,
    tokens: int | None,
    out: Path,
    overrides: list[str],
    quick: bool,
) -> list[Entrant]:
    from sgsd.arena.tasks import CHAIN_LENGTH
    from sgsd.compare.entrants import ARENA_METHODS, of_arena, of_configs, with_overrides

    if configs:
        if levels or methods or quick:
            raise ConfigError("--level, --method and --quick choose runs of the arena: leave them out beside a CONFIG")
        return of_configs(configs, seeds=seeds, out=out, tokens=tokens, overrides=overrides)
    for given, known, option in ((levels, CHAIN_LENGTH, "--level"), (methods, ARENA_METHODS, "--method")):
        if unknown := [name for name in given or [] if name not in known]:
            raise ConfigError(f"{option} {unknown[0]} is none: choose of {', '.join(known)}")
    found = of_arena(
        levels or list(CHAIN_LENGTH),  # type: ignore[arg-type]
        methods or ARENA_METHODS,
        seeds=seeds,
        out=out,
        tokens=tokens,
        quick=quick,
    )
    return [with_overrides(entrant, overrides) for entrant in found]


def _tokens(budget: str | None) -> int | None:
    if budget is None:
        return None
    key, _, number = budget.partition("=")
    if key != "tokens" or not number.isdecimal() or int(number) < 1:
        raise ConfigError(f"--budget {budget} is not of the form tokens=N, such as tokens=50000")
    return int(number)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.tmp")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
