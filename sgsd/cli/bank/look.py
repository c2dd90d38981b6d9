"""Looking into a bank: `list`, `show`, `search`, `stats`, `problems`, `rollout`."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from sgsd.cli.bank import entry_text
from sgsd.cli.bank import text as bank_text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import (
    BankOption,
    IdArgument,
    JsonOption,
    KindOption,
    LimitOption,
    OffsetOption,
    Status,
    WhereOption,
    query,
    reading,
)
from sgsd.cli.common import emit, waiting

Sort = Literal["id", "newest", "evidence", "changed", "utility", "relevance"]
Cover = Literal["useful", "untried", "unhelpful", "uncovered"]


@app.command("list", epilog='Example: sgsd bank list --where "kind:skill flag:*" --sort evidence --bank bank')
def list_entries(
    bank: BankOption,
    where: WhereOption = None,
    kind: KindOption = None,
    status: Annotated[Status | None, typer.Option(help="Only this status.")] = None,
    origin: Annotated[str | None, typer.Option(help="Only this origin, such as mined or manual.")] = None,
    flag: Annotated[str | None, typer.Option(help="Only with an open flag of this rule; * for any.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag; * for any.")] = None,
    text: Annotated[str | None, typer.Option(help="Only where all these words occur.")] = None,
    utility: Annotated[str | None, typer.Option(help="Only where it is so, such as '<0' or '>=0.5'.")] = None,
    evidence: Annotated[str | None, typer.Option(help="Only with so many places, such as '>2'.")] = None,
    revision: Annotated[str | None, typer.Option(help="Only where the last change is so, such as '>=3'.")] = None,
    sort: Annotated[Sort | None, typer.Option(help="Order; by relevance when words are given, else by id.")] = None,
    limit: LimitOption = 20,
    offset: OffsetOption = 0,
    json: JsonOption = False,
) -> None:
    """List entries. Criteria add up; --where takes all of them in one line."""
    given = {
        "kind": kind, "status": status, "origin": origin, "flag": flag, "tag": tag, "text": text, "utility": utility,
        "evidence": evidence, "revision": revision,
    }  # fmt: skip
    criteria = query(where, given)
    order = sort or ("relevance" if criteria.text is not None else "id")
    from skillbank.look.view import utilities

    with reading(bank) as opened, opened.db.snapshot():
        entries = opened.entries(criteria, sort=order, limit=limit, offset=offset)
        total = opened.count(criteria)
        headlines = bank_text.headlines(opened, entries)
        used = utilities(opened, [entry.id for entry in entries])
    payload = {
        "total": total,
        "entries": [{**entry.model_dump(mode="json"), "utility": used.get(entry.id)} for entry in entries],
    }
    emit(payload, json, lambda: bank_text.entries(entries, headlines, total, offset, used))


@app.command(epilog="Example: sgsd bank show 7 --bank bank")
def show(
    entry_id: IdArgument,
    bank: BankOption,
    json: JsonOption = False,
) -> None:
    """Show an entry: its words, status, flags, evidence in its context, use in training and history."""
    from skillbank.look.view import view_entry

    with reading(bank) as opened:
        view = view_entry(opened, entry_id)
    payload = view.model_dump(mode="json") | {
        "history": [event.model_dump(mode="json", exclude_unset=True) for event in view.history]
    }
    emit(payload, json, lambda: entry_text.entry(view))


@app.command(epilog='Example: sgsd bank search "unit price" --hybrid --kind skill --bank bank')
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words that must all occur; with --semantic, any text.")],
    bank: BankOption,
    semantic: Annotated[bool, typer.Option("--semantic", help="By the bank's embedder instead of by words.")] = False,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="By both: reciprocal rank fusion.")] = False,
    where: WhereOption = None,
    kind: KindOption = None,
    limit: LimitOption = 20,
    offset: OffsetOption = 0,
    json: JsonOption = False,
) -> None:
    """Find entries by words, by nearness of meaning, or by both."""
    if not text.strip():
        raise typer.BadParameter("there is nothing to search for", param_hint="TEXT")
    if semantic and hybrid:
        raise typer.BadParameter("hybrid is semantic and by words already: give one", param_hint="--semantic")
    if kind == "pair" and (semantic or hybrid):
        raise typer.BadParameter("pairs have no vectors: choose skill or mistake", param_hint="--kind")
    criteria = query(where, {"kind": kind})
    from skillbank.look.find import find
    from skillbank.store import Bank

    # An index that is out of date is written anew, where one may write.
    readonly = not (semantic or hybrid) or (bank.is_dir() and not os.access(bank, os.W_OK))
    with Bank.open(bank, readonly=readonly) as opened:
        embedder = None
        if semantic or hybrid:
            with waiting("loading the embedder"):
                from skillbank.index.vectors import bank_embedder

                embedder = bank_embedder(opened)
        how: Literal["keyword", "semantic", "hybrid"] = "hybrid" if hybrid else "semantic" if semantic else "keyword"
        found = find(opened, text, how, where=criteria, embedder=embedder, limit=limit, offset=offset)
        headlines = bank_text.headlines(opened, [hit.entry for hit in found.hits])
    if how == "keyword" and found.total is not None:
        entries, total = [hit.entry for hit in found.hits], found.total
        payload = {"total": total, "entries": [entry.model_dump(mode="json") for entry in entries]}
        emit(payload, json, lambda: bank_text.entries(entries, headlines, total, offset, hint="try --hybrid"))
        return
    hits = [
        {**hit.entry.model_dump(mode="json"), **hit.model_dump(exclude={"entry"}, exclude_none=True)}
        for hit in found.hits
    ]
    emit({"entries": hits}, json, lambda: bank_text.hits(found, headlines))


@app.command(epilog="Example: sgsd bank stats --bank bank --json")
def stats(bank: BankOption, json: JsonOption = False) -> None:
    """Count what the bank holds, covers and was mined from."""
    from skillbank.look.coverage import coverage

    with reading(bank) as opened:
        numbers = coverage(opened)
    emit(numbers, json, lambda: bank_text.stats(bank, numbers))


@app.command(epilog="Example: sgsd bank problems --cover uncovered --bank bank")
def problems(
    bank: BankOption,
    cover: Annotated[
        Cover | None,
        typer.Option(help="Only those so covered: a pair helped, none was tried, those tried did not help, no pair."),
    ] = None,
    limit: LimitOption = 20,
    offset: OffsetOption = 0,
    json: JsonOption = False,
) -> None:
    """List the problems the bank was mined from, and whether a useful pair serves them."""
    from skillbank.look import coverage

    with reading(bank) as opened, opened.db.snapshot():
        found = coverage.problems(opened, cover, limit=limit, offset=offset)
        counts = coverage.covers(opened)
    total = sum(counts.values()) if cover is None else counts[cover]
    payload = {"total": total, "problems": [problem.model_dump(mode="json") for problem in found]}
    emit(payload, json, lambda: bank_text.problems(found, total, offset))


@app.command(epilog="Example: sgsd bank rollout p-12-wrong --bank bank")
def rollout(
    rollout_id: Annotated[str, typer.Argument(metavar="ROLLOUT", help="The rollout's id.")],
    bank: BankOption,
    json: JsonOption = False,
) -> None:
    """Show what became of a rollout, and the entries that rest on it."""
    from skillbank.errors import EntryNotFound
    from skillbank.look.view import view_rollout

    with reading(bank) as opened:
        view = view_rollout(opened, rollout_id)
        if view is None:
            raise EntryNotFound(
                f"no rollout {rollout_id!r} in {bank}: no miner read it, and nothing rests on it (`sgsd bank show ID` "
                "names those an entry rests on)"
            )
        emit(view, json, lambda: entry_text.rollout(view, opened))
