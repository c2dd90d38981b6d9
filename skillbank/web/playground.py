"""`/playground`: type a problem, see the pairs it is given, why, and what each teacher would read."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from fastapi.responses import HTMLResponse

from skillbank.retrieve.explain import Explanation, explain
from skillbank.retrieve.settings import Pairing, Settings
from skillbank.store import Query
from skillbank.web.desk import Tools, Working
from skillbank.web.pages import page
from skillbank.web.site import site_of

router = APIRouter()
OTHERS = 5
"""Entries of each kind that were not used, with the reason."""
MAX_PAIRS = 64
LONGEST = 20_000


@router.get("/playground", response_class=HTMLResponse)
def playground(
    request: Request,
    problem: Annotated[str, Parameter(max_length=LONGEST)] = "",
    k: Annotated[int, Parameter(ge=1, le=MAX_PAIRS, description="Pairs, at most.")] = 8,
    pairing: Pairing = "rank",
    own: Annotated[bool, Parameter(description="Keep what rests on this very problem alone.")] = False,
    where: Annotated[str, Parameter(max_length=2000, description="Use only entries that fit.")] = "",
) -> HTMLResponse:
    """What a problem is given and what it is not."""
    site = site_of(request)
    settings = Settings(
        k=k, pairing=pairing, leave_one_problem_out=not own, where=Query.parse(where) if where.strip() else None
    )

    def ask(tools: Tools) -> tuple[Explanation, str]:
        return explain(tools.retriever(settings), problem.strip(), n=OTHERS), tools.embedder.describe()

    with site.reading() as bank:
        revision = bank.revision
    asked = problem.strip() != ""
    answer = site.desk.ask(("explain", problem.strip(), settings, revision), ask) if asked else None
    with site.reading() as bank:
        if isinstance(answer, Working):
            return page(request, bank, "working.html", {"said": "loading the embedder and the index"}, status=202)
        explained, embedder = answer or (None, "")
        prompts: list[str] = []
        if explained is not None and site.teacher_prompts is not None:
            prompts = site.teacher_prompts(explained.problem, explained.pairs)
        values = {
            "problem": problem,
            "settings": settings,
            "pairing": pairing,
            "filter": where,
            "own": own,
            "explained": explained,
            "embedder": embedder,
            "prompts": prompts,
            "most": MAX_PAIRS,
        }
        return page(request, bank, "playground.html", values)
