"""What a training run did to a bank while it trained: its revisions, taking them back, and what it may hold.

A run that is resumed goes on from a checkpoint, and what it changed after that is taken back, by revisions that undo:
nothing is deleted, and the run makes the same entries again under the same ids.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from statistics import NormalDist

from skillbank.records import Kind, Record
from skillbank.store import Bank, Query
from skillbank.store.query import SIDES
from skillbank.usage import Estimate, estimates

ONLINE = "online"
"""Origin of the entries that a run makes while it trains. All others are static, and so are pinned ones."""

SURE = 0.975
"""Of an upper bound: the end of a 95 % interval."""


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


def undiscerning_entries(bank: Bank, min_correlation: float, *, young: Collection[int]) -> list[int]:
    """The active skills and mistakes, static ones included, that do not tell right rollouts from wrong ones: surely
    (`SURE`) their support correlates less than `min_correlation` with the outcome. Pinned and `young` ones are spared.

    Not by utility: where a rollout is wrong, advice that is wrong in another way opposes it too and counts as helpful.
    """
    ids = [i for kind in SIDES for i in bank.ids(Query(kind=kind, status="active", pinned=False)) if i not in young]
    found = (one.entry_id for one in estimates(bank, ids=ids) if one.kind in SIDES and _at_most(one) < min_correlation)
    return sorted(entry_id for entry_id in found if entry_id is not None)


def _at_most(one: Estimate) -> float:
    """The upper bound of a correlation, by Fisher's transformation over the problems; 1 where they are too few."""
    if one.correlation is None or one.problems <= 3:
        return 1.0
    value = min(max(one.correlation.value, -0.999), 0.999)
    return math.tanh(math.atanh(value) + NormalDist().inv_cdf(SURE) / math.sqrt(one.problems - 3))


def over_capacity(bank: Bank, kind: Kind, capacity: int, *, young: Collection[int]) -> list[int]:
    """The dynamic entries of a kind that must go for `capacity` to stay, those of the lowest measured utility.

    `young` ones stay whatever was measured, so more than `capacity` may be left. An entry that was never used counts
    as one that did nothing; among equals the better evidenced stays.
    """
    dynamic = dynamic_entries(bank, kind)
    surplus = len(dynamic) - capacity
    if surplus <= 0:
        return []
    utility = {estimate.entry_id: estimate.utility for estimate in estimates(bank, ids=dynamic)}
    old = bank.entries(ids=[entry_id for entry_id in dynamic if entry_id not in young])
    # The last word between equals is their text's: the order in which they came in decides nothing.
    old.sort(key=lambda entry: (utility.get(entry.id, 0.0), entry.evidence_count, str(entry.content)))
    return sorted(entry.id for entry in old[:surplus])
