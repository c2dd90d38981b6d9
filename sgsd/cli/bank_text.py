"""What `sgsd bank` prints for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from skillbank.change import Event
    from skillbank.curate import Operation
    from skillbank.mine.build import BuildReport
    from skillbank.records import Entry, RetrievedPair
    from skillbank.store import Bank, BankStats

OnPhase = Callable[[str, int, int | None], None]
SHOWN_CHANGES = 20
SHOWN_EVIDENCE = 20
LINE = 100


def phase(name: str, done: int, total: int | None) -> str:
    return f"{name} {done:,} of {total:,}" if total else f"{name} {done:,}" if done else name


def one_line(text: str, width: int = LINE) -> str:
    """A text on one line, cut with an ellipsis."""
    folded = " ".join(text.split())
    return folded if len(folded) <= width else f"{folded[: width - 1]}…"


def headline(entry: Entry) -> str:
    """The one field that says most about an entry."""
    from skillbank.records import Mistake, Skill

    content = entry.content
    if isinstance(content, Skill):
        return one_line(f"{content.title}: {content.principle}")
    if isinstance(content, Mistake):
        return one_line(content.description)
    return f"skill {content.skill_id} with mistake {content.mistake_id}"


def entries(found: Sequence[Entry], total: int, hint: str = "") -> None:
    for entry in found:
        places = f"{entry.evidence_count} place{'s' if entry.evidence_count != 1 else ''}"
        typer.echo(f"{entry.id:>6}  {entry.kind:<7}  {entry.status:<11}  {places:>10}  {headline(entry)}")
    if not total:
        typer.echo(f"no entry found{f'; {hint}' if hint else ''}")
    elif len(found) < total:
        typer.echo(f"{len(found)} of {total}")


def nearest(found: Sequence[tuple[Entry, float]]) -> None:
    for entry, cosine in found:
        typer.echo(f"{entry.id:>6}  {entry.kind:<7}  cosine {cosine:.3f}  {headline(entry)}")
    if not found:
        typer.echo("no entry found")


def read_entry(bank: Bank, entry_id: int) -> dict[str, Any]:
    """All that `bank show` tells of an entry, as JSON values."""
    from skillbank.records import Pair

    entry = bank.get(entry_id)
    content = entry.content
    sides = [bank.get(content.skill_id), bank.get(content.mistake_id)] if isinstance(content, Pair) else []
    return {
        "entry": entry.model_dump(mode="json"),
        "sides": [side.model_dump(mode="json") for side in sides],
        "pairs": [] if sides else [pair.model_dump(mode="json") for pair in bank.pairs_with(entry_id)],
        "evidence": [evidence.model_dump(mode="json") for evidence in bank.evidence(entry_id)],
        "flags": [flag.model_dump(mode="json") for flag in bank.flags(entry_id)],
        "usage": bank.usage(entry_id).model_dump(mode="json"),
        "history": [_event(event) for event in bank.history(entry_id)],
    }


def _event(event: Event) -> dict[str, Any]:
    return event.model_dump(mode="json", exclude_unset=True)


def entry(view: Mapping[str, Any]) -> None:
    shown = view["entry"]
    by = f" by {shown['superseded_by']}" if shown["superseded_by"] else ""
    typer.echo(f"{shown['kind']} {shown['id']}  {shown['status']}{by}  {shown['origin']}  version {shown['version']}")
    for part in view["sides"] or [shown]:
        if view["sides"]:
            typer.echo(f"\n{part['kind']} {part['id']}  {part['status']}")
        for name, text in part["content"].items():
            typer.echo(f"  {name + ':':<16} {text}")
    if view["pairs"]:
        names = [f"{pair['id']} ({pair['status']})" for pair in view["pairs"]]
        typer.echo(f"\nin pairs {', '.join(names)}")
    for flag in view["flags"]:
        typer.echo(f"flag {flag['rule']}: {flag['reason']}")
    _evidence(view["evidence"])
    usage = view["usage"]
    if usage["mean_support"] is not None:
        typer.echo(
            f"\nin training: {usage['helpful']} helpful, {usage['harmful']} harmful, {usage['neutral']} neutral, "
            f"mean support {usage['mean_support']:+.3f} nats"
        )
    typer.echo("\nhistory")
    for event in view["history"]:
        reason = f": {event['reason']}" if event["reason"] else ""
        typer.echo(f"  revision {event['revision']}  {event['at'][:19]}Z  {event['op']}  {event['actor']}{reason}")


def _evidence(places: Sequence[Mapping[str, Any]]) -> None:
    typer.echo(f"\nevidence: {len(places)} place{'s' if len(places) != 1 else ''}")
    for place in places[:SHOWN_EVIDENCE]:
        span = "" if place["span"] is None else f" [{place['span'][0]}:{place['span'][1]}]"
        typer.echo(f"  {place['outcome']:<7}  {place['rollout_id']}{span}, problem {place['problem_id']}")
        typer.echo(f"           “{one_line(place['quote'])}”")
    if len(places) > SHOWN_EVIDENCE:
        typer.echo(f"  and {len(places) - SHOWN_EVIDENCE} more (--json prints all)")


def stats(path: Path, numbers: BankStats) -> None:
    from skillbank.lexical import DESCRIPTION
    from skillbank.vectors import FOLDER

    embedder = DESCRIPTION if numbers.embedder == FOLDER else numbers.embedder or "none yet"
    rows = {
        "bank": str(path),
        "entries": _counts(numbers.entries),
        "status": _counts(numbers.by_status),
        "retrievable": _counts(numbers.retrievable),
        "evidence": f"{numbers.evidence:,} places",
        "usage": f"{numbers.usage:,} rows",
        "revision": str(numbers.revision),
        "embedder": embedder,
    }
    for name, text in rows.items():
        typer.echo(f"{name:<12} {text}")


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def retrieved(pairs: Sequence[RetrievedPair], embedder: str | None) -> None:
    if not pairs:
        typer.echo("no pair")
    for rank, pair in enumerate(pairs, start=1):
        known = f"pair {pair.pair_id}" if pair.pair_id is not None else "no pair entry"
        typer.echo(f"{rank}. weight {pair.weight:.3f}  ({known})")
        typer.echo(f"   skill {pair.skill_id}, cosine {pair.skill_cosine:.3f}: {one_line(pair.skill.title, 40)}")
        typer.echo(f"      {one_line(pair.skill.principle)}")
        typer.echo(
            f"   mistake {pair.mistake_id}, cosine {pair.mistake_cosine:.3f}: {one_line(pair.mistake.description)}"
        )
        if pair.mistake.how_to_avoid:
            typer.echo(f"      {one_line(pair.mistake.how_to_avoid)}")
    if embedder is not None:
        typer.echo(f"embedder: {embedder}")


def operation(done: Operation, preview: bool) -> None:
    for change in done.changes[:SHOWN_CHANGES]:
        typer.echo(f"{change.kind} {change.entry_id}  {change.field}")
        if change.before:
            typer.secho(f"  - {change.before}", fg=typer.colors.RED)
        if change.after:
            typer.secho(f"  + {change.after}", fg=typer.colors.GREEN)
    if len(done.changes) > SHOWN_CHANGES:
        typer.echo(f"and {len(done.changes) - SHOWN_CHANGES} more changes (--json prints all)")
    for ids, what in ((done.leaving, "no longer retrieved"), (done.joining, "retrieved from now on")):
        if ids:
            typer.echo(f"{what}: {_ids(ids)}")
    if not done.changes:
        typer.echo("nothing changed")
    elif preview:
        typer.echo("preview: nothing was changed")
    else:
        typer.echo(f"{done.action}: revision {done.revision} (take it back with `sgsd bank undo {done.revision}`)")


def _ids(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:SHOWN_CHANGES]))
    return f"{shown} and {len(ids) - SHOWN_CHANGES} more" if len(ids) > SHOWN_CHANGES else shown


def build(report: BuildReport) -> None:
    typer.echo(
        f"{report.rollouts:,} rollouts of {report.problems:,} problems, {report.problems_with_both:,} with right and "
        f"wrong attempts: {report.pairs:,} pairs"
    )
    for title, counts in (("rejected", report.rejected), ("dropped", report.dropped)):
        for reason, count in counts.items():
            typer.echo(f"  {title} {count:,}: {reason}")
    typer.echo(f"added       {_counts(report.added)}")
    typer.echo(f"entries     {_counts(report.entries)}")
    typer.echo(f"embedder    {report.embedder}")
    typer.echo(f"seconds     {', '.join(f'{name} {seconds:.1f}' for name, seconds in report.seconds.items())}")
    for pair in report.examples:
        typer.echo(f"\n  skill    {one_line(pair.skill.principle)}")
        typer.echo(f"  mistake  {one_line(pair.mistake.description)}")
    typer.echo(
        f"\nbank {report.bank} is at revision {report.revision}; look into it: `sgsd bank list --bank {report.bank}`"
    )
