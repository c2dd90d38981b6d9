"""Words into a bank by hand: `edit`, `add`, `split`, `merge`.

Without words given by options each opens the text form of `draft.py` in an editor; unchanged or emptied means that
nothing is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sgsd.cli.bank import draft
from sgsd.cli.bank.app import app
from sgsd.cli.bank.bulk import act, report
from sgsd.cli.bank.by_hand import (
    ADD,
    SPLIT,
    contents_of,
    edit_by_hand,
    fields_of,
    from_file,
    given,
    guarded,
    one_part,
    unchanged,
)
from sgsd.cli.bank.options import (
    MAX_ID,
    BankOption,
    IdArgument,
    IdsArgument,
    JsonOption,
    PreviewOption,
    ReasonOption,
    WhereOption,
    YesOption,
    actor,
    writing,
)

if TYPE_CHECKING:
    from skillbank.curate import Operation
    from skillbank.store import Bank

TitleOption = Annotated[str | None, typer.Option("--title", help="Of a skill.")]
PrincipleOption = Annotated[str | None, typer.Option("--principle", help="Of a skill.")]
WhenOption = Annotated[str | None, typer.Option("--when", help="Of a skill: when to apply it.")]
DescriptionOption = Annotated[str | None, typer.Option("--description", help="Of a mistake.")]
WhyOption = Annotated[str | None, typer.Option("--why", help="Of a mistake: why it happens.")]
HowOption = Annotated[str | None, typer.Option("--how", help="Of a mistake: how to avoid it.")]
TextOption = Annotated[
    Path | None, typer.Option("--from", metavar="FILE", help="Read the text form from a file, - for stdin; no editor.")
]
Kind = Literal["skill", "mistake", "pair"]


@app.command(epilog='Example: sgsd bank edit 7 --title "Reduce before adding" --reason "clearer" --bank bank')
def edit(
    entry_id: IdArgument,
    bank: BankOption,
    title: TitleOption = None,
    principle: PrincipleOption = None,
    when: WhenOption = None,
    description: DescriptionOption = None,
    why: WhyOption = None,
    how: HowOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Reword a skill or a mistake, by options or in $EDITOR; what stood before is kept and can be brought back."""
    from skillbank import curate

    fields = given(title, principle, when, description, why, how)
    with writing(bank) as opened:
        if fields:
            who = actor()
            done: Operation | None = curate.edit(
                opened, entry_id, fields, actor=who, reason=reason, preview=preview, check=guarded(opened)
            )
        else:
            done = edit_by_hand(opened, entry_id, reason, preview=preview)
        if done is None:
            unchanged()
        else:
            report(opened, done, preview, json)


@app.command(
    epilog='Example: sgsd bank add --title "Check units" --principle "Say the unit of each number" --bank bank'
)
def add(
    bank: BankOption,
    kind: Annotated[Kind, typer.Argument(help="What to write in $EDITOR when no words are given.")] = "pair",
    title: TitleOption = None,
    principle: PrincipleOption = None,
    when: WhenOption = None,
    description: DescriptionOption = None,
    why: WhyOption = None,
    how: HowOption = None,
    skill_id: Annotated[int | None, typer.Option("--skill", min=1, max=MAX_ID, help="Pair with this skill.")] = None,
    mistake_id: Annotated[
        int | None, typer.Option("--mistake", min=1, max=MAX_ID, help="Pair with this mistake.")
    ] = None,
    text: TextOption = None,
    tag: Annotated[list[str] | None, typer.Option(help="Tag it so; give it again for more.")] = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Add a skill, a mistake, or both as a pair, by options or in $EDITOR."""
    from skillbank import curate

    fields = given(title, principle, when, description, why, how)
    with writing(bank) as opened:
        if text is not None:
            fields |= one_part(from_file(text))
        elif not fields and None in (skill_id, mistake_id):
            sides = {"skill": draft.SKILL, "mistake": draft.MISTAKE, "pair": draft.NAMES}
            names = draft.MISTAKE if skill_id else draft.SKILL if mistake_id else sides[kind]
            left = draft.edited(draft.written([dict.fromkeys(names, "")], ADD))
            if left is None:
                unchanged()
                return
            fields = one_part(left)
        skill, mistake = contents_of(fields)
        for number, words, option in ((skill_id, skill, "--skill"), (mistake_id, mistake, "--mistake")):
            if number is not None and words is not None:
                raise typer.BadParameter("give words for it or its id, not both", param_hint=option)
        done = curate.add(
            opened,
            skill=skill_id if skill is None else skill,
            mistake=mistake_id if mistake is None else mistake,
            tags=tag or (),
            actor=actor(),
            reason=reason,
            preview=preview,
            check=guarded(opened),
        )
        report(opened, done, preview, json)


@app.command(epilog="Example: sgsd bank split 7 --from parts.txt --bank bank")
def split(
    entry_id: IdArgument,
    bank: BankOption,
    text: TextOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Replace a skill or a mistake by several, each with all its evidence and pairs; write the parts in $EDITOR."""
    from skillbank import curate

    with writing(bank) as opened:
        if text is not None:
            left: str | None = from_file(text)
        else:
            words = fields_of(opened, entry_id)
            left = draft.edited(draft.written([words, words], SPLIT.format(entry=entry_id)))
        if left is None:
            unchanged()
            return
        parts = [content for part in draft.read(left) for content in contents_of(part) if content is not None]
        done = curate.split(
            opened, entry_id, parts, actor=actor(), reason=reason, preview=preview, check=guarded(opened)
        )
        report(opened, done, preview, json)


@app.command(epilog='Example: sgsd bank merge 12 15 --into 7 --reason "one lesson" --bank bank')
def merge(
    bank: BankOption,
    into: Annotated[int, typer.Option(min=1, max=MAX_ID, help="The entry that stands for the others.")],
    ids: IdsArgument = None,
    where: WhereOption = None,
    title: TitleOption = None,
    principle: PrincipleOption = None,
    when: WhenOption = None,
    description: DescriptionOption = None,
    why: WhyOption = None,
    how: HowOption = None,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Let one entry stand for others of its kind, with their evidence, use and pairs; perhaps in new words."""
    from skillbank import curate

    fields = given(title, principle, when, description, why, how)

    def operate(opened: Bank, chosen: Sequence[int], dry: bool) -> Operation:
        return curate.merge(
            opened, chosen, into, fields, actor=actor(), reason=reason, preview=dry, check=guarded(opened)
        )

    act(bank, ids, where, operate, preview=preview, yes=yes, json=json)
