"""Pruning: retiring what a keep rule finds, seen through before anything is retired.

A simulation says what would go, how much of retrieval, evidence and use goes with it, and which problems are left
without an entry. The retirement is one revision like any other, and `undo` takes it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from typing import NamedTuple

from skillbank.curate.operation import Operation
from skillbank.curate.states import retire
from skillbank.records import Kind, Record
from skillbank.store import Bank
from skillbank.store.events import KINDS
from skillbank.store.query import SIDES, json_list
from skillbank.usage.estimate import Estimate, estimates
from skillbank.usage.keep import Chosen, KeepRule

FIRST = 20
"""Problems that a Pruning names."""


class KindPruned(Record):
    """What a rule does to one kind of entry. Shares are of all active entries of the kind."""

    active: int
    measured: int
    """Of those, the ones that training used."""
    retired: int
    kept: int
    """Fit the rule and stay, as the best of their kind."""
    pinned: int
    """Fit the rule and stay, as they are pinned."""
    evidence_share: float
    """Of the places that active entries rest on; a pair's are its two sides'."""
    uses_share: float
    """Of the uses of active entries."""


class Pruning(Record):
    """What a keep rule retires, and what goes with it."""

    rule: str
    kinds: dict[Kind, KindPruned]
    retired: tuple[Estimate, ...]
    """The most harmful first."""
    leaving: dict[Kind, int]
    """Skills and mistakes that retrieval no longer returns."""
    retrievable: dict[Kind, int]
    """Those that it returned before."""
    problems_bare: int
    """Problems that had a retrievable skill or mistake of their own, and have none afterwards."""
    bare: tuple[str, ...]
    """The first of them."""


class Pruned(NamedTuple):
    """The simulation, and the operation that it is of."""

    pruning: Pruning
    operation: Operation


def prune(
    bank: Bank,
    rule: KeepRule,
    *,
    run: str | None = None,
    half_life_steps: float | None = None,
    level: float = 0.95,
    only: Collection[int] | None = None,
    actor: str,
    reason: str = "",
    preview: bool = False,
) -> Pruned:
    """Retires what the rule finds, in one revision; with `preview` nothing is changed. Entries that are active and not
    pinned, unless the rule asks for another status; of those `only` these, as somebody saw and agreed to them.

    `run`, `half_life_steps` and `level` are those of `estimates`. Raises InvalidOption when one is out of bounds.
    """
    # A preview is rolled back, which it cannot be as a part of another transaction.
    with nullcontext() if preview else bank.db.transaction():
        with bank.db.snapshot():
            found = list(estimates(bank, run=run, half_life_steps=half_life_steps, level=level, credit=True))
            where = rule.where if rule.where.status else rule.where.model_copy(update={"status": "active"})
            among = {i for i in bank.ids(where) if only is None or i in only}
            measured = {one.entry_id for one in found if one.entry_id is not None}
            pinned = {entry.id for entry in bank.entries(where, ids=among & measured) if entry.pinned}
            chosen = rule.choose(found, among - pinned)
            held = [one for one in found if one.entry_id in pinned and rule.fits(one)]
            kinds = _kinds(bank, found, chosen, held)
            before: dict[Kind, int] = {kind: len(bank.retrievable(kind)) for kind in SIDES}
        ids = [one.entry_id for one in chosen.retired if one.entry_id is not None]
        done = retire(bank, ids, actor=actor, reason=reason or f"pruned: {rule}", preview=preview)
        bare = _bare(bank, done.leaving, after=not preview)
    return Pruned(
        Pruning(
            rule=str(rule),
            kinds=kinds,
            retired=tuple(sorted(chosen.retired, key=lambda one: (one.utility, one.entry_id or 0))),
            leaving=_by_kind(bank, done.leaving),
            retrievable=before,
            problems_bare=len(bare),
            bare=tuple(bare[:FIRST]),
        ),
        done,
    )


def _kinds(bank: Bank, found: Iterable[Estimate], chosen: Chosen, pinned: Iterable[Estimate]) -> dict[Kind, KindPruned]:
    rows = bank.db.rows("SELECT id, kind, evidence_count FROM entries WHERE status = 'active'")
    active = {row["id"]: (row["kind"], row["evidence_count"]) for row in rows}
    used = {one.entry_id: one.uses for one in found if one.entry_id in active}
    going = {one.entry_id for one in chosen.retired}
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for entry_id, (kind, places) in active.items():
        uses, goes = used.get(entry_id, 0), entry_id in going
        counts[kind].update(
            active=1, measured=uses > 0, retired=goes, places=places, uses=uses, gone=places * goes, lost=uses * goes
        )
    for name, ones in (("kept", chosen.kept), ("pinned", pinned)):
        for one in ones:
            counts[one.kind][name] += 1
    return {
        kind: KindPruned(
            **{name: counts[kind][name] for name in ("active", "measured", "retired", "kept", "pinned")},
            evidence_share=counts[kind]["gone"] / max(1, counts[kind]["places"]),
            uses_share=counts[kind]["lost"] / max(1, counts[kind]["uses"]),
        )
        for kind in KINDS
    }


def _by_kind(bank: Bank, ids: Iterable[int]) -> dict[Kind, int]:
    sql = "SELECT kind, count(*) FROM entries WHERE id IN (SELECT value FROM json_each(?)) GROUP BY kind"
    found = {row[0]: row[1] for row in bank.db.rows(sql, (json_list(ids),))}
    return {kind: found.get(kind, 0) for kind in SIDES}


def _bare(bank: Bank, leaving: Iterable[int], *, after: bool) -> list[str]:
    """Problems all of whose retrievable entries are among those that leave, or were until they left."""
    gone = "e.id IN (SELECT value FROM json_each(?))"
    there = f"(e.retrievable OR {gone})" if after else "e.retrievable"
    sql = (
        "SELECT x.problem_id FROM evidence x JOIN entries o ON o.id = x.entry_id"
        " JOIN entries e ON e.id = coalesce(o.head, o.id)"
        f" WHERE x.active AND {there} GROUP BY x.problem_id HAVING sum(NOT {gone}) = 0 ORDER BY x.problem_id"
    )
    ids = json_list(leaving)
    return [row[0] for row in bank.db.rows(sql, (ids, ids) if after else (ids,))]
