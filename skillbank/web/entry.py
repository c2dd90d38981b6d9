"""`/entries/ID`: one entry with all that hangs on it, its state and its words changed from here."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.responses import Response

from skillbank import curate
from skillbank.curate import EditConflict, field_changes
from skillbank.guard import Guard
from skillbank.look.view import EntryView, view_entry, view_rollout
from skillbank.records import Pair
from skillbank.store import Bank
from skillbank.store.events import KINDS
from skillbank.web.pages import MAX_ID, Done, back_to, link, page, refusal, sides_of
from skillbank.web.site import site_of

router = APIRouter()
EntryId = Annotated[int, Path(ge=1, le=MAX_ID)]
PLACES = 20
EVENTS = 50
STATES = {
    "accept": curate.accept,
    "reject": curate.reject,
    "disable": curate.disable,
    "enable": curate.enable,
    "retire": curate.retire,
    "release": curate.release,
    "pin": curate.pin,
    "unpin": curate.unpin,
}


class State(BaseModel):
    """A change of state."""

    action: Literal["accept", "reject", "disable", "enable", "retire", "release", "pin", "unpin"]
    reason: str = ""
    back: str = "/entries"


class Tags(BaseModel):
    """The tags that an entry is to have, parted by commas."""

    tags: str = ""
    reason: str = ""
    back: str = "/entries"


class Wording(BaseModel):
    """The words that an entry is to have, and the version that was read before writing them."""

    version: Annotated[int, Form(ge=1, le=MAX_ID)]
    title: str | None = None
    principle: str | None = None
    when_to_apply: str | None = None
    description: str | None = None
    why_it_happens: str | None = None
    how_to_avoid: str | None = None
    reason: str = ""
    back: str = "/entries"

    def words(self) -> dict[str, str]:
        """Field -> text, of the fields that were given; lines end as on every system but the form's."""
        names = [name for kind in ("skill", "mistake") for name in KINDS[kind].model_fields]
        given = {name: getattr(self, name) for name in names}
        return {name: text.replace("\r\n", "\n").strip() for name, text in given.items() if text is not None}


@router.get("/entries/{entry_id}", response_class=HTMLResponse)
def entry(request: Request, entry_id: EntryId, done: Done = None) -> HTMLResponse:
    """An entry: words, evidence in its context, use in training, pairs, history."""
    with site_of(request).reading() as bank:
        view = view_entry(bank, entry_id)
        return page(request, bank, "entry.html", shown(bank, view))


@router.post("/entries/{entry_id}/state")
def state(request: Request, entry_id: EntryId, form: Annotated[State, Form()]) -> Response:
    """Changes what may be done with an entry, none of its words."""
    site = site_of(request)
    with site.writing() as bank:
        done = STATES[form.action](bank, [entry_id], actor=site.actor, reason=form.reason.strip())
    return back_to(form.back, done)


@router.post("/entries/{entry_id}/tags")
def tags(request: Request, entry_id: EntryId, form: Annotated[Tags, Form()]) -> Response:
    """Gives an entry these tags and no others."""
    site = site_of(request)
    wanted = {tag for tag in (part.strip() for part in form.tags.split(",")) if tag}
    with site.writing() as bank:
        had = set(bank.get(entry_id).tags)
        done = curate.retag(bank, [entry_id], wanted - had, had - wanted, actor=site.actor, reason=form.reason.strip())
    return back_to(form.back, done)


@router.post("/entries/{entry_id}/words", response_class=HTMLResponse)
def words(request: Request, entry_id: EntryId, form: Annotated[Wording, Form()]) -> Response:
    """Rewords an entry; who read an older version is shown what the other one changed and asked again."""
    site = site_of(request)
    with site.writing() as bank:
        try:
            done = curate.edit(
                bank,
                entry_id,
                form.words(),
                expected_version=form.version,
                actor=site.actor,
                reason=form.reason.strip(),
                check=Guard(bank).check,
            )
        except EditConflict as conflict:
            values = {"conflict": conflict, "entry": bank.get(entry_id), "mine": form}
            return page(request, bank, "conflict.html", values, status=409)
    return back_to(form.back, done)


@router.get("/rollouts/{rollout_id:path}", response_class=HTMLResponse)
def rollout(request: Request, rollout_id: str) -> HTMLResponse:
    """What became of a rollout, and the entries that rest on it."""
    with site_of(request).reading() as bank:
        view = view_rollout(bank, rollout_id)
        if view is None:
            return refusal(request, f"no rollout {rollout_id!r}: no miner read it, and nothing rests on it", 404)
        values = {"view": view, "sides": sides_of(bank, view.entries), "id": rollout_id}
        return page(request, bank, "rollout.html", values)


def shown(bank: Bank, view: EntryView) -> dict[str, object]:
    """What a page says about an entry."""
    related = [view.entry, *view.sides, *view.pairs, *view.stands_for]
    kinds = {view.entry.id: view.entry.kind}
    return {
        "view": view,
        "entry": view.entry,
        "parts_of": view.sides or (view.entry,),
        "sides": sides_of(bank, related),
        "places": view.evidence[:PLACES],
        "history": [(event, field_changes(event, kinds)) for event in reversed(view.history[-EVENTS:])],
        "itself": link(f"/entries/{view.entry.id}"),
        "is_pair": isinstance(view.entry.content, Pair),
    }
