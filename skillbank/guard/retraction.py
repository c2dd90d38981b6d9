"""Taking back what rests on a rollout, or on all rollouts of a file: a wrong verdict, a contaminated set.

Nothing may rest on a retracted rollout from then on. Entries that rested on it alone are retired, also those that were
merged into others, so that undoing a merge cannot bring them back; entries with other evidence keep that. It is one
revision, and undoing it brings all back. `lineage.py` does the work; here is what a source names and what is reported.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from skillbank.errors import InvalidOption
from skillbank.records import Record
from skillbank.store import Bank

if TYPE_CHECKING:
    from collections.abc import Sequence


class Retraction(Record):
    """What a retraction did, or would do."""

    source: str
    revision: int | None
    """None when it was previewed or changed nothing."""
    rollouts: int
    """That the source names."""
    places: int
    """Pieces of evidence that no longer count."""
    retired: tuple[int, ...]
    """Entries that rested on it alone."""
    revived: tuple[int, ...]
    """Entries that had been merged into one of those and rest on other rollouts: active again."""
    flagged: tuple[int, ...]
    """Entries whose wording a model wrote from retracted ones too: in quarantine until a person has read them."""
    kept: int
    """Entries that lost some evidence and keep the rest."""
    pairs: tuple[int, ...]
    """Pairs whose skill or mistake is gone."""
    leaving: tuple[int, ...]
    """Skills and mistakes that retrieval no longer returns."""


def rollouts_of(bank: Bank, source: str | os.PathLike[str]) -> list[str]:
    """Ids of the rollouts that a source names: a rollout's id, or a file that rollouts were read from, by its path or
    its name. Raises InvalidOption when nothing in the bank came from it, or the name means several files."""
    name = os.fspath(source)
    known = "SELECT rollout_id FROM {} WHERE rollout_id = ?1"
    found = bank.db.rows(f"{known.format('evidence')} UNION {known.format('rollouts')}", (name,))
    if found:
        return [row[0] for row in found]
    files = [row[0] for row in bank.db.rows("SELECT DISTINCT file FROM rollouts WHERE file <> '' ORDER BY file")]
    same = [file for file in files if file == name] or [
        file
        for file in files
        if os.path.basename(file) == os.path.basename(name) and name in (os.path.basename(name), file)
    ]
    if not same:
        same = [file for file in files if os.path.abspath(file) == os.path.abspath(name)]
    if len(same) > 1:
        raise InvalidOption(f"{name!r} names {len(same)} files: {', '.join(same)}; give the whole path of one")
    if not same:
        have = ", ".join(files[:5]) or "no file"
        raise InvalidOption(
            f"nothing in {bank.path} came from {name!r}: give a rollout's id, or one of its files ({have})"
        )
    return [
        row[0] for row in bank.db.rows("SELECT DISTINCT rollout_id FROM rollouts WHERE file = ? ORDER BY 1", (same[0],))
    ]


def retract(
    bank: Bank, source: str | os.PathLike[str], *, actor: str, reason: str = "", preview: bool = False
) -> Retraction:
    """Lets nothing rest on a source's rollouts any more, in one revision. Raises InvalidOption for an unknown one."""
    rollouts = rollouts_of(bank, source)
    with bank.change(actor=actor, reason=reason or f"retracted {os.fspath(source)}") as change:
        done = change.retract(rollouts)
        lost = {event.entry_id for event in change.events if event.entry_id is not None and "evidence" in event.after}
        revision = change.revision if change.finish() and not preview else None
        pairs = _pairs(bank, done.retired)
        change.abandoned = preview
    return Retraction(
        source=os.fspath(source),
        revision=revision,
        rollouts=len(rollouts),
        places=done.places,
        retired=tuple(sorted(done.retired)),
        revived=tuple(sorted(done.revived)),
        flagged=tuple(sorted(done.flagged)),
        kept=len(lost - set(done.retired)),
        pairs=tuple(pairs),
        leaving=tuple(sorted(change.leaving)),
    )


def _pairs(bank: Bank, sides: Sequence[int]) -> list[int]:
    gone = ",".join(map(str, sides))
    of = f"(skill_id IN ({gone}) OR mistake_id IN ({gone}))"
    sql = f"SELECT id FROM entries WHERE kind = 'pair' AND NOT withdrawn AND {of} ORDER BY id"
    return [row[0] for row in bank.db.rows(sql)]
