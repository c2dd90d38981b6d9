"""How many of the entries that fit a query fall under each value of a criterion, were that criterion left out.

Kinds and statuses are counted in one pass, which an index answers when nothing else is asked. Rules of flags and tags
are counted over the whole bank: they stand on few entries as a rule, which an index of their own finds.

Words that very many entries have are counted up to a bound: who looks for such a word wants to see that it is common,
at once, and not how common.
"""

from __future__ import annotations

from collections import Counter

from skillbank.records import Kind, Record, Status
from skillbank.store import Bank
from skillbank.store.events import KINDS
from skillbank.store.matching import first_matching
from skillbank.store.query import Query, selection

MATCHES = 5_000
"""Skills and mistakes with all words of a query that are counted, at most."""


class Facets(Record):
    """Counts of entries by value."""

    total: int
    """Entries that fit."""
    exact: bool
    """False where more than `MATCHES` texts hold the words: all counts are then of those alone, and others may fit."""
    kind: dict[Kind, int]
    """Fitting all but the kind."""
    status: dict[Status, int]
    """Fitting all but the status; those that occur, most frequent first."""


class Marks(Record):
    """What stands on the entries of a whole bank."""

    flags: dict[str, int]
    """Rule -> entries with a flag of it that nobody released, most frequent first."""
    tags: dict[str, int]


def facets(bank: Bank, where: Query) -> Facets:
    """The counts of one query."""
    rest = where.model_copy(update={"kind": None, "status": None})
    among = None if where.text is None else first_matching(bank.db, where.text, MATCHES)
    if among is not None:
        rest = rest.model_copy(update={"text": None})
    source, parameters = selection(rest, among)
    rows = bank.db.rows(f"SELECT e.kind, e.status, count(*) FROM {source} GROUP BY e.kind, e.status", parameters)
    kinds: Counter[Kind] = Counter()
    statuses: Counter[Status] = Counter()
    total = 0
    for kind, status, count in rows:
        if where.status in (None, status):
            kinds[kind] += count
        if where.kind in (None, kind):
            statuses[status] += count
        if where.status in (None, status) and where.kind in (None, kind):
            total += count
    return Facets(
        total=total,
        exact=among is None,
        kind={kind: kinds[kind] for kind in KINDS},
        status=dict(statuses.most_common()),
    )


def marks(bank: Bank) -> Marks:
    """Flags and tags of a bank."""
    flags = (
        "SELECT f.value ->> 'rule', count(DISTINCT e.id) FROM entries e, json_each(e.flags) f"
        " WHERE e.flags <> '[]' AND NOT f.value ->> 'released' GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    tags = (
        "SELECT t.value, count(*) FROM entries e, json_each(e.tags) t WHERE e.tags <> '[]'"
        " GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    return Marks(flags={row[0]: row[1] for row in bank.db.rows(flags)}, tags={r[0]: r[1] for r in bank.db.rows(tags)})
