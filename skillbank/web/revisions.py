"""`/revisions`: what happened to the bank, what differs between two moments, and going back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Form, Path, Request
from fastapi import Query as Parameter
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.responses import RedirectResponse, Response

from skillbank import curate
from skillbank.curate import field_changes, net_field_changes
from skillbank.errors import InvalidEntry
from skillbank.store import Bank
from skillbank.web.pages import MAX_ID, Done, PageNumber, back_to, by_entry, here, link, page
from skillbank.web.site import site_of

router = APIRouter()
SHOWN = 50
"""Revisions on a page, and events of one."""
Number = Annotated[int, Path(ge=1, le=MAX_ID)]


class Back(BaseModel):
    """Going back."""

    reason: str = ""
    skip_changed: bool = False
    """Leave entries alone that were changed again since."""
    back: str = "/revisions"


@router.get("/revisions", response_class=HTMLResponse)
def revisions(
    request: Request,
    number: Annotated[PageNumber, Parameter(alias="page")] = 1,
    done: Done = None,
    undone: Done = None,
) -> HTMLResponse:
    """The revisions, newest first."""
    with site_of(request).reading() as bank:
        last = max(1, -(-bank.revision // SHOWN))
        number = min(number, last)
        found = bank.revisions(limit=SHOWN, offset=(number - 1) * SHOWN)
        values = {"found": found, "number": number, "last": last, "at": _pages("/revisions")}
        return page(request, bank, "revisions.html", values)


@router.get("/revisions/diff", response_class=HTMLResponse)
def diff(
    request: Request,
    start: Annotated[int, Parameter(alias="from", ge=0, le=MAX_ID)],
    end: Annotated[int | None, Parameter(alias="to", ge=0, le=MAX_ID, description="The latest without it.")] = None,
    number: Annotated[PageNumber, Parameter(alias="page")] = 1,
) -> HTMLResponse:
    """What differs between two revisions, whatever happened on the way."""
    with site_of(request).reading() as bank:
        to = bank.revision if end is None else end
        nets = bank.net_changes(start, to)
        last = max(1, -(-len(nets) // SHOWN))
        number = min(number, last)
        changes = [change for net in nets[(number - 1) * SHOWN : number * SHOWN] for change in net_field_changes(net)]
        values = {"start": start, "end": to, "total": len(nets), "number": number, "last": last}
        values |= by_entry(bank, changes) | {"at": _pages("/revisions/diff", **{"from": start, "to": end})}
        return page(request, bank, "diff.html", values)


@router.get("/revisions/{revision}", response_class=HTMLResponse)
def revision(
    request: Request,
    revision: Number,
    number: Annotated[PageNumber, Parameter(alias="page")] = 1,
    done: Done = None,
    undone: Done = None,
) -> HTMLResponse:
    """What one revision did."""
    with site_of(request).reading() as bank:
        return page(request, bank, "revision.html", _shown(bank, revision, number))


@router.post("/revisions/{revision}/undo", response_class=HTMLResponse)
def undo(request: Request, revision: Number, form: Annotated[Back, Form()]) -> Response:
    """Undoes a revision by a new one. When some of its entries were changed again, that is said and asked about."""
    site = site_of(request)
    with site.writing() as bank:
        try:
            done = curate.undo(
                bank, revision, skip_changed=form.skip_changed, actor=site.actor, reason=form.reason.strip()
            )
        except InvalidEntry as error:
            if revision > bank.revision:
                raise
            values = _shown(bank, revision, 1) | {"obstacle": str(error)}
            return page(request, bank, "revision.html", values, status=409)
    return RedirectResponse(here(form.back, undone=done.revision or 0), status_code=303)


@router.post("/revisions/{revision}/checkout")
def checkout(
    request: Request, revision: Annotated[int, Path(ge=0, le=MAX_ID)], form: Annotated[Back, Form()]
) -> Response:
    """Brings back all that stood at a revision, as a new one."""
    site = site_of(request)
    with site.writing() as bank:
        done = curate.checkout(bank, revision, actor=site.actor, reason=form.reason.strip())
    return back_to(form.back, done)


def _shown(bank: Bank, revision: int, number: int) -> dict[str, object]:
    if revision > bank.revision:
        raise InvalidEntry(f"no revision {revision}: the bank is at revision {bank.revision}")
    (found,) = bank.revisions(limit=1, offset=bank.revision - revision)
    events = bank.events(revision, limit=SHOWN, offset=(number - 1) * SHOWN)
    kinds = {entry.id: entry.kind for entry in bank.entries(ids={e.entry_id for e in events if e.entry_id is not None})}
    changes = [change for event in events for change in field_changes(event, kinds)]
    total = bank.event_count(revision)
    return {
        "found": found,
        "obstacle": "",
        "number": number,
        "last": max(1, -(-total // SHOWN)),
        "at": _pages(f"/revisions/{revision}"),
        **by_entry(bank, changes),
    }


def _pages(path: str, **parameters: object) -> Callable[[int], str]:
    return lambda number: link(path, **parameters, page=number if number > 1 else None)
