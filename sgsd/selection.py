"""Which problems of a source are trained on: all, or those that OPD's teacher is at home in.

Teacher-aligned prompts are the teacher's own training problems (arXiv 2604.13016): on these its guidance is steadiest,
and without any others the student's entropy falls. Where nobody knows what a teacher was trained on, a file of its
attempts stands in: a problem counts as one of its own when it is right at least half the time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sgsd.data import load_problems, problem_hash
from sgsd.errors import DataInvalid
from sgsd.records import Problem
from skillbank.errors import RolloutsInvalid
from skillbank.rollouts import read_rollouts, reader_for

if TYPE_CHECKING:
    from sgsd.config import DataConfig

AT_HOME = 0.5
"""Share of its verified attempts of which the teacher is right, from which on a problem is one of its own."""


@dataclass(frozen=True)
class Selection:
    """The problems kept, in the order of the source, and how many of what were there."""

    problems: tuple[Problem, ...]
    aligned: int
    others_kept: int
    others: int
    """Kept or not."""

    def describe(self) -> str:
        return (
            f"{self.aligned:,} teacher-aligned problems, and {self.others_kept:,} of the {self.others:,} others "
            "(data.keep_others)"
        )


def select(problems: Sequence[Problem], config: DataConfig) -> Selection:
    """The aligned problems and `config.keep_others` of the others: the same ones in every run.

    Raises DataInvalid when none is aligned; the errors of the file as they come.
    """
    assert config.aligned_with is not None  # the configuration sees to it
    own = own_problems(config.aligned_with)
    texts = [problem_hash(problem.problem) for problem in problems]
    if own.isdisjoint(texts):
        raise DataInvalid(
            f"data.aligned_with {config.aligned_with} holds none of the {len(texts)} problems of {config.source} as "
            "the teacher's own: name its training problems or its attempts at these, or set data.select to all"
        )
    drawn = {text for text in texts if text not in own and _lot(text) < config.keep_others}
    kept = tuple(problem for problem, text in zip(problems, texts, strict=True) if text in own or text in drawn)
    aligned = sum(text in own for text in texts)
    return Selection(kept, aligned, len(kept) - aligned, len(texts) - aligned)


def own_problems(source: str) -> set[str]:
    """Hashes of the teacher's own problems: all of a data set, or those it gets right in a file of its attempts."""
    path = Path(source).expanduser()
    if not (path.is_file() and _holds_attempts(path)):
        return {problem_hash(problem.problem) for problem in load_problems(source)}
    right: Counter[str] = Counter()
    verified: Counter[str] = Counter()
    for rollout in read_rollouts(path):
        if rollout.outcome != "unverifiable":
            text = problem_hash(rollout.problem)
            verified[text] += 1
            right[text] += rollout.outcome == "correct"
    return {text for text, tries in verified.items() if right[text] >= AT_HOME * tries}


def _holds_attempts(path: Path) -> bool:
    try:
        return bool(reader_for(path))
    except RolloutsInvalid:
        return False


def _lot(text: str) -> float:
    """A number in [0, 1) that a problem has for good."""
    return int.from_bytes(hashlib.blake2b(f"others/{text}".encode(), digest_size=8).digest()) / 2**64
