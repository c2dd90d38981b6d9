"""What a training run did to a bank while it trained: its revisions, taking them back, and what it may hold.

A run that is resumed goes on from a checkpoint, and what it changed after that is taken back, by revisions that undo:
nothing is deleted, and the run makes the same entries again under the same ids.
"""

from __future__ import annotations

from collections.abc import Collection

from skillbank.records import Kind, Record
from skillbank.store import Bank, Query
from skillbank.store.query import SIDES
from skillbank.usage import estimates
from skillbank.usage.keep import KeepRule

ONLINE = "online"
"""Origin of the entries that a run makes while it trains. All others are static, and so are pinned ones."""


class TakenBack(Record):
    """What taking back did."""

    revisions: tuple[int, ...]
    """Those that no longer stand, newest first."""
    left: tuple[int, ...]
    """Entries of them that somebody else has changed since, and that stay as they are."""


def standing_revisions(bank: Bank, actor: str, *, after: int = 0) -> list[int]:
    """The revisions after `after` that `actor` made and nobody has undone, newest first."""
    undone: set[int] = set()
    standing = []
    for row in bank.db.rows(
        "SELECT revision, actor, undoes FROM revisions WHERE revision > ? ORDER BY revision DESC", (after,)
    ):
        if row["revision"] in undone:
            continue
        if row["undoes"] is not None:
            undone.add(row["undoes"])
        elif row["actor"] == actor:
            standing.append(int(row["revision"]))
    return standing


def take_back(bank: Bank, actor: str, *, after: int, reason: str) -> TakenBack:
    """Undoes what `actor` made after a revision, newest first."""
    revisions = standing_revisions(bank, actor, after=after)
    left: set[int] = set()
    for revision in revisions:
        with bank.change(actor=actor, reason=reason) as change:
            change.undo(revision, skip_changed=True)
            left |= {row["id"] for row in change.load(change.skipped) if not row["withdrawn"]}
    return TakenBack(revisions=tuple(revisions), left=tuple(sorted(left)))


def differs(bank: Bank, revision: int) -> bool:
    """Whether the bank holds anything else than at a revision; what was added since and taken back does not count."""
    return any(
        change.before is not None or not change.after.withdrawn for change in bank.net_changes(revision, bank.revision)
    )


def dynamic_entries(bank: Bank, kind: Kind) -> list[int]:
    """The active entries of a kind that training made, whichever run; pinned ones have become static."""
    return bank.ids(Query(kind=kind, status="active", origin=ONLINE, pinned=False))


def ruled_out(bank: Bank, rule: KeepRule, *, young: Collection[int]) -> list[int]:
    """The active skills and mistakes, static ones included, that a keep rule retires; pinned and `young` ones stay."""
    fitting = set(bank.ids(rule.where))
    active = (i for kind in SIDES for i in bank.ids(Query(kind=kind, status="active", pinned=False)))
    among = {entry_id for entry_id in active if entry_id in fitting and entry_id not in young}
    chosen = rule.choose(estimates(bank, ids=among, credit=True), among)
    return sorted(one.entry_id for one in chosen.retired if one.entry_id is not None)


def over_capacity(bank: Bank, kind: Kind, capacity: int, *, young: Collection[int]) -> list[int]:
    """The dynamic entries of a kind that must go for `capacity` to stay, those of the lowest credit, or of the lowest
    utility where there is none.

    `young` ones stay whatever was measured, so more than `capacity` may be left. An entry that was never used counts
    as one that did nothing; among equals the better evidenced stays.
    """
    dynamic = dynamic_entries(bank, kind)
    surplus = len(dynamic) - capacity
    if surplus <= 0:
        return []
    worth = {one.entry_id: one.worth for one in estimates(bank, ids=dynamic, credit=True)}
    old = bank.entries(ids=[entry_id for entry_id in dynamic if entry_id not in young])
    # The last word between equals is their text's: the order in which they came in decides nothing.
    old.sort(key=lambda entry: (worth.get(entry.id, (0.0, 0.0)), entry.evidence_count, str(entry.content)))
    return sorted(entry.id for entry in old[:surplus])
