"""A bank behind its pages: a site with a client that speaks to it, as a page's own forms do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from skillbank.records import Flag
from skillbank.store import Bank
from skillbank.web import Site, create_app

ADDRESS = "http://localhost"


class Pages:
    """What a browser does with the pages of one server."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.client = TestClient(create_app(site), base_url=ADDRESS)

    def get(self, path: str, *, status: int = 200) -> str:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path: str, *, status: int = 303, **form: Any) -> str:
        """Sends a form with the token of its page; the address it leads to, or the page that comes back."""
        answer = self.client.post(path, data={"csrf": self.site.csrf, **form}, follow_redirects=False)
        assert answer.status_code == status, answer.text
        return answer.headers.get("location", answer.text)


@pytest.fixture
def make_pages(bank: Bank) -> Iterator[Callable[..., Pages]]:
    """Serves the bank, with other settings than `pages` has."""
    sites: list[Site] = []

    def make(**settings: Any) -> Pages:
        sites.append(Site(bank.path, **{"actor": "ada", **settings}))
        return Pages(sites[-1])

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def pages(make_pages: Callable[..., Pages]) -> Pages:
    return make_pages()


@pytest.fixture
def queue(bank: Bank) -> Bank:
    """The bank with its pairs 3 and 6 and the skill 7 in quarantine, at revision 2."""
    with bank.change(actor="guard") as change:
        for entry_id in (3, 6, 7):
            change.flag(entry_id, [Flag(rule="length", reason=f"flagged for test {entry_id}")])
    return bank


def text_of(html: str) -> str:
    """The words of a page as they are read."""
    body = re.sub(r"<[^>]*>", " ", html.split("<body", 1)[1].split(">", 1)[1])
    return " ".join(body.replace("&amp;", "&").replace("&#34;", '"').replace("&#39;", "'").split())
