"""The pages of `sgsd explain` and `sgsd report` in a real browser: they do nothing, fit, and can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from sgsd.report.explain import explain_page
from sgsd.report.page import write
from sgsd.report.report import report_on, report_page
from sgsd.report.scored import Scored
from skillbank import curate
from skillbank.store import Bank

from ..skillbank.web.browser import chromium
from ..skillbank.web.test_browser import LOW_CONTRAST
from .runs import Folders
from .test_explain import HOSTILE, made, of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def pages(folders: Folders) -> list[Path]:
    """Of a run with hostile entries, tokens and problems; its name is hostile too."""
    with Bank.open(folders.bank) as bank:
        for entry in bank.entries():
            if entry.kind == "skill":
                curate.edit(bank, entry.id, {"title": HOSTILE, "principle": "long " * 80 + "x" * 300}, actor="ada")
    folder = made(folders, train={"max_steps": 2})
    found = [
        Scored(**{**vars(one), "tokens": tuple(f"{HOSTILE}\u202e{'y' * 200}" for _ in one.tokens)})
        for one in of(folder)
    ]
    named = folder.path.rename(folder.path.with_name(HOSTILE.replace("/", "")))
    paths = [folders.at / "explain.html", folders.at / "report.html"]
    write(paths[0], explain_page(folder, found))
    write(paths[1], report_page(report_on([named])))
    return paths


def test_pages_do_nothing_fit_and_can_be_read(browser: Browser, pages: list[Path]) -> None:
    colours = set()
    for path in pages:
        for width in (1280, 390):
            for theme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme="dark" if theme == "dark" else "light"
                )
                page = context.new_page()
                troubles: list[str] = []
                page.on("console", lambda message, said=troubles: said.append(message.text))
                page.on("dialog", lambda dialog, said=troubles: said.append(dialog.message))
                page.on("request", lambda request, said=troubles: said.append(request.url))
                page.goto(path.as_uri())
                assert troubles == [path.as_uri()]
                assert page.title() != "owned"
                where = f"{path.name} {width} {theme}"
                page.keyboard.press("Tab")
                expect(page.locator(".skip")).to_be_focused()
                first = page.locator("summary").first
                first.focus()
                page.keyboard.press("Enter")
                assert page.locator("details").first.get_attribute("open") is not None, where
                page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
                assert page.evaluate("document.documentElement.scrollWidth") <= width, where
                assert page.evaluate(LOW_CONTRAST) == [], where
                assert page.locator("main").inner_text().count("<script>") > 3, where
                for line in page.locator(".plot path.stroke-run-0").all()[:1]:
                    colours.add((theme, line.evaluate("one => getComputedStyle(one).stroke")))
                context.close()
    assert colours == {("light", "rgb(31, 95, 168)"), ("dark", "rgb(127, 180, 240)")}  # a plot takes the theme
