"""The pages in a real browser: by keyboard and by mouse, at two widths, in both themes, without one error of a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from skillbank import curate
from skillbank.records import Flag, MinedEntry, RetrievedPair, Skill
from skillbank.store import Bank, Query
from skillbank.web import Site

from ..test_training_view import used
from .browser import Window, chromium, served
from .test_untrusted import hostile as hostile  # the fixture

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WIDTHS, THEMES = (1280, 390), ("light", "dark")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    """What an embedder is made of takes long to import; no page is to wait for it here."""
    import sentence_transformers  # noqa: F401


@pytest.fixture
def window(browser: Browser, bank: Bank) -> Iterator[Callable[..., Window]]:
    """Opens windows on the bank; at the end none of them may have had any trouble."""
    site = Site(bank.path, actor="ada", teacher_prompts=lambda problem, pairs: [_prompt(problem, p) for p in pairs])
    windows: list[Window] = []

    with served(site) as address:

        def open_window(**looks: Any) -> Window:
            windows.append(Window(browser, address, **looks))
            return windows[-1]

        yield open_window
        troubles = [trouble for window in windows for trouble in window.troubles]
        for one in windows:
            one.close()
    assert troubles == []


def _prompt(problem: str, pair: RetrievedPair) -> str:
    return f"{pair.skill.title}\n{problem}"


def test_twenty_entries_are_reviewed_by_keyboard(bank: Bank, window: Callable[..., Window]) -> None:
    many = [MinedEntry(content=Skill(title=f"Rule {n}", principle=f"Do {n}")) for n in range(20)]
    ids = [entry_id for entry_id in bank.add_mined(many, actor="miner") if entry_id is not None]
    with bank.change(actor="guard") as change:
        for entry_id in ids:
            change.flag(entry_id, [Flag(rule="length", reason="made up")])
    view = window()
    view.open("/review")
    heading = view.page.locator("h1")
    expect(heading).to_have_text(re.compile("20 left, 0 decided"))
    for n, entry_id in enumerate(ids):
        expect(view.page.locator("article")).to_have_attribute("data-entry", str(entry_id))
        if n == 3:  # changes a mind
            view.press("r")
            assert bank.get(entry_id).status == "retired"
            view.press("u")
            assert bank.get(entry_id).status == "quarantined"
        if n == 5:  # rewords it first
            view.page.keyboard.press("e")
            expect(view.page.locator("textarea[name=title]")).to_be_focused()
            view.page.keyboard.press("ControlOrMeta+a")
            view.page.keyboard.type("Rule with a, r and u in it")
            view.page.keyboard.press("Tab")
            view.page.keyboard.press("Tab")
            view.page.keyboard.press("Tab")
            view.press("Enter")  # in the reason
            assert bank.get(entry_id).content.model_dump()["title"] == "Rule with a, r and u in it"
        view.press("r" if n % 4 == 1 else "s" if n % 4 == 2 else "a")
    expect(view.page.locator("main")).to_contain_text("The end of the queue. 5 entries")
    statuses = [bank.get(entry_id).status for entry_id in ids]
    assert statuses == [["active", "retired", "quarantined", "active"][n % 4] for n in range(20)]
    view.press("u")
    assert bank.get(ids[-1]).status == "quarantined"


def test_a_bulk_change_by_query_is_counted_done_and_undone(bank: Bank, window: Callable[..., Window]) -> None:
    view = window()
    view.open("/entries")
    view.page.keyboard.press("/")
    expect(view.page.locator("#find")).to_be_focused()
    view.page.keyboard.type("kind:mistake")
    view.press("Enter")
    query = view.page.locator("#q")
    query.press("End")
    query.type(" status:active")
    view.page.wait_for_url(re.compile("q=kind%3Amistake(%20|\\+)status%3Aactive"))
    expect(view.page.locator("h1")).to_have_text(re.compile(r"Entries\s+6 entries that fit"))
    assert query.input_value() == "kind:mistake status:active"
    view.page.get_by_label("all 6 entries that fit").check()
    view.page.get_by_label("reason").fill("all of them")
    view.page.get_by_role("button", name="Preview").click()
    expect(view.page.locator("h1")).to_have_text(re.compile(r"Disable 6 entries\?"))
    assert bank.revision == 1
    view.press("y")
    assert bank.count(Query(kind="mistake", status="disabled")) == 6
    expect(view.page.locator(".flash")).to_contain_text("6 entries changed. all of them")
    view.page.locator(".flash button").click()
    expect(view.page.locator(".flash")).to_contain_text("undo of revision 2")
    assert bank.count(Query(status="active")) == 18


def test_ticking_some_changes_those(bank: Bank, window: Callable[..., Window]) -> None:
    view = window()
    view.open("/entries?q=kind:skill")
    view.page.get_by_label("Tick all on this page").check()
    expect(view.page.locator("#ticked")).to_have_text("6")
    view.page.get_by_label("Tick skill 1", exact=True).uncheck()
    view.page.locator("select[name=action]").select_option("tag")
    view.page.locator("input[name=tag]").fill("operation")
    view.page.get_by_role("button", name="Preview").click()
    expect(view.page.locator("h1")).to_have_text(re.compile(r"Tag 5 entries\?"))
    view.press("y")
    assert bank.ids(Query(tag="operation")) == [4, 7, 10, 13, 16]


def test_a_cluster_is_merged(bank: Bank, window: Callable[..., Window]) -> None:
    words = {"title": "Step on zorp", "principle": "zorp means double the first and then add the second"}
    curate.add(bank, skill=Skill(**words, when_to_apply="The problem mentions zorp."), actor="grace")
    view = window()
    view.open("/clusters?threshold=1")
    expect(view.page.locator("h1")).to_have_text(re.compile("0 clusters"))
    slider = view.page.locator("#threshold")
    slider.focus()
    for _ in range(3):
        slider.press("PageDown")
    expect(view.page.locator("h1")).to_have_text(re.compile("1 cluster"))
    view.settle()
    assert re.search(r"threshold=0\.\d", view.page.url)
    expect(view.page.locator("del, ins")).to_have_text([re.compile("then")])
    view.page.locator("input[name=into][value='1']").check()
    view.page.get_by_role("button", name="Merge into the kept one").click()
    expect(view.page.locator(".flash")).to_contain_text("Done: revision 3")
    assert (bank.get(19).status, bank.get(19).superseded_by) == ("superseded", 1)


def test_two_people_edit_one_entry(bank: Bank, window: Callable[..., Window]) -> None:
    first, second = window(), window()
    for view in (first, second):
        view.open("/entries/1")
        view.page.keyboard.press("e")
    first.page.locator("textarea[name=title]").first.fill("Double for zorp")
    first.page.get_by_role("button", name="Save", exact=True).first.click()
    expect(first.page.locator(".flash")).to_contain_text("1 entry changed")
    second.page.locator("textarea[name=title]").first.fill("Twice for zorp")
    second.page.get_by_role("button", name="Save", exact=True).first.click()
    expect(second.page.locator("[role=alert]")).to_contain_text("You read version 1; it is at version 2 now")
    expect(second.page.locator("main ins")).to_have_text(["Double", "for", "Twice"])
    second.page.get_by_role("button", name="Save over version 2").click()
    expect(second.page.locator(".flash")).to_contain_text("1 entry changed")
    assert bank.get(1).content.model_dump()["title"] == "Twice for zorp"
    second.troubles = [said for said in second.troubles if "409 (Conflict)" not in said]  # the browser's own line


def test_the_playground_answers(bank: Bank, window: Callable[..., Window]) -> None:
    view = window()
    view.open("/playground")
    view.page.locator("#problem").fill("What is 5 quix 7?")
    view.page.get_by_label("pairs").fill("3")
    view.page.get_by_role("button", name="Retrieve").click()
    expect(view.page.locator(".teacher")).to_have_count(3, timeout=60_000)
    view.page.get_by_text("What its teacher reads").first.click()
    expect(view.page.locator(".prompt").first).to_have_text("Step on quix\nWhat is 5 quix 7?")
    assert parse_qs(urlsplit(view.page.url).query)["problem"] == ["What is 5 quix 7?"]


def test_keys_and_theme_work_without_a_mouse(bank: Bank, window: Callable[..., Window]) -> None:
    view = window()
    view.open("/entries/1")
    view.page.keyboard.press("Tab")
    expect(view.page.get_by_text("To the content")).to_be_focused()
    view.page.keyboard.press("?")
    expect(view.page.locator("dialog")).to_be_visible()
    expect(view.page.locator("dialog")).to_contain_text("Merge")
    view.page.keyboard.press("Escape")
    expect(view.page.locator("dialog")).to_be_hidden()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = view.page.evaluate(ground)
    toggle = view.page.locator("#theme")
    toggle.focus()
    view.page.keyboard.press("Enter")  # light
    view.page.keyboard.press("Enter")  # dark
    dark = view.page.evaluate(ground)
    assert dark != light
    view.open("/revisions")
    assert view.page.evaluate(ground) == dark
    assert toggle.inner_text() == "dark"
    outline = "() => getComputedStyle(document.activeElement).outlineStyle"
    view.page.keyboard.press("Tab")
    view.page.keyboard.press("Tab")
    assert view.page.evaluate(outline) == "solid"  # one sees where one is


LOW_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = colour => colour.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = element => { for (let e = element; e; e = e.parentElement) {
    const found = rgb(getComputedStyle(e).backgroundColor); if (found[3] === 255) return found; }
    return [255, 255, 255]; };
  const faint = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest('svg, .skip, kbd, [disabled]')) continue;
    const pair = [light(rgb(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) faint.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [...new Set(faint)];
}"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_pages_fit_and_can_be_read(bank: Bank, window: Callable[..., Window], width: int, theme: str) -> None:
    with bank.change(actor="guard") as change:
        change.flag(3, [Flag(rule="length", reason="a reason of some length " * 8)])
        change.flag(7, [Flag(rule="url", reason="x" * 200)])
    curate.edit(bank, 4, {"principle": "a" * 300}, actor="ada", reason="long words " * 20)
    curate.tag(bank, [1, 2, 3], ["algebra", "a rather long tag of a few words"], actor="ada")
    teachers = ((1, 2), (4, 5), (0, 0))
    bank.record_usage(used(step, f"p{step}", step % 3 - 1, *sides) for step in range(1, 41) for sides in teachers)
    view = window(width=width, theme=theme)
    paths = ["/", "/entries", "/entries?q=kind:skill+status:active", *(f"/entries/{n}" for n in (1, 3, 4)), "/review"]
    paths += ["/clusters?threshold=0.6", "/revisions", "/revisions/2", "/revisions/diff?from=1", "/entries/1/merge"]
    paths += ["/playground?problem=What+is+5+quix+7%3F", "/rollouts/p-zorp-correct", "/training"]
    for path in paths:
        view.open(path)
        view.unfold()
        assert view.page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert view.page.evaluate(LOW_CONTRAST) == [], path


def test_hostile_entries_do_nothing(hostile: Bank, window: Callable[..., Window]) -> None:
    view = window()
    paths = ["/", "/entries?sort=newest", "/entries?q=flag:*", "/review", "/clusters?threshold=0.6", "/revisions"]
    paths += [f"/revisions/{hostile.revision}", "/revisions/diff?from=1", "/playground?problem=zorp"]
    paths += [f"/entries/{entry_id}" for entry_id in hostile.ids()[-15:-9]]
    said = 0
    for path in paths:
        view.open(path)
        view.unfold()
        assert "owned" not in view.page.title(), path
        assert view.page.locator("main script, main img, main iframe, [onerror]").count() == 0, path
        said += view.page.locator("main").inner_text().count("<script>")
    assert said > 10  # it is there to be read
