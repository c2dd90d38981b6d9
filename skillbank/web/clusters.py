"""`/clusters`: entries that say nearly the same, from a cosine on that a slider sets, and merging them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from fastapi.responses import HTMLResponse

from skillbank.dedupe.duplicates import Duplicates, near_duplicates
from skillbank.web.desk import Tools, Working
from skillbank.web.pages import Done, PageNumber, link, page
from skillbank.web.site import site_of

router = APIRouter()
SHOWN = 20
"""Clusters on a page."""
LOWEST = 0.6


@router.get("/clusters", response_class=HTMLResponse)
def clusters(
    request: Request,
    threshold: Annotated[float, Parameter(ge=LOWEST, le=1, allow_inf_nan=False)] = 0.9,
    number: Annotated[PageNumber, Parameter(alias="page", le=10_000)] = 1,
    done: Done = None,
) -> HTMLResponse:
    """The clusters at a threshold, large ones first."""
    site = site_of(request)

    def look(tools: Tools) -> Duplicates:
        return near_duplicates(tools.bank, tools.embedder, threshold, number * SHOWN)

    with site.reading() as bank:
        revision = bank.revision
    found = site.desk.ask(("clusters", threshold, number, revision), look)
    with site.reading() as bank:
        if isinstance(found, Working):
            return page(request, bank, "working.html", {"said": "comparing all entries with each other"}, status=202)
        last = max(1, -(-found.total // SHOWN))
        values = {
            "found": found,
            "clusters": found.clusters[(number - 1) * SHOWN :],
            "threshold": threshold,
            "lowest": LOWEST,
            "number": number,
            "last": last,
            "at": lambda n: link("/clusters", threshold=f"{threshold:g}", page=n if n > 1 else None),
        }
        return page(request, bank, "clusters.html", values)
