"""The review queue: decisions one after another, passed over, taken back."""

from __future__ import annotations

import html
import re
from urllib.parse import unquote_plus

from skillbank.store import Bank

from .conftest import Pages, text_of


def current(page: str) -> int | None:
    found = re.search(r'data-entry="(\d+)"', page)
    return None if found is None else int(found[1])


def back_of(page: str, key: str) -> str:
    """Where the form behind a key leads."""
    form = next(form for form in re.findall(r"<form.*?</form>", page, re.DOTALL) if f'data-key="{key}"' in form)
    found = re.search(r'name="back" value="([^"]*)"', form)
    assert found is not None
    return html.unescape(found[1])


def decide(pages: Pages, page: str, key: str, action: str) -> str:
    leads = pages.post(f"/entries/{current(page)}/state", action=action, back=back_of(page, key))
    return pages.get(leads)


def undo(pages: Pages, page: str) -> str:
    form = next(form for form in re.findall(r"<form.*?</form>", page, re.DOTALL) if 'data-key="u"' in form)
    action = re.search(r'action="([^"]*)"', form)
    assert action is not None
    return pages.get(pages.post(action[1], back=back_of(page, "u")))


def test_pairs_come_before_the_rest_and_decisions_lead_on(queue: Bank, pages: Pages) -> None:
    page = pages.get("/review")
    assert current(page) == 3
    assert "3 left, 0 decided" in text_of(page)
    assert "length : flagged for test 3" in text_of(page)
    page = decide(pages, page, "a", "accept")
    assert (current(page), queue.get(3).status) == (6, "active")
    page = decide(pages, page, "r", "reject")
    assert (current(page), queue.get(6).status) == (7, "retired")
    page = decide(pages, page, "a", "accept")
    assert current(page) is None
    assert "Nothing is left to review" in text_of(page)
    assert "0 left, 3 decided" in text_of(page)


def test_decisions_are_taken_back_one_after_another(queue: Bank, pages: Pages) -> None:
    page = decide(pages, pages.get("/review"), "a", "accept")
    page = decide(pages, page, "r", "reject")
    page = undo(pages, page)
    assert (current(page), queue.get(6).status) == (6, "quarantined")
    page = undo(pages, page)
    assert (current(page), queue.get(3).status) == (3, "quarantined")
    assert 'data-key="u"' not in page
    assert "3 left, 0 decided" in text_of(page)


def test_what_is_passed_over_is_counted_at_the_end(queue: Bank, pages: Pages) -> None:
    page = pages.get("/review?q=status:quarantined+kind:pair")
    onwards = re.search(r'href="([^"]*)" data-key="s"', page)
    assert onwards is not None
    page = decide(pages, pages.get(html.unescape(onwards[1])), "a", "accept")
    said = text_of(page)
    assert "The end of the queue. 1 entry that was passed over still fits" in said
    start = re.search(r'href="([^"]*)">From the start', page)
    assert start is not None
    assert current(pages.get(html.unescape(start[1]))) == 3


def test_an_edit_stays_at_its_entry_and_is_taken_back_like_a_decision(queue: Bank, pages: Pages) -> None:
    page = pages.get("/review?q=status:quarantined+kind:skill")
    form = re.search(r'action="/entries/7/words".*?</form>', page, re.DOTALL)
    assert form is not None
    back = re.search(r'name="back" value="([^"]*)"', form[0])
    assert back is not None
    leads = pages.post("/entries/7/words", version=1, title="Quix it", back=html.unescape(back[1]))
    assert "at=7" in unquote_plus(leads)
    page = pages.get(leads)
    assert (current(page), queue.get(7).content.model_dump()["title"]) == (7, "Quix it")
    page = undo(pages, page)
    assert queue.get(7).content.model_dump()["title"] == "Step on quix"
    assert current(page) == 7


def test_a_queue_without_entries_and_one_that_cannot_be_read(pages: Pages) -> None:
    assert "Nothing is left to review" in text_of(pages.get("/review"))
    assert "colour:red is no criterion" in text_of(pages.get("/review?q=colour:red", status=422))
    assert "trail is refused" in text_of(pages.get("/review?trail=1-2", status=422))
