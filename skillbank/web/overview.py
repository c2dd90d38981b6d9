"""`/`: what the bank holds, in numbers; what it covers and has learnt, and how it grew, as a second part.

The second part (`/numbers`) goes through all evidence, use and events: the page shows the first, then asks for it.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from skillbank.look.coverage import COVERS, coverage
from skillbank.look.growth import growth
from skillbank.store.events import KINDS
from skillbank.web.pages import Done, page, signed
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
    """Counts and flags."""
    with site_of(request).reading() as bank:
        values = {"stats": bank.stats(), "flags": site_of(request).marks(bank).flags, "kinds": list(KINDS)}
        return page(request, bank, "overview.html", values)


@router.get("/numbers", response_class=HTMLResponse)
def numbers(request: Request) -> HTMLResponse:
    """Coverage, rollouts, utilities, growth."""
    with site_of(request).reading() as bank:
        found = coverage(bank)
        values = {
            "numbers": found,
            "kinds": list(KINDS),
            "covers": [(cover, found.problems[cover], SAID[cover]) for cover in COVERS],
            "bins": [signed(bin.low, 1) for bin in found.utility],
            "utility": {kind: [bin.entries.get(kind, 0) for bin in found.utility] for kind in KINDS},
            "used": sum(sum(bin.entries.values()) for bin in found.utility),
            "stands": growth(bank, POINTS),
        }
        return page(request, bank, "numbers.html", values)
