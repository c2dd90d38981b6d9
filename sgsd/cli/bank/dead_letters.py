"""`sgsd bank dead-letters`: the calls of a model that came to nothing, and making them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

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
from sgsd.cli.bank.options import BankOption, JsonOption, phases, reading, writing
from sgsd.cli.common import counted, emit, note
from sgsd.errors import ConfigError

if TYPE_CHECKING:
    from skillbank.mine.model.extract import Mined
    from skillbank.mine.model.ledger import FinishedCall, Ledger

SHOWN = 20
"""Dead letters that are printed; --json gives all."""


@app.command(epilog="Example: sgsd bank dead-letters --bank bank --retry --endpoint http://127.0.0.1:8000/v1")
def dead_letters(
    bank: BankOption,
    retry: Annotated[bool, typer.Option("--retry", help="Make these calls again, and no others.")] = False,
    endpoint: EndpointOption = None,
    model: ModelOption = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="With --retry: draw replies at this; at 0 the same may come again.")
    ] = None,
    prompts: PromptsOption = None,
    concurrency: ConcurrencyOption = 16,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    timeout_s: TimeoutOption = 300.0,
    api_key_env: ApiKeyOption = "SGSD_API_KEY",
    json: JsonOption = False,
) -> None:
    """List the calls of a model that came to nothing, or make them again.

    A call that ends well this time is kept; `sgsd bank build` with the same rollouts takes it in and repeats no other.
    """
    from skillbank.mine.model.ledger import Ledger

    if not retry:
        _only_with_retry(endpoint=endpoint, temperature=temperature, prompts=prompts)
        with reading(bank) as opened:
            dead = [call for call in Ledger(opened.db).dead() if model in (None, call.model)]
        emit({"dead_letters": [_listed(call) for call in dead]}, json, lambda: _print(dead))
        return
    from skillbank.mine.model.extract import retry_dead

    with writing(bank) as opened, phases() as on_phase:
        ledger = Ledger(opened.db)
        name = model or _only_model(ledger)
        before = _retriable(ledger, name)
        mined: Sequence[Mined] = ()
        if before:
            writer = open_writer(
                endpoint,
                name,
                concurrency=concurrency,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                timeout_s=timeout_s,
                api_key_env=api_key_env,
            )
            mined = list(
                retry_dead(
                    writer,
                    ledger,
                    prompts=prompts or (),
                    temperature=temperature,
                    on_progress=lambda done: on_phase("retry", done, before),
                )
            )
        left = _retriable(ledger, name)
    report = {
        "retried": before,
        "answered": before - left,
        "dead": left,
        "items": sum(len(one.items) for one in mined),
        "prompt_tokens": sum(one.prompt_tokens for one in mined),
        "completion_tokens": sum(one.completion_tokens for one in mined),
    }
    emit(report, json, lambda: _print_retry(before, left))


def _only_with_retry(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter("only a retry calls a model: add --retry", param_hint=f"--{name}")


def _retriable(ledger: Ledger, model: str) -> int:
    """Dead letters that can be made again from the ledger alone; a merge is made again by merging again."""
    return sum(call.model == model and call.call is not None for call in ledger.dead())


def _only_model(ledger: Ledger) -> str:
    """The model whose dead letters there are. Raises ConfigError when there are several."""
    models = sorted({call.model for call in ledger.dead() if call.call is not None})
    if len(models) > 1:
        raise ConfigError(f"there are dead letters of {', '.join(models)}: choose one with --model")
    return models[0] if models else ""


def _listed(call: FinishedCall) -> dict[str, object]:
    return {
        "key": call.key,
        "kind": call.kind,
        "problem_id": None if call.call is None else call.call.problem_id,
        "rollouts": list(call.rollouts),
        "model": call.model,
        "error": call.error,
        "attempts": call.attempts,
        "replies": list(call.replies),
        "at": call.at,
    }


def _print(dead: Sequence[FinishedCall]) -> None:
    if not dead:
        typer.echo("no dead letters: every call of a model came to an end that could be used")
        return
    for call in dead[:SHOWN]:
        typer.echo(f"{call.kind}{_from(call)} by {call.model}, {counted(call.attempts, 'attempt')}: {call.error}")
    if len(dead) > SHOWN:
        typer.echo(f"... {len(dead) - SHOWN:,} more (--json shows all)")
    note(f"{counted(len(dead), 'dead letter')}; --retry makes these calls again")


def _from(call: FinishedCall) -> str:
    if not call.rollouts:
        return ""
    more = f" and {len(call.rollouts) - 3} more" if call.rollouts[3:] else ""
    return f" from {', '.join(call.rollouts[:3])}{more}"


def _print_retry(before: int, left: int) -> None:
    if not before:
        typer.echo("no dead letters to retry")
        return
    typer.echo(f"{counted(before, 'call')} made again: {before - left:,} answered, {left:,} still dead")
    if before > left:
        note("`sgsd bank build` with the same rollouts takes in what was answered; no call is repeated")
