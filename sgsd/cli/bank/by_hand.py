"""What the commands share that bring in words: the editor, the text form of an entry, the guard."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sgsd.cli.bank import draft
from sgsd.cli.bank.options import actor
from sgsd.cli.common import note
from sgsd.errors import ConfigError

if TYPE_CHECKING:
    from skillbank.curate import Operation
    from skillbank.records import Mistake, Skill
    from skillbank.store import Bank
    from skillbank.store.change import Check

EDIT = """
Entry {entry}: change the words under the names, save and close. Unchanged or emptied, nothing is done.
"""
ADD = """
Write under the names, save and close. For a skill alone leave the fields of the mistake empty, and the other way round.
"""
SPLIT = """
Entry {entry} stands here twice: make two entries of it, save and close. More parts are more copies of all its fields.
"""


def edit_by_hand(bank: Bank, entry_id: int, reason: str, *, preview: bool = False) -> Operation | None:
    """Lets somebody reword an entry in their editor; None when they left it as it was.

    The bank is not locked meanwhile. When somebody else rewords the entry, what was written here is kept in a file.
    """
    from skillbank import curate

    version = bank.get(entry_id).version
    words = fields_of(bank, entry_id)
    left = draft.edited(draft.written([words], EDIT.format(entry=entry_id)))
    if left is None:
        return None
    try:
        fields = {name: text for name, text in one_part(left).items() if text != draft.plain(words.get(name, ""))}
        if not fields:
            return None
        return curate.edit(
            bank,
            entry_id,
            fields,
            expected_version=version,
            actor=actor(),
            reason=reason,
            preview=preview,
            check=guarded(bank),
        )
    except (curate.EditConflict, ConfigError) as error:
        note(f"what you wrote is kept in {draft.keep(left)}")
        raise error


def given(
    title: str | None,
    principle: str | None,
    when: str | None,
    description: str | None,
    why: str | None,
    how: str | None,
) -> dict[str, str]:
    texts = zip(draft.NAMES, (title, principle, when, description, why, how), strict=True)
    return {name: text for name, text in texts if text is not None}


def guarded(bank: Bank) -> Check:
    """What looks at a curator's words: the guard without its embedder, which would take seconds to load."""
    from skillbank.guard import Guard

    return Guard(bank).check


def unchanged() -> None:
    note("left as it was: nothing was done")


def fields_of(bank: Bank, entry_id: int) -> dict[str, str]:
    from skillbank.errors import InvalidEntry
    from skillbank.records import Pair

    content = bank.get(entry_id).content
    if isinstance(content, Pair):
        raise InvalidEntry(
            f"entry {entry_id} is a pair: name its skill {content.skill_id} or its mistake {content.mistake_id}"
        )
    return content.model_dump()


def from_file(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--from {path} is no UTF-8 text ({error.reason} at byte {error.start})") from error


def one_part(text: str) -> dict[str, str]:
    parts = draft.read(text)
    if len(parts) != 1:
        raise ConfigError(f"the text has {len(parts)} parts where one is wanted: give each field once, under its name")
    return parts[0]


def contents_of(fields: Mapping[str, str]) -> tuple[Skill | None, Mistake | None]:
    """The skill and the mistake that the fields are of; one whose fields are all empty is none."""
    from pydantic import ValidationError

    from skillbank.records import Mistake, Skill

    sides: list[Skill | Mistake | None] = []
    for model, names in ((Skill, draft.SKILL), (Mistake, draft.MISTAKE)):
        words = {name: fields[name] for name in names if fields.get(name, "").strip()}
        try:
            sides.append(model.model_validate(words) if words else None)
        except ValidationError as error:
            missing = error.errors()[0]["loc"][0]
            raise ConfigError(f"a {model.__name__.lower()} needs a {missing}: give it") from error
    skill, mistake = sides
    assert skill is None or isinstance(skill, Skill)
    assert mistake is None or isinstance(mistake, Mistake)
    return skill, mistake
