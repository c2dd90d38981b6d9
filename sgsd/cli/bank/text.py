"""What `sgsd bank` prints for people."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sgsd.cli.common import coloured, counted

if TYPE_CHECKING:
    from skillbank.change import Event
    from skillbank.curate import Operation
    from skillbank.records import Entry, Kind, Pair, RetrievedPair
    from skillbank.store import Bank, BankStats

SHOWN_CHANGES = 20
SHOWN_EVIDENCE = 20
LINE = 100
PAIRED = "  not  "
"""Between a pair's skill and its mistake."""


def one_line(text: str, width: int = LINE) -> str:
    """A text on one line, cut with an ellipsis."""
    folded = " ".join(text.split())
    return folded if len(folded) <= width else f"{folded[: width - 1].rstrip()}…"


def terminal_width() -> int:
    """Columns of the terminal or of COLUMNS; plenty where the output is no terminal."""
    return max(40, shutil.get_terminal_size((LINE + 40, 24)).columns)


def paragraph(label: str, text: str) -> None:
    """A labelled text, wrapped under itself on a terminal, one line elsewhere."""
    folded = " ".join(text.split())
    if not sys.stdout.isatty():
        typer.echo(f"{label}{folded}")
        return
    typer.echo(textwrap.fill(folded, terminal_width(), initial_indent=label, subsequent_indent=" " * len(label)))


def headlines(bank: Bank, found: Sequence[Entry]) -> dict[int, str]:
    """Of each entry the words that say most about it, as many as the terminal has room for; of a pair both sides'."""
    from skillbank.records import Pair

    pairs = {entry.id: entry.content for entry in found if isinstance(entry.content, Pair)}
    sides = {entry.id: entry for entry in found}
    wanted = {i for pair in pairs.values() for i in (pair.skill_id, pair.mistake_id)} - sides.keys()
    sides |= {entry.id: entry for entry in bank.entries(ids=wanted)} if wanted else {}
    room = max(40, terminal_width() - 42)
    words = {entry.id: one_line(headline(entry), room) for entry in found if entry.id not in pairs}
    return words | {pair_id: _pair_headline(pair, sides, room) for pair_id, pair in pairs.items()}


def headline(entry: Entry) -> str:
    """The one field that says most about a skill or a mistake."""
    from skillbank.records import Mistake, Skill

    content = entry.content
    if isinstance(content, Skill):
        return content.title if content.principle.startswith(content.title) else f"{content.title}: {content.principle}"
    assert isinstance(content, Mistake)
    return content.description


def _pair_headline(pair: Pair, sides: Mapping[int, Entry], room: int) -> str:
    """Both sides in half of the room each; where a skill's principle is too long, its title if that says something."""
    from skillbank.records import Skill

    half = (room - len(PAIRED)) // 2
    skill = sides[pair.skill_id].content
    assert isinstance(skill, Skill)
    right = skill.title if len(skill.principle) > half and len(skill.title.split()) > 3 else skill.principle
    return f"{one_line(right, half)}{PAIRED}{one_line(headline(sides[pair.mistake_id]), half)}"


def entries(found: Sequence[Entry], words: Mapping[int, str], total: int, offset: int = 0, hint: str = "") -> None:
    for entry in found:
        places = counted(entry.evidence_count, "place")
        typer.echo(f"{entry.id:>6}  {entry.kind:<7}  {entry.status:<11}  {places:>10}  {words[entry.id]}")
    if not total:
        typer.echo(f"no entry found{f'; {hint}' if hint else ''}")
    elif not found:
        typer.echo(f"no entry from {offset:,} on: there are {total:,}")
    elif len(found) < total:
        typer.echo(f"{offset + 1:,} to {offset + len(found):,} of {total:,} (--limit and --offset show others)")


def nearest(found: Sequence[tuple[Entry, float]]) -> None:
    for entry, cosine in found:
        text = one_line(headline(entry), max(40, terminal_width() - 31))
        typer.echo(f"{entry.id:>6}  {entry.kind:<7}  cosine {cosine:.3f}  {text}")
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
            paragraph(f"  {name + ':':<16} ", text)
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
    """Each quote with its place: the skill's are from right attempts, the mistake's from wrong ones."""
    typer.echo(f"\nevidence: {counted(len(places), 'place')}")
    for place in places[:SHOWN_EVIDENCE]:
        span = "" if place["span"] is None else f", characters {place['span'][0]} to {place['span'][1]}"
        source = f" of {place['source']}" if place["source"] else ""
        paragraph(f"  {place['outcome']:<8} ", f"“{place['quote']}”")
        typer.echo(f"           rollout {place['rollout_id']}{span}; problem {place['problem_id']}{source}")
    if len(places) > SHOWN_EVIDENCE:
        typer.echo(f"  and {len(places) - SHOWN_EVIDENCE} more (--json prints all)")


def stats(path: Path, numbers: BankStats) -> None:
    from skillbank.lexical import DESCRIPTION
    from skillbank.vectors import FOLDER

    embedder = DESCRIPTION if numbers.embedder == FOLDER else numbers.embedder or "none yet"
    rows = {
        "bank": str(path),
        "entries": _kinds(numbers.entries),
        "status": _counts(numbers.by_status),
        "retrievable": _kinds(numbers.retrievable),
        "evidence": f"{numbers.evidence:,} places",
        "usage": f"{numbers.usage:,} rows",
        "revision": str(numbers.revision),
        "embedder": embedder,
    }
    for name, text in rows.items():
        typer.echo(f"{name:<12} {text}")


def _kinds(counts: Mapping[Kind, int]) -> str:
    return ", ".join(counted(count, kind) for kind, count in counts.items())


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def retrieved(pairs: Sequence[RetrievedPair], embedder: str | None) -> None:
    if not pairs:
        typer.echo("no pair")
    for rank, pair in enumerate(pairs, start=1):
        known = f"pair {pair.pair_id}" if pair.pair_id is not None else "no pair entry"
        typer.echo(f"{rank}. weight {pair.weight:.3f}  ({known})")
        typer.echo(f"   skill {pair.skill_id}, cosine {pair.skill_cosine:.3f}: {one_line(pair.skill.title, 72)}")
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
            typer.echo(coloured(f"  - {change.before}", typer.colors.RED))
        if change.after:
            typer.echo(coloured(f"  + {change.after}", typer.colors.GREEN))
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
