"""A queue of entries to be looked at one by one: pairs before the rest, each by id.

Who accepts a pair accepts its two sides, which then need not be shown again. A queue is a query and nothing is kept of
it: what comes next is what fits now and stands behind the place where one is.
"""

from __future__ import annotations

from skillbank.records import Entry, Kind
from skillbank.store import Bank
from skillbank.store.query import Query, selection


def following(bank: Bank, where: Query, after: Entry | None = None) -> int | None:
    """Id of the entry behind `after` in the queue, of the first one without it; None at the end."""
    if after is None or after.kind == "pair":
        pair = _first(bank, where, "pair", 0 if after is None else after.id)
        if pair is not None:
            return pair
    behind = 0 if after is None or after.kind == "pair" else after.id
    sides = [_first(bank, where, "skill", behind), _first(bank, where, "mistake", behind)]
    return min((entry_id for entry_id in sides if entry_id is not None), default=None)


def _first(bank: Bank, where: Query, kind: Kind, behind: int) -> int | None:
    if where.kind not in (None, kind):
        return None
    source, parameters = selection(where.model_copy(update={"kind": kind}))
    found = bank.db.value(f"SELECT e.id FROM {source} AND e.id > ? ORDER BY e.id LIMIT 1", (*parameters, behind))
    return None if found is None else int(found)
