"""Finding entries by a text: by its words, by nearness of meaning, or by both.

keyword    every word occurs; the best match by FTS5's bm25 first
semantic   nearest by cosine in the bank's embedder, among what retrieval may return
hybrid     reciprocal rank fusion of the two (Cormack, Clarke and Buettcher, SIGIR 2009): an entry's score is the sum
           over both lists of 1 / (60 + its rank); where few entries hold every word, those that hold any count too
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from skillbank.errors import InvalidOption
from skillbank.records import Entry, Kind, Record
from skillbank.store import Bank
from skillbank.store.query import Query

if TYPE_CHECKING:
    from skillbank.index.embed import Embedder

How = Literal["keyword", "semantic", "hybrid"]
DAMPING = 60
"""Of the reciprocal ranks, as in the paper: how little the first places count more than those after them."""
DEPTH = 200
"""Entries of each list that are fused; more when more are wanted."""
ANY = Query()


class Hit(Record):
    """An entry that was found, and why."""

    entry: Entry
    word_rank: int | None = None
    """Its place among those found by words, from 1."""
    cosine: float | None = None
    """Nearness to the text, when it is among the nearest."""
    score: float | None = None
    """Of the fusion of both lists."""


class Found(Record):
    """The best hits of a search, and how many there are in all where that can be counted."""

    hits: tuple[Hit, ...]
    total: int | None


def find(
    bank: Bank,
    text: str,
    how: How = "keyword",
    *,
    where: Query = ANY,
    embedder: Embedder | None = None,
    limit: int = 20,
    offset: int = 0,
) -> Found:
    """The entries nearest to a text among those that fit `where`, best first.

    Raises InvalidOption for a text without words, and for words in `where`: they are the text.
    """
    if not text.strip():
        raise InvalidOption("there is nothing to search for: give some words")
    if where.text is not None:
        raise InvalidOption(
            f"{where.text!r} is words, and words are what to search for: give criteria such as kind:skill"
        )
    wanted = offset + limit
    if how == "keyword":
        query = where.model_copy(update={"text": text})
        entries = bank.entries(query, sort="relevance", limit=limit, offset=offset)
        hits = [Hit(entry=entry, word_rank=rank) for rank, entry in enumerate(entries, start=offset + 1)]
        return Found(hits=tuple(hits), total=bank.count(query))
    if embedder is None:
        raise InvalidOption(f"{how} search wants an embedder: give the bank's, or search by keyword")
    if how == "semantic":
        near = _near(bank, embedder, text, where, wanted)[offset:]
        return Found(hits=tuple(Hit(entry=entry, cosine=cosine) for entry, cosine in near), total=None)
    depth = max(DEPTH, wanted)
    by_words = _worded(bank, text, where, depth)
    return Found(hits=_fused(by_words, _near(bank, embedder, text, where, depth))[offset:wanted], total=None)


def fuse(rankings: Iterable[Sequence[int]]) -> dict[int, float]:
    """Reciprocal rank fusion: the score of every id in any of the rankings, best first, ties by id."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, entry_id in enumerate(ranking, start=1):
            scores[entry_id] = scores.get(entry_id, 0.0) + 1 / (DAMPING + rank)
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def _fused(by_words: Sequence[Entry], near: Sequence[tuple[Entry, float]]) -> tuple[Hit, ...]:
    entries = {entry.id: entry for entry in [*by_words, *(entry for entry, _ in near)]}
    ranks = {entry.id: rank for rank, entry in enumerate(by_words, start=1)}
    cosines = {entry.id: cosine for entry, cosine in near}
    return tuple(
        Hit(entry=entries[i], word_rank=ranks.get(i), cosine=cosines.get(i), score=score)
        for i, score in fuse([list(ranks), list(cosines)]).items()
    )


def _near(bank: Bank, embedder: Embedder, text: str, where: Query, limit: int) -> list[tuple[Entry, float]]:
    """The nearest that fit: searched deeper until there are enough or no more."""
    from skillbank.retrieve import nearest_entries

    if where.kind == "pair":
        raise InvalidOption("pairs have no vectors: search for skills or mistakes, or by keyword")
    kind: Kind | None = where.kind
    allowed = None if where == Query(kind=kind) else set(bank.ids(where))
    depth = limit
    while True:
        found = nearest_entries(bank, embedder, text, kind=kind, limit=depth)
        fitting = found if allowed is None else [(entry, cosine) for entry, cosine in found if entry.id in allowed]
        if len(fitting) >= limit or len(found) < depth:
            return fitting[:limit]
        depth *= 4


def _worded(bank: Bank, text: str, where: Query, depth: int) -> list[Entry]:
    """Those that hold every word, then those that hold some, each best first."""
    found = bank.entries(where.model_copy(update={"text": text}), sort="relevance", limit=depth)
    if len(found) == depth:
        return found
    some = " OR ".join(f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", text)))
    sql = "SELECT rowid FROM entry_text WHERE entry_text MATCH ? ORDER BY rank LIMIT ?"
    ranked = [row[0] for row in bank.db.rows(sql, (some, depth))] if some else []
    seen = {entry.id for entry in found}
    more = {entry.id: entry for entry in bank.entries(where, ids=ranked) if entry.id not in seen}
    return [*found, *(more[i] for i in ranked if i in more)][:depth]
