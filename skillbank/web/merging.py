"""Merging by hand: an entry's nearest neighbours side by side with it, and the form that makes several entries one.

A form carries the bank revision at which its entries were read. When one of them was changed since, nothing is merged.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.responses import Response

from skillbank import curate
from skillbank.errors import InvalidEntry
from skillbank.records import Entry, Pair
from skillbank.store import Bank
from skillbank.web.desk import Tools, Working
from skillbank.web.entry import EntryId
from skillbank.web.pages import MAX_ID, back_to, page, sides_of
from skillbank.web.site import site_of

router = APIRouter()
NEAREST = 8
Id = Annotated[int, Field(ge=1, le=MAX_ID)]


class Merge(BaseModel):
    """Entries that become one."""

    into: Id
    """The one that stands for the others."""
    ids: list[Id] = []
    """May name `into` too."""
    seen: Annotated[int, Field(ge=0, le=MAX_ID)]
    """The bank revision at which they were read."""
    reason: str = ""
    back: str = "/entries"


@router.get("/entries/{entry_id}/merge", response_class=HTMLResponse)
def candidates(request: Request, entry_id: EntryId, back: str = "") -> HTMLResponse:
    """The entries of its kind nearest to one, to be merged with it; of a pair its sides are merged."""
    site = site_of(request)
    with site.reading() as bank:
        entry = bank.get(entry_id)
        revision = bank.revision
        shown = {"entry": entry, "sides": sides_of(bank, [entry]), "back": back or f"/entries/{entry_id}"}
        if isinstance(entry.content, Pair):
            return page(request, bank, "merge_pair.html", shown)
    near = site.desk.ask(("near", entry_id, revision), lambda tools: _nearest(tools, entry))
    with site.reading() as bank:
        if isinstance(near, Working):
            return page(request, bank, "working.html", {"said": "comparing the entry with the others"}, status=202)
        return page(request, bank, "merge.html", shown | {"near": near, "seen": revision})


@router.post("/merge")
def merge(request: Request, form: Annotated[Merge, Form()]) -> Response:
    """Lets one entry stand for others."""
    site = site_of(request)
    with site.writing() as bank, bank.db.transaction():
        _expect_unchanged(bank, [form.into, *form.ids], form.seen)
        done = curate.merge(bank, form.ids, form.into, actor=site.actor, reason=form.reason.strip())
    return back_to(form.back, done)


def _nearest(tools: Tools, entry: Entry) -> list[tuple[Entry, float]]:
    from skillbank.retrieve import nearest_entries

    assert not isinstance(entry.content, Pair)
    found = nearest_entries(tools.bank, tools.embedder, entry.content.text(), kind=entry.kind, limit=NEAREST + 1)
    return [(other, cosine) for other, cosine in found if other.id != entry.id][:NEAREST]


def _expect_unchanged(bank: Bank, ids: list[int], seen: int) -> None:
    for entry in bank.entries(ids=ids):
        if entry.revision > seen:
            raise InvalidEntry(
                f"entry {entry.id} was changed in revision {entry.revision}, after you looked at it (revision {seen}): "
                "look again, then merge"
            )
