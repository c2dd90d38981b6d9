"""The evaluation sets of the papers by name, and how the SGSD paper draws on them (arXiv 2605.28791).

A name stands for a data set of the hub. Files of the same problems are given by their path instead; `sgsd.data` reads
either. All are test sets: their split is `test` here, whatever the hub calls it, so that nobody trains on one by
leaving `data.split` at its default.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class EvaluationSet:
    """Where a set lies on the hub. Its columns are of the plain schema of `sgsd.data`."""

    name: str
    hub: str
    """`name` or `name:configuration`."""
    split: str
    """The hub's own name of it."""
    problems: int


SETS = (
    EvaluationSet("AIME24", "HuggingFaceH4/aime_2024", "train", 30),  # id, problem, solution, answer
    EvaluationSet("AIME25", "MathArena/aime_2025", "train", 30),  # problem_idx, problem, answer
    EvaluationSet("HMMT25", "MathArena/hmmt_feb_2025", "train", 30),  # problem_idx, problem, answer
    EvaluationSet("AMC23", "math-ai/amc23", "test", 40),  # id, question, answer
    EvaluationSet("MATH-500", "HuggingFaceH4/MATH-500", "test", 500),  # unique_id, problem, solution, answer
    EvaluationSet("GSM8K", "openai/gsm8k:main", "test", 1319),  # question, answer that ends in `#### 18`
)
BY_NAME = {one.name.lower(): one for one in SETS}

PAPER_SAMPLING: dict[str, Any] = {"n": 12, "temperature": 1.0, "top_p": 0.95, "thinking": True}
PAPER_NEW_TOKENS = 38_912


def named(source: str) -> EvaluationSet | None:
    """The set of this name, whatever its case; None for any other source."""
    return BY_NAME.get(source.lower())


def nearest(source: str) -> str | None:
    """The name of the set that a mistyped one may have meant."""
    found = get_close_matches(source.lower(), BY_NAME, n=1, cutoff=0.7)
    return BY_NAME[found[0]].name if found else None
