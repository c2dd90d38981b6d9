"""Duplicates: `dedupe` shows clusters of entries that say the same, and makes each one entry once that is confirmed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sgsd.cli.bank import dedupe_text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.endpoint import (
    ApiKeyOption,
    ConcurrencyOption,
    EndpointOption,
    ModelOption,
    PromptsOption,
    TimeoutOption,
    open_writer,
)
from sgsd.cli.bank.options import BankOption, JsonOption, PreviewOption, ReasonOption, actor, phases
from sgsd.cli.common import counted, emit, note
from sgsd.errors import ConfigError

if TYPE_CHECKING:
    from skillbank.dedupe.duplicates import Look
    from skillbank.mine.model.complete import Complete
    from skillbank.mine.model.rewording import Rewordings
    from skillbank.records import Kind
    from skillbank.store import Bank

Side = Literal["skill", "mistake"]


@app.command(epilog="Example: sgsd bank dedupe --threshold 0.9 --preview --bank bank")
def dedupe(
    bank: BankOption,
    threshold: Annotated[
        float, typer.Option(min=0.5, max=1, help="Cosine from which on two entries may say the same.")
    ] = 0.9,
    kind: Annotated[Side | None, typer.Option(help="Only this kind.")] = None,
    model: ModelOption = None,
    endpoint: EndpointOption = None,
    prompts: PromptsOption = None,
    concurrency: ConcurrencyOption = 16,
    timeout_s: TimeoutOption = 300.0,
    api_key_env: ApiKeyOption = "SGSD_API_KEY",
    limit: Annotated[int, typer.Option(min=0, help="Show at most so many clusters.")] = 20,
    yes: Annotated[bool, typer.Option("--yes", help="Merge without asking.")] = False,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Make one entry of those that say the same: shows the clusters, asks, merges, and can be undone.

    The best wording stays: pinned, worded by a person, useful in training, resting on most places. With --model, a
    model writes one wording for each cluster instead, and what that does not cover stays.
    """
    if endpoint and model is None:
        raise typer.BadParameter("name the model that the server is to run", param_hint="--model")
    asks = not (yes or preview)
    if asks and (json or not sys.stdin.isatty()):
        raise ConfigError("nobody can be asked here: look with --preview, merge with --yes")
    from skillbank.dedupe import merge_duplicates
    from skillbank.dedupe.duplicates import find_duplicates
    from skillbank.guard import Guard
    from skillbank.index.vectors import bank_embedder
    from skillbank.store import Bank
    from skillbank.store.query import Query

    kinds: Sequence[Kind] = ("skill", "mistake") if kind is None else (kind,)
    with Bank.open(bank) as opened:
        with phases() as on_phase:
            embedder = bank_embedder(opened)
            look = find_duplicates(opened, embedder, threshold, kinds=kinds, on_progress=partial(on_phase, "compare"))
        if not json:
            dedupe_text.found(look.described(opened, limit))
        rewordings = None
        if look.groups and model is not None:
            writer = partial(
                open_writer, endpoint, model, concurrency=concurrency, timeout_s=timeout_s, api_key_env=api_key_env
            )
            rewordings = _reword(opened, look, model, writer, prompts or (), preview=preview, asks=asks, quiet=json)
        elif look.groups and asks:
            _confirm("Merge them?")
        done = merge_duplicates(
            opened,
            look,
            actor=actor(),
            reason=reason,
            wordings=None if rewordings is None else rewordings.wordings,
            check=Guard(opened).check,
            preview=preview,
            shown=limit,
        )
        held = sum(opened.count(Query(kind=one, status="quarantined")) for one in kinds)
    payload = {
        **done.model_dump(mode="json"),
        "rewording": None if rewordings is None else rewordings.model_dump(mode="json"),
    }
    emit(payload, json, lambda: dedupe_text.merged(done, rewordings, bank, by_model=model is not None))
    if held:
        note(f"{held:,} quarantined took no part: only what is retrieved is merged")


def _reword(
    bank: Bank,
    look: Look,
    model: str,
    writer: Callable[[], Complete],
    prompts: Sequence[Path],
    *,
    preview: bool,
    asks: bool,
    quiet: bool,
) -> Rewordings | None:
    """What the model writes for the clusters, shown and confirmed; None where it is only previewed."""
    from skillbank.mine.model.ledger import Ledger
    from skillbank.mine.model.rewording import RewordingSettings, calls_to_make, reword

    clusters = look.to_reword(bank)
    settings = RewordingSettings(prompts=tuple(prompts))
    ledger = Ledger(bank.db)
    calls = calls_to_make(clusters, model, ledger, settings)
    if not quiet:
        typer.echo(f"{counted(len(clusters), 'wording')} by {model}, {counted(calls, 'call')} to make")
    if preview:
        return None
    if asks:
        _confirm("Have them written?")
    with phases() as on_phase:
        rewordings = reword(clusters, writer(), ledger, settings, on_progress=partial(on_phase, "write"))
    if not quiet:
        dedupe_text.wordings(rewordings)
    if asks:
        _confirm("Merge so?")
    return rewordings


def _confirm(question: str) -> None:
    if not typer.confirm(question, err=True):
        note("nothing was changed")
        raise typer.Exit
