"""What `sgsd bank dedupe` prints for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sgsd.cli.bank.text import headline, one_line, paragraph, terminal_width, undo_hint
from sgsd.cli.common import counted

if TYPE_CHECKING:
    from skillbank.dedupe import Merged
    from skillbank.dedupe.duplicates import Duplicates
    from skillbank.mine.model.rewording import Rewordings

SHOWN_APART = 10


def found(seen: Duplicates) -> None:
    """The clusters, what stays apart although it is near, and the numbers before and after."""
    for cluster in seen.clusters:
        best, *others = cluster.members
        typer.echo(f"{cluster.kind}s that say the same: {len(cluster.members)} ({cluster.why})")
        paragraph(f"  keep  {best.entry.id:>6}         ", headline(best.entry))
        for member in others:
            paragraph(f"        {member.entry.id:>6}  {member.cosine:.3f}  ", headline(member.entry))
    if seen.total > len(seen.clusters):
        typer.echo(f"and {counted(seen.total - len(seen.clusters), 'more cluster')} (--limit shows more)")
    if seen.apart:
        typer.echo(f"stay two, though at {seen.threshold:g} or above:")
        for pair in seen.apart[:SHOWN_APART]:
            width = max(20, terminal_width() - 36)
            typer.echo(f"        {pair.one:>6}, {pair.other}  {pair.cosine:.3f}  {one_line(pair.why, width)}")
        if len(seen.apart) > SHOWN_APART:
            typer.echo(f"        and {len(seen.apart) - SHOWN_APART:,} more")
    typer.echo(f"by {seen.embedder}")
    for tally in seen.tallies:
        typer.echo(
            f"{tally.kind + 's':<9} {tally.entries:>8,} -> {tally.left:,}; "
            f"pairs at {seen.threshold:g} or above: {tally.near_pairs:,} ({tally.near_share:.3%} of all pairs) -> "
            f"{tally.left_near_pairs:,} ({tally.left_near_share:.3%}); "
            f"entries in one: {tally.near_entries:,} -> {tally.left_near_entries:,}"
        )


def wordings(written: Rewordings) -> None:
    """What the model wrote, cluster by cluster."""
    for keep, wording in written.wordings.items():
        typer.echo(f"for the cluster of {keep}, covering {', '.join(map(str, wording.covered)) or 'none'}:")
        for name, words in wording.content.model_dump().items():
            paragraph(f"  {name}: ", words)
    for keep, reason in written.failed.items():
        typer.echo(f"for the cluster of {keep}, no wording: {one_line(reason)}")


def merged(done: Merged, written: Rewordings | None, bank: Path, *, by_model: bool) -> None:
    if written is not None:
        tokens = f"{written.prompt_tokens:,} prompt tokens and {written.completion_tokens:,} of replies"
        typer.echo(f"{counted(written.calls, 'wording')}, {counted(written.calls_made, 'call')} made now ({tokens})")
    if done.uncovered:
        ids = ", ".join(map(str, done.uncovered))
        typer.echo(f"not covered by the new wording of their cluster, and kept: {ids}")
    for reason, count in done.left.items():
        typer.echo(f"left as they are: {counted(count, 'cluster')} ({reason})")
    if not done.superseded:
        typer.echo("nothing to merge" if not done.found.total else "nothing was merged")
        return
    pairs = f"; pairs {done.pairs:,} -> {done.left_pairs:,}" if done.pairs else ""
    if done.revision is None:
        most = "at most " if by_model else ""  # what the model leaves uncovered stays
        typer.echo(f"preview: {most}{_entries(done.superseded)} would be superseded{pairs}; nothing was changed")
        return
    typer.echo(
        f"{_entries(done.superseded)} superseded{pairs}: revision {done.revision} {undo_hint(done.revision, bank)}"
    )


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number:,} entries"
