"""From values to HTML: the templates, the links between pages, and what every page shows.

Every word is escaped by the templates. Links are made of a path and parameters, never of text put together, and a link
that comes in with a form is followed only within this server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi import Query as Parameter
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

from skillbank.curate import FieldChange, Operation
from skillbank.errors import InvalidEntry
from skillbank.records import Entry, Flag, Pair
from skillbank.store import Bank, Query
from skillbank.web import plots
from skillbank.web.diff import text_diff
from skillbank.web.site import site_of

MAX_ID = 2**63 - 1
"""SQLite's."""
MAX_PAGE = 10**9
DONE = ("done", "undone")
"""Parameters that say which revision was just made; no part of a page's address."""
THEMES = ("light", "dark")
QUARANTINED = "status:quarantined"
MARKS = {"active": "●", "disabled": "○", "quarantined": "⚑", "superseded": "⇢", "retired": "✕"}
"""A sign beside each status, for those who do not see its colour."""

PageNumber = Annotated[int, Parameter(ge=1, le=MAX_PAGE)]
Done = Annotated[int | None, Parameter(ge=0, le=MAX_ID, description="The revision that was just made.")]


def link(path: str, **parameters: object) -> str:
    """A path with those parameters that are not None or empty."""
    given = {name: value for name, value in parameters.items() if value is not None and value != ""}
    return f"{path}?{urlencode(given)}" if given else path


def here(back: str, **parameters: object) -> str:
    """A link that came in with a form, with further parameters; the list of entries when it leads elsewhere."""
    parts = urlsplit(back)
    if parts.scheme or parts.netloc or not parts.path.startswith("/") or back.startswith("//") or "\\" in back:
        parts = urlsplit("/entries")
    known = {name: value for name, value in parse_qsl(parts.query) if name not in DONE}
    return link(parts.path, **known, **parameters)


def page(
    request: Request, bank: Bank | None, template: str, values: Mapping[str, object], *, status: int = 200
) -> HTMLResponse:
    """A page. `bank` is read for what all pages show; None where it cannot be."""
    site = site_of(request)
    theme = request.cookies.get("theme", "")
    done = request.query_params.get("done") or request.query_params.get("undone", "")
    shared = {
        "site": site,
        "path": request.url.path,
        "address": link(request.url.path, **{k: v for k, v in request.query_params.items() if k not in DONE}),
        "theme": theme if theme in THEMES else "auto",
        "waiting": None if bank is None else bank.count(Query(status="quarantined")),
        "done": None if bank is None or not done.isdecimal() else _done(bank, int(done)),
    }
    return HTMLResponse(TEMPLATES.get_template(template).render(shared | dict(values)), status_code=status)


def refusal(request: Request, said: str, status: int) -> HTMLResponse:
    """An error as a page, within the same frame."""
    return page(request, None, "refusal.html", {"said": said}, status=status)


def back_to(back: str, done: Operation, **parameters: object) -> RedirectResponse:
    """To where a form came from, which then says what was done.

    Raises InvalidEntry with the reason when all that was asked was left as it is.
    """
    if done.revision is None and done.left:
        raise InvalidEntry(f"nothing was changed: {done.left[0].why}")
    return RedirectResponse(here(back, **parameters, done=done.revision or 0), status_code=303)


def _done(bank: Bank, revision: int) -> dict[str, Any] | None:
    """What a page says about the revision that was just made."""
    if revision > bank.revision:
        return None
    found = bank.revisions(limit=1, offset=bank.revision - revision) if revision else []
    return {"revision": found[0] if found else None}


# ------------------------------------------------------------------------------------------------ words of templates


def sides_of(bank: Bank, entries: Sequence[Entry]) -> dict[int, Entry]:
    """The skills and mistakes among entries, and those that their pairs join."""
    sides = {entry.id: entry for entry in entries if not isinstance(entry.content, Pair)}
    pairs = [entry.content for entry in entries if isinstance(entry.content, Pair)]
    wanted = {i for pair in pairs for i in (pair.skill_id, pair.mistake_id)} - sides.keys()
    return sides | ({entry.id: entry for entry in bank.entries(ids=wanted)} if wanted else {})


def by_entry(bank: Bank, changes: Sequence[FieldChange]) -> dict[str, Any]:
    """Changes entry by entry, with the entries and the words of their sides: what `parts.changes` shows."""
    grouped: dict[int | None, list[FieldChange]] = {}
    for change in changes:
        grouped.setdefault(change.entry_id, []).append(change)
    entries = bank.entries(ids=[entry_id for entry_id in grouped if entry_id is not None])
    return {"changes": grouped, "entries": {entry.id: entry for entry in entries}, "sides": sides_of(bank, entries)}


def fields(entry: Entry) -> Mapping[str, str]:
    """The wording of a skill or a mistake, field by field."""
    return entry.content.model_dump()


def open_flags(entry: Entry) -> list[Flag]:
    return [flag for flag in entry.flags if not flag.released]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """ "1 entry", "1,319 entries"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def signed(number: float | None, digits: int = 2) -> str:
    """A number with its sign; a dash for None. The minus is a real one."""
    return "–" if number is None else f"{number:+.{digits}f}".replace("-", "−")


def moment(at: str) -> str:
    """A time as people write it, to the minute, in UTC."""
    return at[:16].replace("T", " ")


def label(field: str) -> str:
    """The name of a field for people."""
    return field.replace("_", " ")


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
TEMPLATES.filters |= {"signed": signed, "moment": moment, "label": label, "fields": fields, "open_flags": open_flags}
TEMPLATES.filters["merged"] = lambda one, other: {**one, **other}
TEMPLATES.globals |= {
    "link": link,
    "here": here,
    "counted": counted,
    "marks": MARKS,
    "plots": plots,
    "text_diff": text_diff,
    "quarantined": QUARANTINED,
}
