"""Keyword search: entries in which all words occur, best first.

FTS5 ranks skills and mistakes (bm25); a pair has the words of its sides and follows right after the better one. What
else is asked of an entry is checked in the order of rank, only until enough are found: a common word costs what FTS5
itself takes, however many entries have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from skillbank.store.database import Database
from skillbank.store.query import SIDES, Query, json_list, match_expression, selection

FIRST = 10
"""Skills and mistakes looked at in the first go, at least, and half of what is wanted, as each has a pair mostly; each
further go looks at four times as many."""
LARGEST = 50_000
_PAIRS = (
    "WITH s AS (SELECT value FROM json_each(?)) "
    + " UNION ALL ".join(
        f"SELECT s.value, p.id AS pair FROM s CROSS JOIN entries p INDEXED BY pairs_by_{kind}"
        f" ON p.kind = 'pair' AND p.{column} = s.value"
        for kind, column in SIDES.items()
    )
    + " ORDER BY pair"
)


def by_relevance(
    db: Database, where: Query, ids: Iterable[int] | None = None, *, limit: int | None = None, offset: int = 0
) -> list[int]:
    """Ids of the entries that fit, best first. `where.text` must be given."""
    assert where.text is not None
    among = None if ids is None else set(ids)
    end = None if limit is None else offset + limit
    words_alone = among is None and where.model_fields_set == {"text"}
    rows = db.stream(
        "SELECT rowid FROM entry_text WHERE entry_text MATCH ? ORDER BY rank", (match_expression(where.text),)
    )
    found: list[int] = []
    listed: set[int] = set()  # pairs, which have two sides to follow
    for sides in _chunks((row[0] for row in rows), FIRST if end is None else max(FIRST, end // 2)):
        pairs = {} if where.kind in SIDES else _pairs(db, sides)
        ranked: list[int] = []
        for side in sides:
            if where.kind != "pair":
                ranked.append(side)
            for pair in pairs.get(side, ()):
                if pair not in listed:
                    listed.add(pair)
                    ranked.append(pair)
        if not words_alone:
            fitting = _fitting(db, where.model_copy(update={"text": None}), among, ranked)
            ranked = [entry_id for entry_id in ranked if entry_id in fitting]
        found += ranked
        if end is not None and len(found) >= end:
            break
    return found[offset:end]


def first_matching(db: Database, text: str, most: int) -> list[int] | None:
    """The `most` oldest skills and mistakes in which all words occur, with their pairs; None when there are fewer.

    A word that nearly every text has is thus told from others without reading them all.
    """
    sql = "SELECT rowid FROM entry_text WHERE entry_text MATCH ? ORDER BY rowid LIMIT ?"
    sides = [row[0] for row in db.rows(sql, (match_expression(text), most))]
    if len(sides) < most:
        return None
    return sides + list({pair for pairs in _pairs(db, sides).values() for pair in pairs})


def _chunks(ids: Iterator[int], size: int) -> Iterator[list[int]]:
    while chunk := list(islice(ids, size)):
        yield chunk
        size = min(4 * size, LARGEST)


def _pairs(db: Database, sides: list[int]) -> dict[int, list[int]]:
    """The pairs of each skill or mistake, by id."""
    found: dict[int, list[int]] = {}
    for side, pair in db.rows(_PAIRS, (json_list(sides),)):
        found.setdefault(side, []).append(pair)
    return found


def _fitting(db: Database, where: Query, among: set[int] | None, ids: list[int]) -> set[int]:
    """Those of the entries that fulfil everything but the words."""
    few = ids if among is None else among.intersection(ids)
    source, parameters = selection(where, few)
    return {row[0] for row in db.rows(f"SELECT e.id FROM {source}", parameters)}
