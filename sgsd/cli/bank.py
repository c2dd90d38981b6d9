"""`sgsd bank ...`: build a bank from past rollouts, look into it, curate it, ask it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sgsd.cli import bank_text
from sgsd.cli.common import check_folder, console, emit, offline_without_network, waiting, warn

if TYPE_CHECKING:
    from skillbank.curate import Operation
    from skillbank.mine.build import BuildReport
    from skillbank.store import Bank

app = typer.Typer(help="Build, inspect, curate and ask a bank of skill-mistake pairs.", no_args_is_help=True)


# Spelt out here as well as in skillbank.records, which would bring pydantic into `sgsd --help`.
Kind = Literal["skill", "mistake", "pair"]
Status = Literal["active", "disabled", "quarantined", "superseded", "retired"]
Sort = Literal["id", "newest", "evidence", "changed"]
Mode = Literal["similar", "random"]

BankOption = Annotated[Path, typer.Option("--bank", envvar="SGSD_BANK", help="The bank's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
KindOption = Annotated[Kind | None, typer.Option(help="Only this kind.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the history.")]
PreviewOption = Annotated[bool, typer.Option("--preview", help="Show what would happen and change nothing.")]
MAX_ID = 2**63 - 1
"""SQLite's."""
IdArgument = Annotated[int, typer.Argument(metavar="ID", min=1, max=MAX_ID, help="The entry's id.")]
IdsArgument = Annotated[list[int], typer.Argument(metavar="ID...", min=1, max=MAX_ID, help="Ids of entries.")]


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

    with _phases() as on_phase:
        report = build_bank(
            rollouts, bank, embedder=embedder, merge_cosine=merge_cosine, split=split, on_progress=on_phase
        )
    emit(report, json, lambda: _print_build(report))


def _print_build(report: BuildReport) -> None:
    bank_text.build(report)
    if report.rejected:
        count = sum(report.rejected.values())
        lines = "1 line could not be used and is" if count == 1 else f"{count:,} lines could not be used and are"
        warn(f"{lines} in {report.bank}/rejected.jsonl")


def _embed_anew(path: Path, embedder: str, json: bool) -> None:
    offline_without_network(embedder)
    from skillbank.index import VectorIndex
    from skillbank.store import Bank
    from skillbank.vectors import adopt, embed_missing

    with Bank.open(path) as bank, _phases() as on_phase:
        model = adopt(bank, embedder)
        embedded = embed_missing(bank, model, lambda done, total: on_phase("embed", done, total))
        VectorIndex.open(bank, model)
    payload = {"bank": str(path), "embedder": model.describe(), "embedded": embedded}
    emit(payload, json, lambda: typer.echo(f"{path}: {embedded} texts embedded by {model.describe()}"))


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
    with _reading(bank) as opened:
        entries = opened.entries(kind, status, origin, sort=sort, limit=limit, offset=offset)
        total = opened.count(kind, status, origin)
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
    with _reading(bank) as opened:
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
    with _reading(bank) as opened:
        entries = opened.entries(kind=kind, text=text, sort="relevance", limit=limit)
        total = opened.count(kind=kind, text=text)
        headlines = bank_text.headlines(opened, entries)
    payload = {"total": total, "entries": [entry.model_dump(mode="json") for entry in entries]}
    emit(payload, json, lambda: bank_text.entries(entries, headlines, total, hint="try --semantic"))


@app.command(epilog="Example: sgsd bank stats --bank bank --json")
def stats(bank: BankOption, json: JsonOption = False) -> None:
    """Count what the bank holds."""
    with _reading(bank) as opened:
        numbers = opened.stats()
    emit(numbers, json, lambda: bank_text.stats(bank, numbers))


@app.command(epilog='Example: sgsd bank retrieve "What is 5 zorp 7 modulo 23?" --bank bank --k 4')
def retrieve(
    problem: Annotated[str, typer.Argument(metavar="PROBLEM", help="The text of a problem.")],
    bank: BankOption,
    k: Annotated[int, typer.Option(min=1, help="Pairs to retrieve.")] = 8,
    temperature: Annotated[float, typer.Option(min=1e-6, help="Of the softmax over a pool's cosines.")] = 1.0,
    mode: Annotated[Mode, typer.Option(help="By cosine, or uniformly at random.")] = "similar",
    problem_id: Annotated[str | None, typer.Option(help="Leave out what rests on this problem alone.")] = None,
    own: Annotated[bool, typer.Option("--own", help="Keep what rests on this very problem alone.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of random retrieval.")] = 0,
    json: JsonOption = False,
) -> None:
    """Show the pairs that would guide the teachers of a problem, with their weights."""
    if not problem.strip():
        raise typer.BadParameter("the problem has no words", param_hint="PROBLEM")
    with waiting("loading the embedder"):
        from skillbank.retrieve import open_retriever

        retriever = open_retriever(
            bank, k=k, temperature=temperature, mode=mode, leave_one_problem_out=not own, seed=seed
        )
    with retriever.bank:
        pairs = retriever.retrieve([problem], None if problem_id is None else [problem_id])[0]
    embedder = None if retriever.embedder is None else retriever.embedder.describe()
    payload = {"embedder": embedder, "pairs": [pair.model_dump(mode="json") for pair in pairs]}
    emit(payload, json, lambda: bank_text.retrieved(pairs, embedder))


@app.command(epilog='Example: sgsd bank edit 7 --title "Reduce before adding" --reason "clearer" --bank bank')
def edit(
    entry_id: IdArgument,
    bank: BankOption,
    title: Annotated[str | None, typer.Option(help="Of a skill.")] = None,
    principle: Annotated[str | None, typer.Option(help="Of a skill.")] = None,
    when: Annotated[str | None, typer.Option(help="Of a skill: when to apply it.")] = None,
    description: Annotated[str | None, typer.Option(help="Of a mistake.")] = None,
    why: Annotated[str | None, typer.Option(help="Of a mistake: why it happens.")] = None,
    how: Annotated[str | None, typer.Option(help="Of a mistake: how to avoid it.")] = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Reword a skill or a mistake; what stood before is kept and can be brought back."""
    from skillbank import curate

    given = {
        "title": title,
        "principle": principle,
        "when_to_apply": when,
        "description": description,
        "why_it_happens": why,
        "how_to_avoid": how,
    }
    fields = {name: text for name, text in given.items() if text is not None}
    if not fields:
        raise typer.BadParameter(
            "give a new text", param_hint="--title, --principle, --when, --description, --why or --how"
        )
    with _writing(bank) as opened:
        done = curate.edit(opened, entry_id, fields, actor=_actor(), reason=reason, preview=preview)
    _report(done, preview, json)


@app.command(epilog='Example: sgsd bank disable 7 12 --reason "misleads" --bank bank')
def disable(
    ids: IdsArgument,
    bank: BankOption,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Take entries out of retrieval; a pair's two sides no longer guide a teacher together."""
    from skillbank import curate

    with _writing(bank) as opened:
        done = curate.disable(opened, ids, actor=_actor(), reason=reason, preview=preview)
    _report(done, preview, json)


@app.command(epilog="Example: sgsd bank enable 7 --bank bank")
def enable(
    ids: IdsArgument,
    bank: BankOption,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Take entries back into retrieval."""
    from skillbank import curate

    with _writing(bank) as opened:
        done = curate.enable(opened, ids, actor=_actor(), reason=reason, preview=preview)
    _report(done, preview, json)


@app.command(epilog="Example: sgsd bank undo 3 --bank bank")
def undo(
    bank: BankOption,
    revision: Annotated[
        int | None,
        typer.Argument(metavar="[REVISION]", min=1, max=MAX_ID, help="The one to undo; the latest when not given."),
    ] = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Undo a revision by a new one. Undoing an undo brings the change back."""
    from skillbank import curate

    with _writing(bank) as opened:
        done = curate.undo(opened, revision, actor=_actor(), reason=reason, preview=preview)
    _report(done, preview, json)


def _report(done: Operation, preview: bool, json: bool) -> None:
    emit(done, json, lambda: bank_text.operation(done, preview))


@contextmanager
def _reading(path: Path) -> Iterator[Bank]:
    from skillbank.store import Bank

    with Bank.open(path, readonly=True) as bank:
        yield bank


@contextmanager
def _writing(path: Path) -> Iterator[Bank]:
    from skillbank.store import Bank

    with Bank.open(path) as bank:
        yield bank


@contextmanager
def _phases() -> Iterator[bank_text.OnPhase]:
    """A line on the terminal that says what a build is at."""
    if not console.is_terminal:
        yield lambda phase, done, total: None
        return
    with console.status("starting") as status:
        yield lambda phase, done, total: status.update(bank_text.phase(phase, done, total))


def _actor() -> str:
    """Who stands in the history."""
    return os.environ.get("USER") or "someone"
