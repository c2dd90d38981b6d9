"""`/training`: what training saw of the bank or of an entry, step by step, beside a placebo; the best and the worst."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from fastapi.responses import HTMLResponse

from skillbank.errors import InvalidOption
from skillbank.look.training import VERDICTS, runs, training
from skillbank.usage import estimates
from skillbank.web.pages import MAX_ID, page, sides_of
from skillbank.web.site import site_of

router = APIRouter()
RANKED = 10
"""Entries listed as most helpful, and as most harmful."""


@router.get("/training", response_class=HTMLResponse)
def trained(
    request: Request,
    run: Annotated[str | None, Parameter(max_length=500, description="The latest without it.")] = None,
    entry: Annotated[int | None, Parameter(ge=1, le=MAX_ID)] = None,
) -> HTMLResponse:
    """One run, of all entries or of one."""
    with site_of(request).reading() as bank:
        known = runs(bank)
        values: dict[str, object] = {"runs": known, "entry": None if entry is None else bank.get(entry)}
        values |= {"verdicts": VERDICTS, "sides": {}, "seen": None, "estimates": []}
        if run is not None and run not in {one.run for one in known}:
            names = ", ".join(one.run for one in known[:5]) or "none yet"
            raise InvalidOption(f"no run {run!r} in the ledger: it has {names}")
        if known:
            chosen = next((one for one in known if one.run == run), known[0])
            seen = training(bank, chosen, entry)
            ids = None if entry is None else [entry]
            found = sorted(estimates(bank, run=chosen.run, ids=ids), key=lambda one: (-one.low, -one.utility))
            ranked = found if len(found) <= 2 * RANKED else [*found[:RANKED], *found[-RANKED:]]
            entries = {one.id: one for one in bank.entries(ids=[e.entry_id for e in ranked if e.entry_id is not None])}
            values |= {"seen": seen, "estimates": ranked, "left_out": len(found) - len(ranked), "ranked": RANKED}
            values |= {"entries": entries, "sides": sides_of(bank, list(entries.values()))}
        return page(request, bank, "training.html", values)
