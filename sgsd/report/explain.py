"""`sgsd explain`: a few rollouts of a run, each token as each teacher saw it, on one page."""

from __future__ import annotations

from collections.abc import Sequence

from sgsd.report import heat
from sgsd.report.folder import RunFolder
from sgsd.report.page import render
from sgsd.report.scored import Scored

NAMES = {1: "helpful", 0: "neutral", -1: "harmful"}
MARKS = {1: "▲", 0: "○", -1: "▼"}


def explain_page(run: RunFolder, found: Sequence[Scored]) -> str:
    """The page of these rollouts."""
    return render(
        "explain.html",
        {
            "run": str(run.path),
            "method": run.config.method,
            "local": run.config.objective.support_top_k if run.config.method == "sgsd" else 0,
            "rollouts": [_shown(one) for one in found],
            "signed": heat.signed,
            "names": NAMES,
            "marks": MARKS,
        },
    )


def _shown(said: Scored) -> dict[str, object]:
    asked = (*said.teachers, *([said.placebo] if said.placebo else []))
    pull_T = said.pull_T
    return {
        "said": said,
        "panels": [(teacher, heat.of_teacher(said, teacher)) for teacher in asked],
        "pull": None if pull_T is None else heat.of_all(said, pull_T),
        "strongest": max(map(abs, pull_T), default=0.0) if pull_T else 0.0,
        "table": heat.table(said),
    }
