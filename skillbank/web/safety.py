"""Who may ask and what a page may do: before every request and on every answer.

* The Host header must name this server, or a page of somebody else's could be made to point here (DNS rebinding).
  Addresses in numbers are always this server; other names only when they were given.
* With a token, the first visit brings it in the address and gets a cookie; whoever has neither is refused.
* Every POST brings the server's CSRF token, in its form or in a header, and none is taken in a server for reading.
* The content security policy allows this server's own files alone, and no inline script or style.
"""

from __future__ import annotations

import ipaddress
from secrets import compare_digest
from urllib.parse import parse_qsl, urlencode

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skillbank.web.site import Site, site_of

COOKIE = "sgsd_token"
READS = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Safety:
    """ASGI middleware around all of the application."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app, self._site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope)
        refusal = self._refusal(request)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, request: Request) -> Response | None:
        host = host_name(request.headers.get("host", ""))
        if not (host in ("localhost", *self._site.names) or _is_address(host)):
            return PlainTextResponse(
                f"this server is not called {host[:100]!r}: use localhost or its address in numbers, or start it with "
                "--host and that name\n",
                status_code=421,
            )
        if self._site.token is not None and not _same(request.cookies.get(COOKIE, ""), self._site.token):
            return self._let_in(request, self._site.token)
        if self._site.readonly and request.method not in READS:
            return PlainTextResponse("this server is for reading: nothing can be changed here\n", status_code=403)
        return None

    @staticmethod
    def _let_in(request: Request, token: str) -> Response:
        if not _same(request.query_params.get("token", ""), token):
            return PlainTextResponse("open the address that `sgsd bank ui` printed, with its token\n", status_code=401)
        rest = [(name, value) for name, value in parse_qsl(request.url.query) if name != "token"]
        answer = RedirectResponse(f"/?{urlencode(rest)}" if rest else "/", status_code=303)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="lax")
        return answer


async def check_csrf(request: Request) -> None:
    """A dependency of every route. Raises 403 for a POST that does not come from a page of this server."""
    if request.method in READS:
        return
    given = request.headers.get("x-csrf-token") or (await request.form()).get("csrf")
    if not isinstance(given, str) or not _same(given, site_of(request).csrf):
        raise HTTPException(
            403, "this form is not from a page of this server, or from before it was started anew: load the page again"
        )


def host_name(header: str) -> str:
    """The name in a Host header, without port and brackets, in small letters."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].split("]")[0]
    return name.rsplit(":", 1)[0] if name.count(":") == 1 else name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _same(one: str, other: str) -> bool:
    return compare_digest(one.encode(), other.encode())
