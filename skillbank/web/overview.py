"""`/`: what the bank holds, covers and has learnt, in numbers; how it grew."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from skillbank.look.coverage import COVERS, coverage
from skillbank.look.growth import growth
from skillbank.store.events import KINDS
from skillbank.web.pages import Done, page
from skillbank.web.site import site_of

router = APIRouter()
POINTS = 200
"""Of the line of growth, at most."""
SAID = {
    "useful": "a pair helped more often than it harmed",
    "untried": "no pair was ever retrieved in training",
    "unhelpful": "the pairs that were did not help",
    "uncovered": "no pair serves it: more rollouts pay here",
}


@router.get("/", response_class=HTMLResponse)
def overview(request: Request, done: Done = None) -> HTMLResponse:
    """Counts, coverage, flags, utilities."""
    with site_of(request).reading() as bank:
        numbers = coverage(bank)
        values = {
            "numbers": numbers,
            "kinds": list(KINDS),
            "covers": [(cover, numbers.problems[cover], SAID[cover]) for cover in COVERS],
            "bins": [f"{bin.low:+.1f}" for bin in numbers.utility],
            "utility": {kind: [bin.entries.get(kind, 0) for bin in numbers.utility] for kind in KINDS},
            "used": sum(sum(bin.entries.values()) for bin in numbers.utility),
        }
        return page(request, bank, "overview.html", values)


@router.get("/growth", response_class=HTMLResponse)
def growing(request: Request) -> HTMLResponse:
    """Entries over revisions. A page of its own as it reads every event; the overview loads it when it is shown."""
    with site_of(request).reading() as bank:
        points = growth(bank, POINTS)
        return page(request, bank, "growth.html", {"points": points, "kinds": list(KINDS)})
