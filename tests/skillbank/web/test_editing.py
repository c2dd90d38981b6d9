"""Rewording in the browser: saved, refused, guarded, and told when two people do it at once."""

from __future__ import annotations

import html
import re

from skillbank import curate
from skillbank.records import Skill
from skillbank.store import Bank

from .conftest import Pages, text_of


def form_of(page: str, action: str) -> dict[str, str]:
    """The fields of a form as a browser would send them."""
    found = re.search(rf'<form[^>]* action="{re.escape(action)}".*?</form>', page, re.DOTALL)
    assert found is not None
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', found[0]))
    fields |= dict(re.findall(r'<textarea name="(\w+)"[^>]*>(.*?)</textarea>', found[0], re.DOTALL))
    return {name: html.unescape(text) for name, text in fields.items()}


def test_a_form_holds_the_words_and_saves_them(bank: Bank, pages: Pages) -> None:
    form = form_of(pages.get("/entries/1"), "/entries/1/words")
    assert form["version"] == "1"
    assert form["title"] == "Step on zorp"
    form["principle"] = "Double it,\r\nthen add "
    assert pages.post("/entries/1/words", **form) == "/entries/1?done=2"
    assert bank.get(1).content == Skill(
        title="Step on zorp", principle="Double it,\nthen add", when_to_apply="The problem mentions zorp."
    )
    assert "version 2" in text_of(pages.get("/entries/1"))


def test_who_saves_second_is_told_what_the_first_changed(bank: Bank, pages: Pages) -> None:
    mine = form_of(pages.get("/entries/1"), "/entries/1/words")
    curate.edit(bank, 1, {"title": "Do zorp first"}, actor="grace")
    mine["title"] = "Double for zorp"
    page = pages.post("/entries/1/words", status=409, **mine)
    said = text_of(page)
    assert "You read version 1; it is at version 2 now" in said
    assert "Step on zorp Do zorp first" in said  # what grace changed
    assert "Do zorp first Double for zorp" in said  # mine against it
    assert bank.get(1).content.model_dump()["title"] == "Do zorp first"

    again = form_of(page, "/entries/1/words")
    assert (again["version"], again["title"]) == ("2", "Double for zorp")
    pages.post("/entries/1/words", **again)
    assert bank.get(1).content.model_dump()["title"] == "Double for zorp"
    assert bank.get(1).version == 3


def test_the_guard_reads_what_is_written(bank: Bank, pages: Pages) -> None:
    form = form_of(pages.get("/entries/1"), "/entries/1/words")
    form["principle"] = "See https://example.org/zorp"
    pages.post("/entries/1/words", **form)
    assert bank.get(1).status == "quarantined"
    assert "url" in {flag.rule for flag in bank.flags(1)}


def test_what_no_entry_can_say_is_refused(bank: Bank, pages: Pages) -> None:
    said = text_of(pages.post("/entries/1/words", status=422, version=1, title="  "))
    assert "title of entry 1 is refused" in said
    said = text_of(pages.post("/entries/1/words", status=422, version=1, description="no mistake"))
    assert "without a field 'description'" in said
    said = text_of(pages.post("/entries/3/words", status=422, version=1, title="of a pair"))
    assert "entry 3 is a pair: edit its skill 1 or its mistake 2" in said
    assert bank.revision == 1
