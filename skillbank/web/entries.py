"""`/entries`: the table, with a box for the query language, facets, order and pages, all of it in the address."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from fastapi.responses import HTMLResponse

from skillbank.errors import InvalidOption
from skillbank.look.facets import facets
from skillbank.look.view import utilities
from skillbank.store import Query
from skillbank.store.events import KINDS
from skillbank.store.query import Sort
from skillbank.web.pages import Done, PageNumber, link, page, sides_of
from skillbank.web.site import site_of

router = APIRouter()
SHOWN = 50
"""Entries on a page."""
QueryLine = Annotated[str, Parameter(alias="q", max_length=2000, description="A query, as docs/curation.md says it.")]
ORDERS: tuple[tuple[Sort, str], ...] = (
    ("newest", "newest first"),
    ("changed", "last changed first"),
    ("evidence", "most evidence first"),
    ("utility", "most useful first"),
)


@router.get("/entries", response_class=HTMLResponse)
def entries(
    request: Request,
    line: QueryLine = "",
    sort: Annotated[Sort | Literal[""], Parameter(description="Empty: by relevance to words, else by id.")] = "",
    number: Annotated[PageNumber, Parameter(alias="page")] = 1,
    done: Done = None,
) -> HTMLResponse:
    """A page of the entries that fit a query."""
    with site_of(request).reading() as bank:
        try:
            where, wrong = Query.parse(line), ""
        except InvalidOption as error:
            where, wrong = Query(), str(error)
        order: Sort = sort or ("relevance" if where.text is not None else "id")
        if order == "relevance" and where.text is None:
            order = "id"
        counts = facets(bank, where)
        last = max(1, -(-counts.total // SHOWN))
        number = min(number, last)
        found = bank.entries(where, sort=order, limit=SHOWN, offset=(number - 1) * SHOWN)
        values = {
            "line": line,
            "wrong": wrong,
            "where": where,
            "order": order,
            "sort": sort,
            "orders": [
                ("", "oldest first" if where.text is None else "best match first"),
                *ORDERS,
                *([] if where.text is None else [("id", "oldest first")]),
            ],
            "number": number,
            "last": last,
            "found": found,
            "sides": sides_of(bank, found),
            "utility": utilities(bank, [entry.id for entry in found]),
            "counts": counts,
            "marks_of": site_of(request).marks(bank),
            "kinds": list(KINDS),
            "with_": lambda **criteria: link("/entries", q=str(where.model_copy(update=criteria)), sort=sort),
            "at": lambda n: link("/entries", q=line, sort=sort, page=n if n > 1 else None),
            "by": lambda order: link("/entries", q=line, sort=order),
        }
        return page(request, bank, "entries.html", values, status=422 if wrong else 200)
