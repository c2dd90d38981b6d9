"""A server in a thread of this process, and the system's Chromium looking at it. Every trouble of a page is kept."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from skillbank.web import Site, create_app

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium; the test is skipped without one, or fails where SGSD_BROWSER=required."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        why = f"there is no browser: install one of {', '.join(NAMES)} (Debian and Ubuntu: apt-get install chromium)"
        if os.environ.get("SGSD_BROWSER") == "required":
            pytest.fail(why)
        pytest.skip(why)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def served(site: Site) -> Iterator[str]:
    """The address of the site, served until the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(site), log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


class Window:
    """A window of the browser on one server, with all that went wrong in it."""

    def __init__(self, browser: Browser, address: str, *, width: int = 1280, theme: str = "light") -> None:
        self.address = address
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
            base_url=address,
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.troubles: list[str] = []
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(f"script: {error}"))
        self.page.on("dialog", lambda dialog: self.troubles.append(f"dialog: {dialog.message}"))
        self.page.on("request", self._requested)

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.troubles.append(f"console: {text}")

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(self.address):
            self.troubles.append(f"request elsewhere: {request.url}")

    def open(self, path: str) -> None:
        """Goes to a page and waits until it has what it shows."""
        self.page.goto(path)
        self.settle()

    def settle(self) -> None:
        """Waits until nothing is under way, pages that wait for work included."""
        self.page.wait_for_load_state()
        under_way = ".working, .htmx-request, .htmx-swapping, .htmx-settling"
        expect(self.page.locator(under_way)).to_have_count(0, timeout=120_000)

    def unfold(self) -> None:
        """Opens all that is folded away."""
        self.page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")

    def press(self, key: str) -> None:
        """A key that leads to another page, or to another state of this one."""
        before = self.page.url
        self.page.keyboard.press(key)
        self.page.wait_for_url(lambda url: url != before)
        self.settle()

    def close(self) -> None:
        self.context.close()
