"""Bulk actions: the count first, then exactly what was counted."""

from __future__ import annotations

import re

from skillbank import curate
from skillbank.store import Bank, Query

from .conftest import Pages, text_of


def seen(page: str) -> str:
    found = re.search(r'name="seen" value="(\w+)"', page)
    assert found is not None
    return found[1]


def test_all_that_fit_are_counted_then_changed_as_one_revision(bank: Bank, pages: Pages) -> None:
    order = {"action": "disable", "scope": "fitting", "q": "kind:mistake", "reason": "not now", "back": "/entries"}
    page = pages.post("/bulk", status=200, **order)
    said = text_of(page)
    assert "Disable 6 entries? of 6 that fit" in said
    assert "changes 6 mistakes" in said
    assert "leave retrieval 6 entries" in said
    assert "mistake 2" in said
    assert bank.revision == 1

    assert pages.post("/bulk", **order, seen=seen(page)) == "/entries?done=2"
    assert bank.count(Query(kind="mistake", status="disabled")) == 6
    assert bank.revisions(limit=1)[0].reason == "not now"
    assert pages.post("/revisions/2/undo", back="/entries") == "/entries?undone=3"
    assert bank.count(Query(status="active")) == 18


def test_when_others_fit_by_now_the_preview_is_shown_anew(bank: Bank, pages: Pages) -> None:
    order = {"action": "retire", "scope": "fitting", "q": "kind:skill status:active"}
    first = pages.post("/bulk", status=200, **order)
    curate.disable(bank, [4], actor="grace")
    second = pages.post("/bulk", status=200, **order, seen=seen(first))
    assert "Other entries fit the query than when you looked" in text_of(second)
    assert "Retire 5 entries?" in text_of(second)
    assert bank.count(Query(status="retired")) == 0
    pages.post("/bulk", **order, seen=seen(second))
    assert bank.count(Query(status="retired")) == 5
    assert bank.get(4).status == "disabled"


def test_ticked_entries_are_tagged_and_what_is_left_is_told(queue: Bank, pages: Pages) -> None:
    order = {"action": "tag", "scope": "ticked", "ids": [1, 2, 2], "tag": "draft, later"}
    page = pages.post("/bulk", status=200, **order)
    assert re.findall(r'name="ids" value="(\d+)"', page) == ["1", "2", "2"]
    pages.post("/bulk", **order, seen=seen(page))
    assert queue.get(2).tags == ("draft", "later")

    page = pages.post("/bulk", status=200, action="enable", scope="ticked", ids=[3, 7])
    said = text_of(page)
    assert "Enable 0 entries?" in said
    assert "left as they are 2 entries: they are flagged" in said
    assert 'name="seen"' not in page


def test_nothing_ticked_and_no_tag_are_refused(pages: Pages) -> None:
    assert "no entry is ticked" in text_of(pages.post("/bulk", status=422, action="disable"))
    assert "no tag to tag" in text_of(pages.post("/bulk", status=422, action="tag", ids=[1]))
    assert "action is refused" in text_of(pages.post("/bulk", status=422, action="delete", ids=[1]))
