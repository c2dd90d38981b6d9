"""Bulk actions: on the entries that were ticked, or on all that fit a query, with what would happen shown first.

The form of a preview carries a digest of the entries that it was made for. When others fit by the time it is confirmed,
nothing is done and the preview is shown anew: what was seen is what is changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.responses import Response

from skillbank import curate
from skillbank.curate import Operation
from skillbank.errors import InvalidEntry
from skillbank.store import Bank, Query
from skillbank.store.query import json_list
from skillbank.web.pages import MAX_ID, back_to, by_entry, page
from skillbank.web.site import site_of

router = APIRouter()
Action = Literal["disable", "enable", "retire", "accept", "release", "pin", "unpin", "tag", "untag"]
Id = Annotated[int, Field(ge=1, le=MAX_ID)]


class Order(BaseModel):
    """What is to be done, and with what."""

    action: Action
    scope: Literal["ticked", "fitting"] = "ticked"
    """The entries in `ids`, or all that fit `q`."""
    q: str = ""
    ids: list[Id] = []
    tag: str = ""
    reason: str = ""
    back: str = "/entries"
    seen: str = ""
    """The digest of the entries that a preview was made for; without it the preview is made."""

    def chosen(self, bank: Bank) -> list[int]:
        if self.scope == "fitting":
            return bank.ids(Query.parse(self.q))
        if not self.ids:
            raise InvalidEntry("no entry is ticked: tick some, or choose all that fit the query")
        return list(dict.fromkeys(self.ids))


@router.post("/bulk", response_class=HTMLResponse)
def bulk(request: Request, order: Annotated[Order, Form()]) -> Response:
    """Previews an action, or does it when the preview was seen."""
    site = site_of(request)
    with site.writing() as bank:
        ids = order.chosen(bank)
        digest = hashlib.sha256(json_list(ids).encode()).hexdigest()[:32]
        operate = _operation(order, site.actor)
        if order.seen == digest:
            return back_to(order.back, operate(bank, ids, False))
        done = operate(bank, ids, True)
        values = {"order": order, "digest": digest, "preview": done, "outdated": bool(order.seen)}
        values |= by_entry(bank, done.changes)
        return page(request, bank, "bulk.html", values)


def _operation(order: Order, actor: str) -> Callable[[Bank, list[int], bool], Operation]:
    """(bank, ids, preview) -> what was done, or would be."""
    reason = order.reason.strip()
    if order.action in ("tag", "untag"):
        tagging = curate.tag if order.action == "tag" else curate.untag
        tags = [tag for tag in (part.strip() for part in order.tag.split(",")) if tag]
        return lambda bank, ids, preview: tagging(bank, ids, tags, actor=actor, reason=reason, preview=preview)
    plain = {
        "disable": curate.disable,
        "enable": curate.enable,
        "retire": curate.retire,
        "accept": curate.accept,
        "release": curate.release,
        "pin": curate.pin,
        "unpin": curate.unpin,
    }[order.action]
    return lambda bank, ids, preview: plain(bank, ids, actor=actor, reason=reason, preview=preview)
