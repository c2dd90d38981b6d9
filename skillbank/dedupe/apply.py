"""Duplicates become one entry: looked for, previewed, merged as one revision, undone as one.

    look = find_duplicates(bank, embedder, 0.9)
    done = merge_duplicates(bank, look, actor="me")     # bank.undo(done.revision, actor="me") brings all of them back

The best wording stands for each cluster (`standing.py` says which), or one that a model wrote for it
(`mine/rewording.py`). The others are superseded: reachable, no longer retrieved; their places, tags and usage count for
what stands for them, and their pairs follow. Left out: finding clusters (`duplicates.py`), and what a merge does to one
entry (`lineage.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from skillbank.dedupe.duplicates import Duplicates, Group, Look
from skillbank.errors import InvalidEntry
from skillbank.records import Provenance, Record, content_hash
from skillbank.store import Bank
from skillbank.store.change import Change, Check

if TYPE_CHECKING:
    from skillbank.mine.model.rewording import Wording

SHOWN = 100
"""Clusters of a report that has them with their entries."""


class Merged(Record):
    """What merging duplicates did, or would do."""

    found: Duplicates
    superseded: int
    """Skills and mistakes that another one stands for now."""
    reworded: tuple[int, ...]
    """Entries with a new wording, written by a model for their cluster."""
    uncovered: tuple[int, ...]
    """Members that the new wording of their cluster does not cover: they stay."""
    left: dict[str, int]
    """Clusters that were left as they are, by reason."""
    pairs: int
    """Pair entries in use before."""
    left_pairs: int
    revision: int | None
    """The bank revision it made; None when it was previewed or changed nothing."""


def merge_duplicates(
    bank: Bank,
    look: Look,
    *,
    actor: str,
    reason: str = "",
    wordings: Mapping[int, Wording] | None = None,
    check: Check | None = None,
    preview: bool = False,
    shown: int | None = SHOWN,
) -> Merged:
    """Merges the clusters of a look at the bank in one revision.

    `wordings`: what a model wrote, by the id of the entry that would be kept; with it, a cluster without a wording is
    left alone, unless its best entry is pinned or worded by a person. What `check` (the guard) objects to is not used.
    Raises InvalidEntry when an entry of a cluster was changed since the look.
    """
    found = look.described(bank, shown)
    left: dict[str, int] = {}
    reworded: list[int] = []
    uncovered: list[int] = []
    reason = reason or f"duplicates at cosine {look.threshold:g} and above"
    with bank.change(actor=actor, reason=reason) as change:
        _expect_unchanged(change, look)
        pairs = _pairs_in_use(change)
        into: dict[int, int] = {}
        for group in look.groups:
            wording = None if wordings is None else wordings.get(group.ids[0])
            if wording is None:
                if wordings is not None and not group.settled:
                    _count(left, "the model gave no usable wording")
                else:
                    into |= dict.fromkeys(group.ids[1:], group.ids[0])
                continue
            objection = _objection(change, group, wording, check)
            if objection is not None:
                _count(left, objection)
                continue
            keep = _worded(change, group, wording)
            if keep not in group.ids:
                reworded.append(keep)
            uncovered += [i for i in group.ids if i not in wording.covered]
            into |= {i: keep for i in wording.covered if i != keep}
        change.merge_all(into)
        change.finish()
        left_pairs = _pairs_in_use(change)
        change.abandoned = preview
    return Merged(
        found=found,
        superseded=len(into),
        reworded=() if preview else tuple(reworded),
        uncovered=tuple(uncovered),
        left=left,
        pairs=pairs,
        left_pairs=left_pairs,
        revision=None if preview or not into else change.revision,
    )


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1


def _expect_unchanged(change: Change, look: Look) -> None:
    for group in look.groups:
        for row in change.load(group.ids):
            if row["revision"] > look.revision:
                raise InvalidEntry(
                    f"entry {row['id']} was changed in revision {row['revision']}, after the bank was looked at "
                    f"(revision {look.revision}): look for duplicates again"
                )


def _pairs_in_use(change: Change) -> int:
    return int(
        change.db.value("SELECT count(*) FROM entries WHERE kind = 'pair' AND status <> 'superseded' AND NOT withdrawn")
    )


def _objection(change: Change, group: Group, wording: Wording, check: Check | None) -> str | None:
    """Why a wording is not used; None when nothing speaks against it."""
    if len(wording.covered) < 2:
        return "the model's wording covers fewer than two of its members"
    if check is not None:
        places = [place for i in wording.covered for place in change.evidence_of(i)]
        for flag in check(wording.content, places):
            return f"the guard objects to the model's wording: {flag.rule}"
    return None


def _worded(change: Change, group: Group, wording: Wording) -> int:
    """The entry with the wording: one of the cluster that has these very words, or a new one."""
    for row in change.load(wording.covered):
        if row["content_hash"] == content_hash(wording.content):
            return int(row["id"])
    best = change.row(group.ids[0])
    return change.add(
        wording.content,
        origin=best["origin"],
        provenance=Provenance(
            miner="merge",
            model=wording.model,
            prompt=wording.prompt,
            detail="from entries " + ", ".join(map(str, sorted(wording.covered))),
        ),
    )
