"""Revisions in the browser: what happened, what differs, and going back, also when it cannot be done whole."""

from __future__ import annotations

from skillbank import curate
from skillbank.records import MinedEntry, Skill
from skillbank.store import Bank

from .conftest import Pages, text_of


def test_revisions_are_listed_newest_first_with_who_and_why(bank: Bank, pages: Pages) -> None:
    curate.disable(bank, [1, 4], actor="grace", reason="vague")
    said = text_of(pages.get("/revisions"))
    assert said.index("grace 2 vague") < said.index("miner 18 rollouts.jsonl")


def test_a_revision_shows_its_changes_field_by_field(bank: Bank, pages: Pages) -> None:
    curate.edit(bank, 1, {"principle": "zorp means double the second"}, actor="grace")
    page = pages.get("/revisions/2")
    assert "zorp means double the <del>first and add the </del>second" in page
    assert "no revision 9" in text_of(pages.get("/revisions/9", status=422))


def test_a_revision_of_many_events_has_pages(bank: Bank, pages: Pages) -> None:
    many = [MinedEntry(content=Skill(title=f"Rule {n}", principle=f"Do {n}")) for n in range(60)]
    bank.add_mined(many, actor="miner")
    assert bank.event_count(2) == 60
    assert [event.entry_id for event in bank.events(2, limit=3, offset=4)] == [23, 24, 25]
    assert "Rule 49" in (first := text_of(pages.get("/revisions/2")))
    assert "page 1 of 2" in first
    assert "Rule 50" not in first
    assert "Rule 50" in text_of(pages.get("/revisions/2?page=2"))


def test_what_differs_between_two_revisions(bank: Bank, pages: Pages) -> None:
    curate.disable(bank, [1], actor="ada")
    curate.enable(bank, [1], actor="ada")
    curate.pin(bank, [4], actor="ada")
    said = text_of(pages.get("/revisions/diff?from=1"))
    assert "From revision 1 to 4 1 entry differs" in said
    assert "skill 4" in said
    assert "skill 1 " not in said
    assert "revision 3 is later than 1" in text_of(pages.get("/revisions/diff?from=3&to=1", status=422))


def test_undo_of_an_undo_brings_it_back(bank: Bank, pages: Pages) -> None:
    curate.disable(bank, [1], actor="ada")
    assert pages.post("/revisions/2/undo", back="/entries/1") == "/entries/1?undone=3"
    assert bank.get(1).status == "active"
    assert "revision 3 , 1 entry changed. undo of revision 2" in text_of(pages.get("/entries/1?undone=3"))
    pages.post("/revisions/3/undo")
    assert bank.get(1).status == "disabled"


def test_what_was_changed_again_is_asked_about_and_left(bank: Bank, pages: Pages) -> None:
    curate.disable(bank, [1, 4], actor="ada")
    curate.retire(bank, [4], actor="grace")
    said = text_of(pages.post("/revisions/2/undo", status=409))
    assert "revision 2 cannot be undone: entry 4 was changed again in revision 3" in said
    assert "Undo the rest and leave what was changed again" in said
    assert bank.revision == 3
    pages.post("/revisions/2/undo", skip_changed="true")
    assert (bank.get(1).status, bank.get(4).status) == ("active", "retired")


def test_all_is_brought_back_to_a_revision(bank: Bank, pages: Pages) -> None:
    curate.disable(bank, [1], actor="ada")
    curate.tag(bank, [4], ["x"], actor="ada")
    assert pages.post("/revisions/1/checkout", back="/revisions") == "/revisions?done=4"
    assert (bank.get(1).status, bank.get(4).tags) == ("active", ())
