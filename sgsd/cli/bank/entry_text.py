"""What `sgsd bank show` and `sgsd bank rollout` print for people: an entry, and all that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from sgsd.cli.bank.text import headline, headlines, one_line, paragraph, terminal_width
from sgsd.cli.common import coloured, counted

if TYPE_CHECKING:
    from skillbank.look.view import EntryView, Place, RolloutView
    from skillbank.records import Entry
    from skillbank.store import Bank
    from skillbank.store.events import Event
    from skillbank.store.probes import Probe

SHOWN_PLACES = 20
SHOWN_EVENTS = 20
SHOWN_PROBES = 3


def entry(view: EntryView, *, history: bool = True, places: int = SHOWN_PLACES) -> None:
    _title(view)
    for part in view.sides or (view.entry,):
        if view.sides:
            typer.echo(f"\n{part.kind} {part.id}  {part.status}")
        for name, text in part.content.model_dump().items():
            if text:
                paragraph(f"  {name + ':':<16} ", text)
    for part in (view.entry, *view.sides):
        whose = "" if part is view.entry else f" of {part.kind} {part.id}"
        for flag in part.flags:
            released = " (released)" if flag.released else ""
            typer.echo(
                coloured(f"flag{whose}  {flag.rule}{released}: {one_line(flag.reason, 400)}", typer.colors.YELLOW)
            )
    if view.pairs:
        typer.echo(f"\nin pairs {', '.join(f'{pair.id} ({pair.status})' for pair in view.pairs)}")
    if view.stands_for:
        typer.echo(f"\nstands for {counted(len(view.stands_for), 'other')} merged into it")
        for other in view.stands_for[:SHOWN_PLACES]:
            typer.echo(f"{other.id:>6}  {one_line(headline(other), max(40, terminal_width() - 8))}")
        _more(len(view.stands_for), SHOWN_PLACES)
    _evidence(view, places)
    _usage(view)
    for found in view.probes[:SHOWN_PROBES]:
        _probe(found, reworded=found.words != view.words)
    _more(len(view.probes), SHOWN_PROBES)
    if history:
        _history(view.history)


def rollout(view: RolloutView, bank: Bank) -> None:
    for fate in view.fates:
        reason = f": {fate.reason}" if fate.reason else ""
        answer = "" if fate.answer is None else f"  answer {one_line(fate.answer, 40)}"
        typer.echo(f"rollout {fate.rollout_id}  {fate.outcome}{answer}  {fate.source}")
        typer.echo(f"  {fate.fate} by {fate.miner}{reason}")
        typer.echo(f"  problem {fate.problem_id}; read from {fate.file or 'an unnamed file'}")
        if fate.model:
            typer.echo(f"  written by {fate.model}")
        if fate.guided:
            typer.echo("  its prompt showed skills already")
    if not view.fates:
        typer.echo("no miner's record of it is kept")
    if view.problem is not None:
        paragraph("  problem:     ", view.problem)
    kept = next((fate.completion for fate in view.fates if fate.completion is not None), None)
    if kept is not None:
        typer.echo("  completion:")
        for line in kept.strip().split("\n"):
            typer.echo(f"    {line}")
    typer.echo(f"\n{_rest(len(view.entries))}")
    words = headlines(bank, view.entries)
    for found in view.entries:
        typer.echo(f"{found.id:>6}  {found.kind:<7}  {found.status:<11}  {words[found.id]}")


def _rest(count: int) -> str:
    return "no entry rests on it" if not count else f"{count:,} {'entry rests' if count == 1 else 'entries rest'} on it"


def _title(view: EntryView) -> None:
    shown = view.entry
    by = "" if shown.superseded_by is None else f" by {shown.superseded_by}"
    said = [f"{shown.status}{by}", _origin(shown), f"version {shown.version}"]
    if shown.status == "active" and not view.retrieved:
        said.insert(1, "not retrieved: " + ("a side of it is not" if view.sides else "none of its pairs is active"))
    said += ["pinned"] if shown.pinned else []
    said += [f"tags {', '.join(shown.tags)}"] if shown.tags else []
    typer.echo(f"{shown.kind} {shown.id}  {'  '.join(said)}")


def _origin(entry: Entry) -> str:
    """Where an entry came from, as far as its provenance says more than its origin."""
    by = entry.provenance
    if by is None:
        return entry.origin
    said = [entry.origin]
    said += [f"by {by.miner}"] if by.miner not in (entry.origin, "manual", "split", "import") else []
    said += [f"with {by.model}"] if by.model else []
    said += [f"from {by.file}"] if by.file else []
    said += [f"part of {by.parent}"] if by.parent else []
    return " ".join(said)


def _evidence(view: EntryView, limit: int) -> None:
    """Each quote with its place, problem by problem: the skill's from right attempts, the mistake's from wrong ones."""
    by_problem: dict[str, list[Place]] = {}
    for place in view.evidence[:limit]:
        by_problem.setdefault(place.problem_id, []).append(place)
    problems = {place.problem_id for place in view.evidence}
    within = f" in {counted(len(problems), 'problem')}" if len(problems) > 1 else ""
    typer.echo(f"\nevidence: {counted(len(view.evidence), 'place')}{within}")
    for problem_id, places in by_problem.items():
        text = view.problems.get(problem_id)
        paragraph(f"  problem {problem_id}", "" if text is None else f": {text}")
        for place in places:
            paragraph(f"    {place.outcome:<8} ", _quoted(place))
            span = "" if place.span is None else f", characters {place.span[0]} to {place.span[1]}"
            source = f" of {place.source}" if place.source else ""
            typer.echo(f"             rollout {place.rollout_id}{span}{source}")
    _more(len(view.evidence), limit)


def _quoted(place: Place) -> str:
    """The quote between quotation marks, bold on a terminal, in the words around it."""
    before = _words(place.before, last=True)
    after = _words(place.after, last=False)
    return f"{before}{bold(f'“{place.quote}”')}{after}"


def _words(text: str, *, last: bool) -> str:
    """The words next to a quote, none of them cut."""
    if not text.strip():
        return ""
    from skillbank.look.view import CONTEXT

    words = text.split(" ")
    if len(text) >= CONTEXT:
        words = words[1:] if last else words[:-1]
        return f"…{' '.join(words)}" if last else f"{' '.join(words)}…"
    return text


def bold(text: str) -> str:
    return typer.style(text, bold=True)


def _usage(view: EntryView) -> None:
    usage = view.usage
    if view.utility is None:
        return
    typer.echo(
        f"\nin training: {usage.helpful:,} helpful, {usage.harmful:,} harmful, {usage.neutral:,} neutral, "
        f"utility {view.utility:+.2f}, mean support {usage.mean_support or 0:+.3f} nats"
    )


def _probe(found: Probe, *, reworded: bool) -> None:
    since = "; it was reworded since" if reworded else ""
    typer.echo(
        f"\nprobed {found.at[:16]}Z with {found.model} on {counted(found.problems, 'problem')} of {found.data}{since}"
    )
    typer.echo(f"  {probed(found)}")


def probed(found: Probe) -> str:
    """A probe's finding in a line."""
    return (
        f"{counted(found.repairs, 'repair')}, {counted(found.regressions, 'regression')} of {found.pairs:,}: right "
        f"{found.right_without:,} -> {found.right_with:,}, {100 * found.difference:+.1f} points "
        f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    )


def _history(events: Sequence[Event]) -> None:
    typer.echo("\nhistory")
    for event in events[-SHOWN_EVENTS:]:
        reason = f": {event.reason}" if event.reason else ""
        typer.echo(f"  revision {event.revision}  {event.at[:19]}Z  {event.op}{_what(event)}  {event.actor}{reason}")
    if len(events) > SHOWN_EVENTS:
        typer.echo(
            f"  and {len(events) - SHOWN_EVENTS:,} before (`sgsd bank log --entry {events[0].entry_id}` has all)"
        )


def _what(event: Event) -> str:
    """What the event set, where its name does not say it."""
    if event.before is None:
        return ""
    after = event.after
    parts = [f" {after.status}"] if after.status else []
    parts += [f" by {after.superseded_by}"] if after.superseded_by else []
    parts += [f" version {after.version}"] if after.version else []
    return "".join(parts)


def _more(number: int, shown: int) -> None:
    if number > shown:
        typer.echo(f"  and {number - shown:,} more (--json prints all)")
