"""`/review`: a queue of entries, one key each. Where one is and what can be taken back stand in the address.

The decisions themselves are forms of the entry's page (`entry.py`, `merging.py`) that lead back here. `trail` holds
what was decided so far, as revision and entry, so that `u` takes back one decision after another.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from fastapi.responses import HTMLResponse

from skillbank.look.queue import following
from skillbank.look.view import view_entry
from skillbank.store import Bank, Query
from skillbank.web.entry import shown
from skillbank.web.pages import MAX_ID, QUARANTINED, Done, link, page
from skillbank.web.site import site_of

router = APIRouter()
TRAIL = 50
"""Decisions that can be taken back, the latest ones."""
PLACES = 4
"""Of evidence; the entry's page has all."""
OptionalId = Annotated[int | None, Parameter(ge=1, le=MAX_ID)]


@router.get("/review", response_class=HTMLResponse)
def review(
    request: Request,
    line: Annotated[str, Parameter(alias="q", max_length=2000)] = QUARANTINED,
    at: OptionalId = None,
    after: OptionalId = None,
    trail: Annotated[str, Parameter(max_length=4000, pattern=r"^(\d{1,19}\.\d{1,19}(-\d{1,19}\.\d{1,19})*)?$")] = "",
    done: Done = None,
    undone: Done = None,
) -> HTMLResponse:
    """The entry at a place of the queue, or the first one behind another."""
    with site_of(request).reading() as bank:
        where = Query.parse(line)
        steps = [step for step in trail.split("-") if step]
        decided = at or after
        if done and decided:
            steps = [*steps, f"{done}.{decided}"][-TRAIL:]
        current = at if at is not None else _next(bank, where, after)
        walked = "-".join(steps)
        values = {
            "line": line,
            "left": bank.count(where),
            "reviewed": len(steps),
            "start": link("/review", q=line, trail=walked),
            "again": None if current is None else link("/review", q=line, at=current, trail=walked),
            "onwards": None if current is None else link("/review", q=line, after=current, trail=walked),
            "undo": _undo(line, steps),
        }
        if current is None:
            return page(request, bank, "reviewed.html", values)
        view = view_entry(bank, current)
        few = {"places": view.evidence[:PLACES]}
        return page(request, bank, "review.html", values | shown(bank, view) | few)


def _next(bank: Bank, where: Query, after: int | None) -> int | None:
    return following(bank, where, None if after is None else bank.get(after))


def _undo(line: str, steps: list[str]) -> tuple[int, str] | None:
    """The revision that `u` takes back, and the address it leads to."""
    match = re.fullmatch(r"(\d+)\.(\d+)", steps[-1]) if steps else None
    if match is None:
        return None
    return int(match[1]), link("/review", q=line, at=int(match[2]), trail="-".join(steps[:-1]))
