"""Entries are untrusted text: markup, script and template language in every field are shown as words, on every page."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from skillbank import curate
from skillbank.records import Evidence, Flag, MinedPair, Mistake, Provenance, RolloutFate, Skill
from skillbank.store import Bank
from skillbank.store.probes import Probe, record

from .conftest import Pages
from .test_nearness import patient

ATTACKS = (
    "<script>document.title='owned'</script>",
    "\"'><img src=x onerror=\"document.title='owned'\">",
    "<form action='https://example.org' hx-get='/entries' hx-trigger='load'><input name=csrf>",
    "{{ site.csrf }}{% include 'base.html' %}",
    "javascript:alert(1)",
)
OWN = {"script": 2, "style": 0, "iframe": 0, "object": 0, "img": 0}
"""Elements that a page has of its own, at most."""


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


@pytest.fixture
def hostile(bank: Bank) -> Bank:
    """A pair that says something hostile in every field that a bank has, and all that hangs on it."""
    for n, attack in enumerate(ATTACKS):
        place = Evidence(rollout_id=f"{attack}/{n}", problem_id=attack, outcome="wrong", quote=attack, source=attack)
        bank.add_mined(
            [
                MinedPair(
                    skill=Skill(title=f"zorp {attack}", principle=attack, when_to_apply=attack),
                    mistake=Mistake(description=f"zorp {attack}", why_it_happens=attack, how_to_avoid=attack),
                    skill_evidence=(place,),
                    mistake_evidence=(place,),
                    origin=attack,
                    provenance=Provenance(miner=attack, model=attack, file=attack, detail=attack),
                )
            ],
            actor=attack,
            reason=attack,
        )
        fate = RolloutFate(
            rollout_id=f"{attack}/{n}",
            problem_id=attack,
            content_hash="0",
            outcome="wrong",
            answer=attack,
            model=attack,
            source=attack,
            file=attack,
            miner=attack,
            fate="rejected",
            reason=attack,
            completion=f"{attack} {attack}",
        )
        bank.record_rollouts([fate])
        last = bank.ids()[-1]
        curate.tag(bank, [last, last - 1, last - 2], [attack], actor=attack)
        told = {"at": attack, "model": attack, "data": attack, "repaired": (attack,)}
        numbers = dict.fromkeys(("seed", "problems", "own_problems", "too_long", "pairs", "unverifiable", "repairs"), 1)
        sides = {"right_without": 0, "right_with": 1, "regressions": 0, "difference": 1, "low": 0, "high": 1}
        shared = {"entry_id": last, "words": attack, "revision": 1, "draws": 1, "temperature": 1}
        record(bank, Probe.model_validate(told | numbers | sides | shared))
        with bank.change(actor=attack) as change:
            change.flag(last, [Flag(rule=attack, reason=attack)])
    return bank


def test_nothing_in_an_entry_becomes_part_of_a_page(hostile: Bank, make_pages: Callable[..., Pages]) -> None:
    pages = make_pages(teacher_prompts=lambda problem, pairs: [pair.skill.title for pair in pairs])
    ids = hostile.ids()
    paths = ["/", "/numbers", "/entries", "/entries?q=flag:*", "/review", "/review?q=kind:skill", "/revisions"]
    paths += [f"/entries/{i}" for i in ids[-15:]]
    paths += [f"/revisions/{n}" for n in range(1, hostile.revision + 1)]
    paths += ["/revisions/diff?from=0", *(f"/rollouts/{pages_quoted(attack)}/{n}" for n, attack in enumerate(ATTACKS))]
    patiently = ["/clusters?threshold=0.6", f"/entries/{ids[-3]}/merge", "/playground?problem=zorp&k=8"]
    patiently += [f"/playground?problem={pages_quoted(attack)}" for attack in ATTACKS]
    seen = 0
    for path in paths + patiently:
        html = patient(pages, path)
        seen += html.count("&lt;script&gt;")
        check(html, path)
    assert seen > 50  # the words are there, as words
    html = pages.client.get(f"/entries?q={pages_quoted(ATTACKS[1])}").text
    check(html, "a hostile query")
    html = pages.client.post(
        "/bulk", data={"csrf": pages.site.csrf, "action": "tag", "tag": ATTACKS[1], "scope": "fitting", "q": "zorp"}
    ).text
    check(html, "a preview")


def check(html: str, path: str) -> None:
    elements = Elements(html).found
    for tag, most in OWN.items():
        assert sum(name == tag for name, _ in elements) <= most, (path, tag)
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (path, tag, attributes)
        for name in ("href", "src", "action", "hx-get"):
            assert re.match(r"/(?!/)|#|$", attributes.get(name, "")), (path, attributes)
    forms = [attributes for tag, attributes in elements if tag == "form"]
    assert all(form.get("action", "").startswith("/") or form.get("method") == "dialog" for form in forms), path
    assert sum(name == "main" for name, _ in elements) == 1, path  # no template was included


def pages_quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")
