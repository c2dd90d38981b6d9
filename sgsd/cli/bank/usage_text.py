"""What `sgsd bank usage` and `sgsd bank prune` print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from sgsd.cli.bank import text
from sgsd.cli.common import counted

if TYPE_CHECKING:
    from skillbank.curate.prune import Pruned
    from skillbank.store import Bank
    from skillbank.usage import Estimate

SHOWN = 20


def headlines(bank: Bank, found: Sequence[Estimate]) -> dict[int, str]:
    """The words of the entries that the estimates are of."""
    return text.headlines(bank, bank.entries(ids=[one.entry_id for one in found if one.entry_id is not None]))


def usage(found: Sequence[Estimate], words: Mapping[int, str], total: int, offset: int, level: float) -> None:
    """A line of numbers an entry, and under it its words."""
    for one in found:
        typer.echo(_numbers(one))
        if one.entry_id is not None and one.entry_id in words:
            typer.echo(f"        {text.one_line(words[one.entry_id])}")
    if found:
        typer.echo(f"intervals hold the truth {level:.0%} of the time; z is about standard normal where nothing is")
    text.page(len(found), total, offset, "use")


def _numbers(one: Estimate) -> str:
    name = f"{one.entry_id:>6}" if one.entry_id is not None else f"{one.skill_id}+{one.mistake_id}".rjust(6)
    parts = [
        f"{name}  {one.kind:<7}  {one.uses:>5} on {counted(one.problems, 'problem')}",
        f"{one.helpful} helpful, {one.harmful} harmful",
        f"utility {one.utility:+.2f} [{one.low:+.2f}, {one.high:+.2f}]",
    ]
    if one.credit is not None:
        parts.append(f"credit {one.credit.value:+.3f} [{one.credit.low:+.3f}, {one.credit.high:+.3f}] nats")
    if one.correlation is not None:
        parts.append(f"correlation {one.correlation.value:+.2f} (z {one.correlation.z:+.1f})")
    if one.placebo is not None:
        beyond = one.placebo.support
        parts.append(f"beyond placebo {beyond.value:+.3f} [{beyond.low:+.3f}, {beyond.high:+.3f}] nats")
    return "  ".join(parts)


def pruned(bank: Bank, done: Pruned, preview: bool, *, err: bool = False) -> None:
    """What goes, kind by kind, and what goes with it."""
    pruning, operation = done
    shown = pruning.retired[:SHOWN]
    words = headlines(bank, shown)
    for one in shown:
        typer.echo(_numbers(one), err=err)
        if one.entry_id is not None and one.entry_id in words:
            typer.echo(f"        {text.one_line(words[one.entry_id])}", err=err)
    if len(pruning.retired) > SHOWN:
        typer.echo(f"        ... and {len(pruning.retired) - SHOWN:,} more (--json names all)", err=err)
    for kind, of_kind in pruning.kinds.items():
        spared = [
            f"{count} {why}" for count, why in ((of_kind.kept, "among the best"), (of_kind.pinned, "pinned")) if count
        ]
        typer.echo(
            f"{kind + 's:':<10}{of_kind.retired:,} of {of_kind.active:,} go ({of_kind.measured:,} were measured), with "
            f"{of_kind.uses_share:.0%} of the uses and {of_kind.evidence_share:.0%} of the places"
            + (f"; stay though they fit: {', '.join(spared)}" if spared else ""),
            err=err,
        )
    lost = ", ".join(f"{pruning.leaving[kind]:,} of {pruning.retrievable[kind]:,} {kind}s" for kind in pruning.leaving)
    typer.echo(f"retrieval loses {lost}", err=err)
    if pruning.problems_bare:
        more = ", ..." if pruning.problems_bare > len(pruning.bare) else ""
        typer.echo(
            f"{counted(pruning.problems_bare, 'problem')} left without an entry: {', '.join(pruning.bare)}{more}",
            err=err,
        )
    if operation.revision is not None:
        typer.echo(f"prune: revision {operation.revision} (take it back with `sgsd bank undo {operation.revision}`)")
    elif preview:
        typer.echo("preview: nothing was changed", err=err)
    else:
        typer.echo("nothing was changed", err=err)
