"""The application: every page's routes, static files, and errors as pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from skillbank.errors import BankBusy, BankCorrupt, BankNotFound, EntryNotFound, SkillBankError
from skillbank.web import bulk, clusters, entries, entry, merging, overview, playground, review, revisions, training
from skillbank.web.pages import TEMPLATES, refusal
from skillbank.web.safety import Safety, check_csrf
from skillbank.web.site import Site

STATIC = Path(__file__).parent / "static"
STATUS: tuple[tuple[type[SkillBankError], int], ...] = (
    (EntryNotFound, 404),
    (BankBusy, 503),
    (BankNotFound, 503),
    (BankCorrupt, 503),
)
"""Of the answer to an error; all others are what was asked for: 422."""


def create_app(site: Site) -> FastAPI:
    """The application of one bank. Close `site` when it is no longer served; serving it does so itself."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Done before the first visitor waits for it: templates are compiled, flags and tags counted.
        for name in TEMPLATES.list_templates(extensions=["html"]):
            TEMPLATES.get_template(name)
        with site.reading() as bank:
            site.marks(bank)
        yield
        site.close()

    app = FastAPI(
        title="Skill bank",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        dependencies=[Depends(check_csrf)],
    )
    app.state.site = site
    for part in (overview, entries, bulk, entry, review, merging, clusters, revisions, playground, training):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(SkillBankError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(Safety, site=site)
    return app


def _refused(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 422)
    return refusal(request, str(error), status)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = f"there is no page {request.url.path}" if error.status_code == 404 else error.detail
    return refusal(request, said, error.status_code)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return refusal(request, f"{name} is refused: {first['msg']}", 422)
