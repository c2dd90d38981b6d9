"""Keyword search against a restatement over all entries: what is found, in which order, page by page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skillbank.records import Mistake, Pair, Skill
from skillbank.store import Bank
from skillbank.store.matching import by_relevance
from skillbank.store.query import Query, match_expression

WORDS = [f"word{n}" for n in range(12)]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """90 skills and 90 mistakes of few words each, and 120 pairs of them; some disabled."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, 13)
    with Bank.create(tmp_path_factory.mktemp("matching") / "bank") as bank:
        with bank.change(actor="me") as change:
            for n in range(180):
                text = " ".join(rng.choice(WORDS, size=int(rng.integers(1, 9)), p=chances / chances.sum()))
                change.add(
                    Skill(title=f"title{n}", principle=text) if n < 90 else Mistake(description=f"title{n} {text}"),
                    status="disabled" if n % 7 == 0 else "active",
                )
            pairs = list(itertools.product(range(1, 91), range(91, 181)))
            for n, place in enumerate(rng.choice(len(pairs), size=120, replace=False).tolist()):
                skill, mistake = pairs[place]
                change.add(Pair(skill_id=skill, mistake_id=mistake), status="disabled" if n % 5 == 0 else "active")
        yield bank


def restated(bank: Bank, where: Query, among: set[int] | None = None) -> list[int]:
    """Ids best first: each matching side by FTS5's rank, and right behind it its pairs that were not listed before."""
    assert where.text is not None
    rows = bank.db.rows(
        "SELECT rowid FROM entry_text WHERE entry_text MATCH ? ORDER BY rank", (match_expression(where.text),)
    )
    entries = {entry.id: entry for entry in bank.entries()}
    found: list[int] = []
    for row in rows:
        pairs = [
            e.id for e in entries.values() if isinstance(e.content, Pair) and row[0] in e.content.model_dump().values()
        ]
        for entry_id in (row[0], *sorted(pairs)):
            entry = entries[entry_id]
            fits = where.kind in (None, entry.kind) and where.status in (None, entry.status)
            if fits and entry_id not in found and (among is None or entry_id in among):
                found.append(entry_id)
    return found


QUERIES = [
    Query(text=text, kind=kind, status=status)  # type: ignore[arg-type]
    for text in ("word0", "word7", "word11", "word0 word1", "word1 word2 word3", "title5", "nothing")
    for kind in (None, "skill", "mistake", "pair")
    for status in (None, "disabled")
]


@pytest.mark.parametrize("where", QUERIES, ids=str)
def test_keyword_search(bank: Bank, where: Query, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skillbank.store.matching.FIRST", 3)  # so that several goes are needed
    expected = restated(bank, where)
    assert by_relevance(bank.db, where) == expected
    for limit, offset in ((1, 0), (5, 0), (20, 7), (3, 200)):
        assert by_relevance(bank.db, where, limit=limit, offset=offset) == expected[offset : offset + limit]
    among = set(range(1, 400, 2))
    assert by_relevance(bank.db, where, among, limit=9) == restated(bank, where, among)[:9]
    entries = bank.entries(where, sort="relevance", limit=6)
    assert [entry.id for entry in entries] == expected[:6]
    assert bank.ids(where) == sorted(expected)  # the same entries in any other order
    assert bank.count(where) == len(expected)


def test_every_word_must_occur_in_one_side(bank: Bank) -> None:
    for entry in bank.entries(Query(text="word0 word1")):
        sides = [entry]
        if isinstance(entry.content, Pair):
            sides = [bank.get(entry.content.skill_id), bank.get(entry.content.mistake_id)]
        texts = [side.content.text() for side in sides if not isinstance(side.content, Pair)]
        assert any({"word0", "word1"} <= set(text.split()) for text in texts)


def test_any_text_is_a_search(tmp_path: Path) -> None:
    with Bank.create(tmp_path / "bank") as bank, bank.change(actor="me") as change:
        change.add(Skill(title='a "quoted" AND (odd) NEAR title*', principle="p:q"))
    with Bank.open(tmp_path / "bank") as bank:
        for text in ('"quoted', "NEAR(", "p:q", "title*", "odd AND quoted"):
            assert by_relevance(bank.db, Query(text=text)) == [1]
        for text in ("", "?!", "AND OR"):
            assert by_relevance(bank.db, Query(text=text)) == []
