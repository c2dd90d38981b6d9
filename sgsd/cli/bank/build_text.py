"""What `sgsd bank build` prints for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from sgsd.cli.bank.text import paragraph
from sgsd.cli.common import counted, warn

if TYPE_CHECKING:
    from skillbank.building.report import BuildReport
    from skillbank.mine.model.extract import Plan
    from skillbank.records import Kind


def report(built: BuildReport) -> None:
    typer.echo(
        f"read        {counted(built.rollouts, 'rollout')}, {built.problems:,} problems mined, "
        f"{built.problems_with_both:,} of them with right and wrong attempts"
    )
    if built.seen_before:
        typer.echo(f"            {counted(built.seen_before, 'rollout')} seen before, id and content")
    typer.echo(f"accepted    {counted(built.accepted, 'rollout')}")
    _counts("rejected", built.rejected)
    _counts("dead", built.dead)
    _counts("unusable", built.unusable)
    typer.echo(f"mined       {counted(built.pairs, 'pair')}{_singles(built)}{_merged(built)}")
    _counts("noticed", built.notices)
    if built.calls is not None:
        calls = built.calls
        typer.echo(
            f"calls       {calls.calls:,}, {calls.made:,} of them made now: {calls.prompt_tokens:,} tokens in, "
            f"{calls.completion_tokens:,} out"
        )
    typer.echo(f"added       {_kinds(built.added)}")
    typer.echo(f"bank        {_kinds(built.entries)}, at revision {built.revision}")
    typer.echo(f"embedder    {built.embedder}")
    typer.echo(f"seconds     {', '.join(f'{name} {seconds:.1f}' for name, seconds in built.seconds.items())}")
    for number, example in enumerate(built.examples, start=1):
        typer.echo(f"\nexample {number}   {example.skill.title} ({counted(example.places, 'place')})")
        paragraph("  skill     ", example.skill.principle)
        paragraph("  mistake   ", example.mistake.description)
        if example.mistake.why_it_happens:
            paragraph("            ", example.mistake.why_it_happens)
    typer.echo(f"\nnext: sgsd bank list --bank {built.bank} --kind pair --sort evidence")


def warnings(built: BuildReport) -> None:
    """What the user has to do something about."""
    if built.unusable:
        count = sum(built.unusable.values())
        lines = "1 line could not be used and is" if count == 1 else f"{count:,} lines could not be used and are"
        warn(f"{lines} in {built.bank}/rejected.jsonl")
    if built.quarantined > 0:
        held = "1 entry was" if built.quarantined == 1 else f"{built.quarantined:,} entries were"
        warn(f"{held} put into quarantine: see `sgsd bank list --status quarantined --bank {built.bank}`")
    if built.dead:
        rollouts = counted(sum(built.dead.values()), "rollout")
        again = f"sgsd bank dead-letters --retry --bank {built.bank}"
        warn(f"{rollouts} got no usable reply: `{again}` asks again")


def plan(planned: Plan) -> None:
    typer.echo(f"read        {counted(planned.rollouts, 'rollout')} of {counted(planned.groups, 'problem')}")
    _counts("rejected", planned.rejected)
    _counts("calls", planned.calls)
    typer.echo(f"finished    {planned.calls_in_ledger:,} of them are in the ledger")
    typer.echo(
        f"to make     {counted(planned.calls_to_make, 'call')}: {planned.prompt_tokens:,} tokens in "
        f"({planned.tokens_by}), at most {planned.max_completion_tokens:,} out"
    )
    _counts("noticed", planned.notices)


def _counts(title: str, counts: Mapping[str, int]) -> None:
    for reason, count in counts.items():
        typer.echo(f"{title:<10}  {count:,}: {reason}")
        title = ""


def _kinds(counts: Mapping[Kind, int]) -> str:
    return ", ".join(counted(count, kind) for kind, count in counts.items())


def _singles(built: BuildReport) -> str:
    return f" and {built.singles:,} skills and mistakes without a counterpart" if built.singles else ""


def _merged(built: BuildReport) -> str:
    before = built.merged.pairs_in + built.merged.singles_in
    apart = before - built.pairs - built.singles
    return f" ({before:,} before near-equal ones were merged)" if apart else ""
