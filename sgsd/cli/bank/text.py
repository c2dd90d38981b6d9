"""What `sgsd bank` prints for people."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sgsd.cli.common import coloured, counted

if TYPE_CHECKING:
    from skillbank.curate import FieldChange, Operation
    from skillbank.look.coverage import Coverage, Problem
    from skillbank.look.find import Found
    from skillbank.records import Entry, Kind, Pair, RetrievedPair
    from skillbank.store import Bank, Revision
    from skillbank.store.events import Event

SHOWN_CHANGES = 20
LINE = 100
STATES = ("status", "pinned", "superseded_by", "tags", "flags", "evidence", "retracted", "skill_id", "mistake_id")
"""Fields that are no text: shown on one line."""
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


def entries(
    found: Sequence[Entry],
    words: Mapping[int, str],
    total: int,
    offset: int = 0,
    utility: Mapping[int, float] | None = None,
    hint: str = "",
) -> None:
    """One line an entry; with its utility where training has used any of them."""
    for entry in found:
        places = counted(entry.evidence_count, "place")
        used = "" if not utility else f"  {utility[entry.id]:+.2f}" if entry.id in utility else "       "
        typer.echo(f"{entry.id:>6}  {entry.kind:<7}  {entry.status:<11}  {places:>10}{used}  {words[entry.id]}")
    page(len(found), total, offset, "entry", hint)


def page(shown: int, total: int, offset: int, noun: str, hint: str = "") -> None:
    if not total:
        typer.echo(f"no {noun} found{f'; {hint}' if hint else ''}")
    elif not shown:
        typer.echo(f"no {noun} from {offset:,} on: there are {total:,}")
    elif shown < total:
        typer.echo(f"{offset + 1:,} to {offset + shown:,} of {total:,} (--limit and --offset show others)")


def hits(found: Found, words: Mapping[int, str]) -> None:
    """What a search found, with why: its rank by words, its cosine."""
    for hit in found.hits:
        by = [] if hit.word_rank is None else [f"words {hit.word_rank}"]
        by += [] if hit.cosine is None else [f"cosine {hit.cosine:.3f}"]
        typer.echo(f"{hit.entry.id:>6}  {hit.entry.kind:<7}  {', '.join(by):<23}  {words[hit.entry.id]}")
    if not found.hits:
        typer.echo("no entry found")


def problems(found: Sequence[Problem], total: int, offset: int) -> None:
    room = max(40, terminal_width() - 42)
    for problem in found:
        pairs = counted(problem.pairs, "pair")
        typer.echo(f"{problem.problem_id:<16}  {problem.cover:<9}  {pairs:>9}  {one_line(problem.problem, room)}")
    page(len(found), total, offset, "problem")


def stats(path: Path, numbers: Coverage) -> None:
    from skillbank.index.lexical import DESCRIPTION
    from skillbank.index.vectors import FOLDER

    embedder = DESCRIPTION if numbers.embedder == FOLDER else numbers.embedder or "none yet"
    idle = f"{numbers.pairs_never_retrieved:,} of {numbers.pairs_in_use:,} in use"
    rows = {
        "bank": str(path),
        "entries": _kinds(numbers.entries),
        "status": _counts(numbers.by_status),
        "flags": _counts(numbers.flags),
        "retrievable": _kinds(numbers.retrievable),
        "evidence": counted(numbers.evidence, "place"),
        "rollouts": _counts(numbers.rollouts),
        "problems": _counts(numbers.problems),
        "idle pairs": f"{idle} were never retrieved in training",
        "usage": counted(numbers.usage, "row"),
        "revision": str(numbers.revision),
        "embedder": embedder,
    }
    for name, text in rows.items():
        typer.echo(f"{name:<12} {text}")
    for number, (reason, count) in enumerate(numbers.rejected.items()):
        typer.echo(f"{'' if number else 'rejected':<12} {count:,}: {reason}")
    if any(bin.entries for bin in numbers.utility):
        for number, bin in enumerate(numbers.utility):
            kinds = ", ".join(counted(count, kind) for kind, count in bin.entries.items()) or "none"
            typer.echo(f"{'' if number else 'utility':<12} {bin.low:+.1f} to {bin.high:+.1f}: {kinds}")
    if numbers.problems["uncovered"]:
        typer.echo("\nnext: sgsd bank problems --cover uncovered")


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


def changes(found: Sequence[FieldChange], words: Mapping[int, str], *, err: bool = False) -> None:
    """Field changes: a text as what goes and what comes, a state on one line."""
    shown = None
    for change in found:
        name = "bank" if change.entry_id is None else f"{change.kind} {change.entry_id}"
        if change.field in STATES:
            arrow = f"{change.before} -> {change.after}" if change.before and change.after else ""
            sign = arrow or (f"+ {change.after}" if change.after else f"- {change.before}")
            said = "" if shown == name else words.get(change.entry_id or 0, "")
            typer.echo(f"{name}  {change.field}  {one_line(sign, 3 * LINE)}{f'  {said}' if said else ''}", err=err)
        else:
            typer.echo(f"{name}  {change.field}", err=err)
            for sign, text, colour in (("-", change.before, "red"), ("+", change.after, "green")):
                if text:
                    typer.echo(coloured("\n".join(f"  {sign} {line}" for line in text.split("\n")), colour), err=err)
        shown = name


def consequences(done: Operation, *, err: bool = False) -> None:
    """What an operation means for retrieval, and what it did not do."""
    for ids, what in ((done.leaving, "no longer retrieved"), (done.joining, "retrieved from now on")):
        if ids:
            typer.echo(f"{what}: {_ids(ids)}", err=err)
    for held in done.held:
        rules = ", ".join(dict.fromkeys(flag.rule for flag in held.flags))
        release = f"`sgsd bank release {held.entry_id}`"
        typer.echo(
            f"quarantined: {held.entry_id} ({rules}); when you find it right, {release} lets it through", err=err
        )
    for left in done.left:
        typer.echo(f"left as it is: {_ids(left.ids)}: {left.why}", err=err)


def undo_hint(revision: int | None, bank: Path) -> str:
    """How to take a revision back."""
    return f"(take it back with `sgsd bank undo {revision} --bank {shlex.quote(str(bank))}`)"


def operation(done: Operation, preview: bool, words: Mapping[int, str], bank: Path, *, err: bool = False) -> None:
    changes(done.changes, words, err=err)
    total = sum(done.fields.values())
    if total > len(done.changes):
        typer.echo(f"and {total - len(done.changes):,} more changes (--json prints all)", err=err)
    consequences(done, err=err)
    if not done.changed and not done.fields:
        typer.echo("nothing changed", err=err)
        return
    count = f"{entries_count(done.changed)} ({_kinds(done.entries)})" if done.changed > 1 else ""
    if preview:
        typer.echo(f"preview: nothing was changed{f'; it would change {count}' if count else ''}", err=err)
        return
    back = undo_hint(done.revision, bank)
    typer.echo(f"{done.action}: revision {done.revision}{f', {count}' if count else ''} {back}", err=err)


def revisions(found: Sequence[Revision], total: int, offset: int) -> None:
    for one in found:
        typer.echo(_revision(one))
    page(len(found), total, offset, "revision")


def revision_line(bank: Bank, number: int) -> None:
    typer.echo(_revision(bank.revisions(limit=1, offset=bank.revision - number)[0]))


def _revision(one: Revision) -> str:
    reason = f": {one_line(one.reason)}" if one.reason else ""
    return f"{one.revision:>6}  {one.at[:19]}Z  {entries_count(one.changed):>14}  {one.actor}{reason}"


def event_line(event: Event) -> None:
    reason = f": {one_line(event.reason)}" if event.reason else ""
    typer.echo(f"revision {event.revision}  {event.at[:19]}Z  {event.op}  {event.actor}{reason}")


def headlines_of(bank: Bank, done: Operation) -> dict[int, str]:
    """Headlines of the entries that the shown changes are of."""
    ids = [change.entry_id for change in done.changes if change.entry_id is not None]
    return headlines(bank, bank.entries(ids=ids)) if ids else {}


def entries_count(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"


def _ids(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:SHOWN_CHANGES]))
    return f"{shown} and {len(ids) - SHOWN_CHANGES:,} more" if len(ids) > SHOWN_CHANGES else shown
