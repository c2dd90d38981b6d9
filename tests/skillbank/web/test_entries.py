"""The table of entries and an entry's page: what is shown is what the bank says, and every state has an address."""

from __future__ import annotations

import re

import pytest

from skillbank import curate
from skillbank.store import Bank, UsageRow
from skillbank.store.probes import Probe, record, words_of

from .conftest import Pages, text_of


def listed(html: str) -> list[int]:
    return [int(n) for n in re.findall(r'<td class="n id"><a href="/entries/(\d+)">', html)]


def used(bank: Bank, skill_id: int, polarity: int) -> None:
    bank.record_usage(
        [
            UsageRow(
                run="r",
                step=1,
                problem_id="p",
                outcome="correct",
                skill_id=skill_id,
                mistake_id=skill_id + 1,
                support=0.1 * polarity,
                polarity=polarity,
                gate_mass=1.0,
                weight=0.5,
                revision=1,
            )
        ]
    )


def test_all_entries_are_listed_in_order_of_their_ids(pages: Pages) -> None:
    page = pages.get("/entries")
    assert listed(page) == list(range(1, 19))
    assert "18 entries" in text_of(page)


@pytest.mark.parametrize(
    ("address", "ids"),
    [
        ("/entries?q=kind:skill", [1, 4, 7, 10, 13, 16]),
        ("/entries?q=kind:pair&sort=newest", [18, 15, 12, 9, 6, 3]),
        ("/entries?q=kind:skill+quix", [7]),
        ("/entries?q=status:quarantined", []),
        ("/entries?q=utility:%3C0", [4, 5, 6]),
        ("/entries?q=used:yes&sort=utility", [1, 2, 3, 4, 5, 6]),
        ("/entries?page=7", list(range(1, 19))),
    ],
)
def test_a_query_and_an_order_are_an_address(bank: Bank, pages: Pages, address: str, ids: list[int]) -> None:
    used(bank, 1, +1)
    used(bank, 4, -1)
    assert listed(pages.get(address)) == ids


def test_a_query_that_cannot_be_read_is_told_and_kept(pages: Pages) -> None:
    page = pages.get("/entries?q=colour:red", status=422)
    assert "colour:red is no criterion: use kind, status" in text_of(page)
    assert 'value="colour:red"' in page


def test_facets_count_what_would_fit_were_they_chosen_instead(bank: Bank, pages: Pages) -> None:
    curate.disable(bank, [1, 3, 4], actor="ada")
    page = pages.get("/entries?q=kind:skill")
    facets = page.split('<aside class="facets"')[1].split("</aside>")[0]
    links = re.findall(r'<a href="([^"]*)"( aria-current="true")?>\s*(.*?)</a>', facets, re.DOTALL)
    said = {text_of(f"<body>{words}"): (address, bool(current)) for address, current, words in links}
    assert said["skill ✕"] == ("/entries", True)  # taken off again
    assert said["mistake 6"] == ("/entries?q=kind%3Amistake", False)
    assert said["pair 6"][0] == "/entries?q=kind%3Apair"
    assert said["● active 4"] == ("/entries?q=kind%3Askill+status%3Aactive", False)
    assert said["○ disabled 2"][0] == "/entries?q=kind%3Askill+status%3Adisabled"


def test_pages_are_of_fifty_and_lead_to_each_other(bank: Bank, pages: Pages) -> None:
    from skillbank.records import MinedEntry, Skill

    entries = [MinedEntry(content=Skill(title=f"Rule {n}", principle=f"Do {n}")) for n in range(100)]
    bank.add_mined(entries, actor="miner")
    first, last = pages.get("/entries?q=kind:skill"), pages.get("/entries?q=kind:skill&page=3")
    assert (len(listed(first)), len(listed(last))) == (50, 6)
    assert "page 1 of 3" in text_of(first)
    assert 'href="/entries?q=kind%3Askill&amp;page=2" rel="next"' in first
    assert 'href="/entries?q=kind%3Askill&amp;page=2" rel="prev"' in last


def test_an_entry_shows_words_evidence_use_pairs_and_history(bank: Bank, pages: Pages) -> None:
    used(bank, 1, +1)
    curate.tag(bank, [1], ["algebra"], actor="grace", reason="to find it")
    page = pages.get("/entries/1")
    said = text_of(page)
    assert "Step on zorp" in said
    assert "zorp means double the first and add the second" in said
    assert "<mark>so it is 3</mark>" in page
    assert "✓ correct rollout p-zorp-correct , characters 4 to 14" in said
    assert "helpful 1" in said
    assert "with mistake 2 : zorp taken as the sum of both" in said
    assert "2 tag" in said
    assert "by grace: to find it" in said


def test_a_quote_stands_in_the_words_around_it(bank: Bank, pages: Pages) -> None:
    from skillbank.records import RolloutFate

    fate = RolloutFate(
        rollout_id="p-zorp-correct",
        problem_id="p-zorp",
        content_hash="0",
        outcome="correct",
        miner="contrast",
        fate="accepted",
        completion="I: so it is 3, at last",
    )
    bank.record_rollouts([fate.model_copy(update={"completion": "xyz so it is 3, at last"})])
    assert '…xyz </span><mark>so it is 3</mark><span class="around">, at last…' in pages.get("/entries/1")
    rollout = text_of(pages.get("/rollouts/p-zorp-correct"))
    assert "xyz so it is 3, at last" in rollout
    assert "skill 1 ● active Step on zorp" in rollout


def test_what_is_not_there_is_said(pages: Pages) -> None:
    assert "no entry 99" in text_of(pages.get("/entries/99", status=404))
    assert "no rollout" in text_of(pages.get("/rollouts/nobody's", status=404))
    assert "there is no page /nowhere" in text_of(pages.get("/nowhere", status=404))
    assert "entry_id is refused" in text_of(pages.get("/entries/zero", status=422))


def test_states_tags_and_pins_are_changed_from_the_entrys_page(bank: Bank, pages: Pages) -> None:
    leads = pages.post("/entries/1/state", action="disable", reason="vague", back="/entries/1")
    assert leads == "/entries/1?done=2"
    assert bank.get(1).status == "disabled"
    assert bank.revisions(limit=1)[0].actor == "ada"
    said = text_of(pages.get(leads))
    assert "Done: revision 2 , 1 entry changed. vague Undo" in said

    pages.post("/entries/1/tags", tags="b, a,, a", back="/entries/1")
    assert bank.get(1).tags == ("a", "b")
    pages.post("/entries/1/tags", tags="b, c")
    assert (bank.get(1).tags, bank.revision) == (("b", "c"), 4)
    pages.post("/entries/1/state", action="pin")
    assert bank.get(1).pinned


def test_what_is_left_as_it_is_is_told(queue: Bank, pages: Pages) -> None:
    page = pages.post("/entries/7/state", status=422, action="enable")
    assert "nothing was changed: they are flagged and enabling lifts no flag" in text_of(page)
    assert pages.post("/entries/1/state", action="enable", back="/entries/1") == "/entries/1?done=0"
    assert "Nothing to do" in text_of(pages.get("/entries/1?done=0"))


@pytest.mark.parametrize("back", ["https://example.org/", "//example.org/x", "\\\\example.org", "javascript:alert(1)"])
def test_a_form_leads_nowhere_else(pages: Pages, back: str) -> None:
    assert pages.post("/entries/1/state", action="disable", back=back) == "/entries?done=2"


def test_an_entry_shows_its_probes(bank: Bank, pages: Pages) -> None:
    assert "Probed" not in text_of(pages.get("/entries/3"))
    found = Probe(
        entry_id=3, words=words_of(bank, 3), revision=1, at="2026-01-02T03:04:05Z", model="<b>m</b>",
        data="d.jsonl, test", draws=1, temperature=0, seed=0, problems=50, own_problems=2, too_long=1, pairs=49,
        unverifiable=1, right_without=20, right_with=30, repairs=14, regressions=4, difference=10 / 49,
        low=0.05, high=0.35,
    )  # fmt: skip
    record(bank, found)
    html = pages.get("/entries/3")
    assert "<b>m</b>" not in html
    text = text_of(html).replace(" ;", ";")
    assert "with the entry +20.4 points, +5.0 to +35.0" in text
    assert "repairs 14 regressions 4 right 20 without, 30 with, of 49" in text
    assert "2026-01-02 03:04; 2 problems left out, as it was mined from them; 1 problem too long" in text
    assert "reworded since" not in text
    curate.edit(bank, 1, {"title": "Other words"}, actor="ada")
    assert "It was reworded since." in text_of(pages.get("/entries/3"))
