"""`sgsd explain`: what each teacher said of each token of a rollout."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgsd.cli.common import check_file, counted, emit, offline_without_network, waiting

if TYPE_CHECKING:
    from sgsd.report.folder import RunFolder
    from sgsd.report.scored import Scored


def explain_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run: its output_dir.")],
    rollout: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A rollout by its id. Default: what taught most, a success and a failure."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page to write. Default: explain.html in the run's folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Also print what the page shows, as JSON.")] = False,
) -> None:
    """Show a rollout of a run with each token as each teacher saw it, on one page that needs no network.

    Teachers and their words are those of the usage ledger; weights are the newest checkpoint from before the rollout.

    Example: sgsd explain runs/arena/run --out explain.html
    """
    from sgsd.report.folder import open_run

    folder = open_run(run)
    page = out or run / "explain.html"
    check_file(page, "--out", "explain.html")
    offline_without_network(folder.config.model.name_or_path, folder.config.opd.teacher)
    with waiting("scoring"):
        found = _scored(folder, rollout)
        from sgsd.report.explain import explain_page
        from sgsd.report.page import write

        write(page, explain_page(folder, found))
    payload: dict[str, Any] = {
        "run": str(run),
        "method": folder.config.method,
        "page": str(page),
        "rollouts": [_payload(one) for one in found],
    }
    emit(payload, as_json, lambda: _print(found, page))


def _scored(folder: RunFolder, rollout_id: str | None) -> list[Scored]:
    from sgsd.errors import ConfigError
    from sgsd.records import Problem
    from sgsd.report.chosen import named, notable
    from sgsd.report.scored import scored
    from skillbank.store import Bank

    config = folder.config
    with ExitStack() as held:
        bank = None
        if config.method == "sgsd":
            if config.bank.path is None:
                raise ConfigError(f"{folder.path} names no bank: set bank.path in its config.yaml")
            bank = held.enter_context(Bank.open(config.bank.path, readonly=True))
        known: dict[str, Problem] = {}

        def problem_of(problem_id: str) -> Problem | None:
            from sgsd.cli.sources import load_source

            if not known:
                known.update((problem.problem_id, problem) for problem in load_source(config.data))
            return known.get(problem_id)

        chosen = notable(folder, bank) if rollout_id is None else [named(folder, rollout_id)]
        return scored(folder, chosen, bank, problem_of)


def _payload(one: Scored) -> dict[str, Any]:
    """Records as plain values."""
    values = dataclasses.asdict(one)
    values["rollout"] = one.rollout.model_dump(mode="json", exclude={"token_ids"})
    for told, teacher in zip((*values["teachers"], values["placebo"]), (*one.teachers, one.placebo), strict=True):
        for name in ("opinion", "in_training") if teacher is not None else ():
            said = getattr(teacher, name)
            told[name] = None if said is None else said.model_dump()
    return values


def _print(found: list[Scored], page: Path) -> None:
    for one in found:
        shares = [teacher.opinion.polarity for teacher in one.teachers if teacher.opinion is not None]
        told = f", {shares.count(1)} helpful, {shares.count(-1)} harmful, {shares.count(0)} neutral" if shares else ""
        typer.echo(
            f"{one.rollout.rollout_id}  {one.why}: step {one.step}, {one.rollout.outcome}, "
            f"{counted(len(one.teachers), 'teacher')}{told}; weights: {one.weights}"
        )
    typer.echo(f"page: {page}")
