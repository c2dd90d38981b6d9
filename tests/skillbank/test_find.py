"""Search by words, by nearness, by both."""

from __future__ import annotations

import pytest

from skillbank import curate
from skillbank.errors import InvalidOption
from skillbank.index.embed import Embedder
from skillbank.index.vectors import adopt
from skillbank.look.find import Found, find, fuse
from skillbank.store import Bank
from skillbank.store.query import Query


def ids(found: Found) -> list[int]:
    return [hit.entry.id for hit in found.hits]


def test_fusion_by_hand() -> None:
    scores = fuse([[7, 8, 9], [9, 7]])
    assert list(scores) == [7, 9, 8]
    assert scores[7] == pytest.approx(1 / 61 + 1 / 62)
    assert scores[9] == pytest.approx(1 / 63 + 1 / 61)
    assert scores[8] == pytest.approx(1 / 62)
    assert list(fuse([[2], [1]])) == [1, 2]  # ties by id
    assert fuse([]) == {}


def test_keyword_search_pages_and_counts(bank: Bank) -> None:
    found = find(bank, "zorp doubles", where=Query(kind="mistake"))
    assert (ids(found), found.total, found.hits[0].word_rank) == ([2], 1, 1)
    everything = find(bank, "double", limit=100)
    paged = [find(bank, "double", limit=5, offset=n) for n in (0, 5, 10)]
    assert [i for page in paged for i in ids(page)] == ids(everything)
    assert [hit.word_rank for hit in paged[1].hits] == [6, 7, 8, 9, 10]
    assert find(bank, "zorp quix").total == 0


def test_semantic_search_fits_what_is_asked_for(bank: Bank, embedder: Embedder) -> None:
    adopt(bank, embedder.name, device="cpu")
    found = find(bank, "zorp", "semantic", where=Query(kind="mistake"), embedder=embedder, limit=1)
    assert (ids(found), found.total) == ([2], None)
    assert found.hits[0].cosine is not None and found.hits[0].cosine > 0.5  # noqa: PT018
    curate.tag(bank, [14], ["far"], actor="ada")
    assert ids(find(bank, "zorp", "semantic", where=Query(tag="far"), embedder=embedder, limit=1)) == [14]
    assert ids(find(bank, "zorp", "semantic", where=Query(tag="none"), embedder=embedder)) == []
    first = ids(find(bank, "zorp", "semantic", embedder=embedder, limit=4))
    assert ids(find(bank, "zorp", "semantic", embedder=embedder, limit=2, offset=2)) == first[2:]


def test_hybrid_search_joins_both_lists(bank: Bank, embedder: Embedder) -> None:
    adopt(bank, embedder.name, device="cpu")
    found = find(bank, "taken zorp", "hybrid", embedder=embedder, where=Query(kind="mistake"))
    best = found.hits[0]
    assert (best.entry.id, best.word_rank) == (2, 1)
    assert best.cosine is not None
    assert best.score == pytest.approx(1 / 61 + 1 / 61)
    # No entry holds all of these words; those that hold some are found all the same.
    loose = find(bank, "quix unheard", "hybrid", embedder=embedder, limit=3)
    assert {7, 8} <= set(ids(loose))
    assert [hit.score for hit in loose.hits] == sorted((hit.score or 0 for hit in loose.hits), reverse=True)


def test_hybrid_search_finds_what_retrieval_may_not_return(bank: Bank, embedder: Embedder) -> None:
    adopt(bank, embedder.name, device="cpu")
    curate.disable(bank, [1, 3], actor="ada")
    found = {hit.entry.id: hit for hit in find(bank, "zorp", "hybrid", embedder=embedder).hits}
    assert (found[1].word_rank is not None, found[1].cosine) == (True, None)
    assert 1 not in ids(find(bank, "zorp", "semantic", embedder=embedder))


def test_refused(bank: Bank, embedder: Embedder) -> None:
    with pytest.raises(InvalidOption, match="nothing to search for"):
        find(bank, " ")
    with pytest.raises(InvalidOption, match="semantic search wants an embedder"):
        find(bank, "zorp", "semantic")
    with pytest.raises(InvalidOption, match="pairs have no vectors"):
        find(bank, "zorp", "hybrid", where=Query(kind="pair"), embedder=embedder)
    with pytest.raises(InvalidOption, match="words are what to search for"):
        find(bank, "zorp", where=Query(text="blen"))
