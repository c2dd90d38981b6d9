"""Who may ask, what a page may do: each guard refuses what it is there for, and lets the rest through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from skillbank.store import Bank
from skillbank.web.safety import host_name

from .conftest import Pages, text_of


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "127.0.0.1:1", "[::1]:8765", "LOCALHOST"])
def test_this_server_is_called_so(pages: Pages, host: str) -> None:
    assert pages.client.get("/entries", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org", "127.0.0.1.example.org:80", "", "a:b:c@d"])
def test_another_name_is_refused(pages: Pages, host: str) -> None:
    answer = pages.client.get("/entries", headers={"Host": host})
    assert answer.status_code == 421
    assert "Step on" not in answer.text


def test_a_name_that_was_given_is_this_servers(make_pages: Callable[..., Pages]) -> None:
    pages = make_pages(names=["Lab-3"], token="secret")
    assert pages.client.get("/", headers={"Host": "lab-3:8765"}).status_code == 401  # known, but nobody's token
    assert pages.client.get("/", headers={"Host": "lab-4:8765"}).status_code == 421


def test_host_names() -> None:
    assert host_name("[::1]:80") == "::1"
    assert host_name("A.b:80") == "a.b"
    assert host_name("::1") == "::1"


@pytest.mark.parametrize("form", [{}, {"csrf": ""}, {"csrf": "guessed"}])
def test_a_form_from_elsewhere_changes_nothing(bank: Bank, pages: Pages, form: dict[str, str]) -> None:
    answer = pages.client.post("/entries/1/state", data={"action": "disable", **form})
    assert answer.status_code == 403
    assert "this form is not from a page of this server" in text_of(answer.text)
    assert bank.revision == 1


def test_every_route_that_changes_something_asks_for_the_token(bank: Bank, pages: Pages) -> None:
    changing = {
        (path, method)
        for path, methods in pages.client.app.openapi()["paths"].items()  # type: ignore[attr-defined]
        for method in methods
        if method != "get"
    }
    assert len(changing) >= 7
    for path, method in changing:
        answer = pages.client.request(method, path.replace("{entry_id}", "1").replace("{revision}", "1"), data={})
        assert answer.status_code == 403, path
    assert bank.revision == 1


def test_a_token_comes_in_with_the_address_and_stays_as_a_cookie(make_pages: Callable[..., Pages]) -> None:
    pages = make_pages(token="open sesame")
    refused = pages.client.get("/entries?token=guess")
    assert (refused.status_code, "Step on" in refused.text) == (401, False)
    assert pages.client.post("/entries/1/state", data={"csrf": pages.site.csrf}).status_code == 401
    answer = pages.client.get("/?token=open+sesame", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=lax" in answer.headers["set-cookie"]
    assert pages.client.get("/entries").status_code == 200  # the client has kept the cookie


def test_a_server_for_reading_changes_nothing_and_offers_nothing(bank: Bank, make_pages: Callable[..., Pages]) -> None:
    pages = make_pages(readonly=True)
    for path in ("/", "/entries", "/entries/1", "/review?q=kind:skill", "/revisions", "/revisions/1"):
        page = pages.get(path)
        assert 'method="post"' not in page, path
        assert "read only" in page
    for path in ("/entries/1/state", "/entries/1/words", "/bulk", "/merge", "/revisions/1/undo"):
        answer = pages.client.post(path, data={"csrf": pages.site.csrf, "action": "disable", "ids": 1})
        assert answer.status_code == 403, path
    assert bank.revision == 1


def test_pages_allow_this_servers_files_alone(pages: Pages) -> None:
    for path in ("/", "/entries", "/entries/99", "/static/ui.js", "/nowhere"):
        answer = pages.client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
    assert TestClient(pages.client.app).get("/entries").headers.get("content-security-policy")  # refusals too
