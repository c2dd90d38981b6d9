"""Looking into a bank: `list`, `show`, `search`, `stats`."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from sgsd.cli.bank import text as bank_text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import BankOption, IdArgument, JsonOption, KindOption, Status, reading
from sgsd.cli.common import emit

Sort = Literal["id", "newest", "evidence", "changed"]


@app.command("list", epilog="Example: sgsd bank list --bank bank --kind skill --sort evidence --limit 10")
def list_entries(
    bank: BankOption,
    kind: KindOption = None,
    status: Annotated[Status | None, typer.Option(help="Only this status.")] = None,
    origin: Annotated[str | None, typer.Option(help="Only this origin, such as mined or manual.")] = None,
    sort: Annotated[Sort, typer.Option(help="Order.")] = "id",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Skip so many first.")] = 0,
    json: JsonOption = False,
) -> None:
    """List entries."""
    from skillbank.query import Query

    where = Query(kind=kind, status=status, origin=origin)
    with reading(bank) as opened:
        entries = opened.entries(where, sort=sort, limit=limit, offset=offset)
        total = opened.count(where)
        headlines = bank_text.headlines(opened, entries)
    payload = {"total": total, "entries": [entry.model_dump(mode="json") for entry in entries]}
    emit(payload, json, lambda: bank_text.entries(entries, headlines, total, offset))


@app.command(epilog="Example: sgsd bank show 7 --bank bank")
def show(
    entry_id: IdArgument,
    bank: BankOption,
    json: JsonOption = False,
) -> None:
    """Show an entry: its words, status, evidence, use in training and history."""
    with reading(bank) as opened:
        view = bank_text.read_entry(opened, entry_id)
    emit(view, json, lambda: bank_text.entry(view))


@app.command(epilog='Example: sgsd bank search "zorp" --bank bank --kind skill')
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words that must all occur; with --semantic, any text.")],
    bank: BankOption,
    semantic: Annotated[bool, typer.Option("--semantic", help="By the bank's embedder instead of by words.")] = False,
    kind: KindOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    json: JsonOption = False,
) -> None:
    """Find entries by words, or by nearness of meaning."""
    if not text.strip():
        raise typer.BadParameter("there is nothing to search for", param_hint="TEXT")
    if semantic:
        from skillbank.retrieve import nearest_entries
        from skillbank.store import Bank
        from skillbank.vectors import bank_embedder

        if kind == "pair":
            raise typer.BadParameter("pairs have no vectors: choose skill or mistake", param_hint="--kind")
        # An index that is out of date is written anew, where one may write.
        with Bank.open(bank, readonly=bank.is_dir() and not os.access(bank, os.W_OK)) as opened:
            found = nearest_entries(opened, bank_embedder(opened), text, kind=kind, limit=limit)
        near = {"entries": [{**entry.model_dump(mode="json"), "cosine": cosine} for entry, cosine in found]}
        emit(near, json, lambda: bank_text.nearest(found))
        return
    from skillbank.query import Query

    where = Query(kind=kind, text=text)
    with reading(bank) as opened:
        entries = opened.entries(where, sort="relevance", limit=limit)
        total = opened.count(where)
        headlines = bank_text.headlines(opened, entries)
    payload = {"total": total, "entries": [entry.model_dump(mode="json") for entry in entries]}
    emit(payload, json, lambda: bank_text.entries(entries, headlines, total, hint="try --semantic"))


@app.command(epilog="Example: sgsd bank stats --bank bank --json")
def stats(bank: BankOption, json: JsonOption = False) -> None:
    """Count what the bank holds."""
    with reading(bank) as opened:
        numbers = opened.stats()
    emit(numbers, json, lambda: bank_text.stats(bank, numbers))
