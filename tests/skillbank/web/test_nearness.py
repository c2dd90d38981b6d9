"""What wants the embedder: clusters, merging with a near one, the playground. One thread has it and is waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from threading import Event

import pytest

from skillbank import curate
from skillbank.records import RetrievedPair, Skill
from skillbank.store import Bank
from skillbank.web import Site, desk

from .conftest import Pages, text_of


@pytest.fixture
def twins(bank: Bank) -> Bank:
    """The bank with skill 19, nearly the words of skill 1, written by a person."""
    words = {"title": "Step on zorp", "principle": "zorp means double the first and then add the second"}
    curate.add(bank, skill=Skill(**words, when_to_apply="The problem mentions zorp."), actor="grace")
    return bank


def patient(pages: Pages, path: str) -> str:
    """A page, asked for until its answer is there."""
    for _ in range(100):
        answer = pages.client.get(path)
        if answer.status_code != 202:
            assert answer.status_code == 200, answer.text
            return answer.text
        time.sleep(0.1)
    raise AssertionError(f"no answer from {path}")


def test_near_duplicates_stand_side_by_side_and_become_one(twins: Bank, pages: Pages) -> None:
    page = patient(pages, "/clusters?threshold=0.8")
    said = text_of(page)
    assert "1 cluster" in said
    assert "keep 19: worded by a person" in said
    assert "<ins>" not in page.split("skill 19</a>")[0]
    assert "<del>then </del>" in page  # what the other lacks
    seen = re.search(r'name="seen" value="(\d+)"', page)
    assert seen is not None
    leads = pages.post("/merge", into=19, ids=[19, 1], seen=seen[1], back="/clusters?threshold=0.8")
    assert leads == "/clusters?threshold=0.8&done=3"
    assert (twins.get(1).status, twins.get(1).superseded_by) == ("superseded", 19)
    assert "0 clusters" in text_of(patient(pages, leads))
    pages.post("/revisions/3/undo")
    assert twins.get(1).status == "active"


def test_nothing_is_merged_that_was_changed_since(twins: Bank, pages: Pages) -> None:
    curate.tag(twins, [1], ["mine"], actor="grace")
    said = text_of(pages.post("/merge", status=422, into=19, ids=[1], seen=2))
    assert "entry 1 was changed in revision 3, after you looked at it (revision 2)" in said
    assert twins.revision == 3


def test_an_entry_is_merged_with_a_near_one(twins: Bank, pages: Pages) -> None:
    page = patient(pages, "/entries/1/merge?back=/review")
    forms = re.findall(r'name="into" value="(\d+)"', page)
    assert forms[0] == "19"
    assert sorted(map(int, forms)) == [4, 7, 10, 13, 16, 19]
    said = text_of(patient(pages, "/entries/3/merge"))
    assert "Merge which side of pair 3?" in said
    assert "skill 1 1" in said


def test_the_playground_shows_pairs_weights_reasons_and_prompts(twins: Bank, make_pages: Callable[..., Pages]) -> None:
    def prompts(problem: str, pairs: object) -> list[str]:
        assert isinstance(pairs, tuple)
        return [f"<lesson> {pair.skill.title} for {problem}" for pair in pairs if isinstance(pair, RetrievedPair)]

    pages = make_pages(teacher_prompts=prompts)
    assert "What its teacher reads" not in pages.get("/playground")
    page = patient(pages, "/playground?problem=What+is+2+quix+3?&k=2")
    said = text_of(page)
    assert "2 pairs" in said
    assert "pair 9" in said
    assert "skill 7" in said
    assert "&lt;lesson&gt; Step on quix for What is 2 quix 3?" in page
    weights = [float(number) for number in re.findall(r"weight (\d\.\d+)", said)]
    assert len(weights) == 2
    assert sum(weights) == pytest.approx(1, abs=0.002)
    assert "k is 2, and 2 nearer ones were chosen" in said
    only = text_of(patient(pages, "/playground?problem=quix&where=tag:none"))
    assert "The bank has nothing for this problem" in only


def test_a_page_says_that_work_is_under_way_and_then_has_it(
    bank: Bank, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "PATIENCE_S", 0.05)
    done = Event()
    pages.site.desk.ask("slow", lambda tools: done.wait(30))
    answer = pages.client.get("/clusters")
    assert answer.status_code == 202
    assert 'hx-get="/clusters"' in answer.text
    assert 'http-equiv="refresh"' in answer.text
    done.set()
    assert "0 clusters" in text_of(patient(pages, "/clusters"))


def test_the_end_does_not_wait_for_long_work(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "PATIENCE_S", 0.01)
    monkeypatch.setattr(desk, "ENDING_S", 0.01)
    site, done, ran = Site(bank.path, actor="ada"), Event(), []
    assert isinstance(site.desk.ask("long", lambda tools: done.wait(60)), desk.Working)
    assert isinstance(site.desk.ask("next", lambda tools: ran.append("next")), desk.Working)
    site.close()  # it comes back although the first is under way
    done.set()
    site.desk._thread.join(60)
    assert not site.desk._thread.is_alive()
    assert ran == []


def test_what_work_raises_is_told_and_not_kept(pages: Pages) -> None:
    def fails(_: desk.Tools) -> None:
        raise ValueError("once")

    def asked_until_it_fails() -> None:
        while True:
            assert isinstance(pages.site.desk.ask("key", fails), desk.Working)

    with pytest.raises(ValueError, match="once"):
        asked_until_it_fails()
    for _ in range(100):
        if not isinstance(found := pages.site.desk.ask("key", lambda tools: tools.bank.revision), desk.Working):
            break
    assert found == 1
