"""What the training side speaks of. Frozen; shapes in the docstrings.

Shape suffixes, here and in all tensor code: `_B` examples, `_K` teachers, `_T` completion tokens, `_V` vocabulary,
`_H` hidden, `_S` tokens of a local support, `_N` any flat list of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["correct", "wrong", "unverifiable"]
OUTCOME_SIGN: dict[Outcome, int] = {"correct": 1, "wrong": -1, "unverifiable": 0}


@dataclass(frozen=True)
class Problem:
    """A problem with its reference answer, whatever schema it came from."""

    problem_id: str
    problem: str
    answer: str
    source: str = "unknown"
    split: str = "train"
    solution: str | None = None
    """A worked reference solution, where the data set has one."""


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one completion."""

    outcome: Outcome
    answer: str | None = None
    """The answer that was read from the completion; None when there is none."""
    reason: str = ""
    """Why it is unverifiable, or how the answer was read."""


@dataclass(frozen=True)
class Completion:
    """What a generator returns for one prompt: the tokens after the prompt, with the end token if there is one."""

    token_ids: tuple[int, ...]
    text: str
    """Decoded without special tokens."""
    truncated: bool
    """True when the length limit cut it off, so that no end token was produced."""
    logprobs: tuple[float, ...] | None = None
    """What an engine with weights of its own says of each token, in nats at temperature 1 over the whole vocabulary;
    None where nothing is said. For comparison alone: the student is scored by the trainer."""


@dataclass(frozen=True)
class Rollout:
    """One student attempt at one problem, verified."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    completion: Completion
    verdict: Verdict


@dataclass(frozen=True)
class TeacherPrompt:
    """One teacher of the pool of one problem: the privileged prompt and the weight of its opinion."""

    prompt_ids: tuple[int, ...]
    weight: float
    label: dict[str, Any] = field(default_factory=dict)
    """What identifies the teacher in the usage ledger, such as skill_id, mistake_id, pair_id."""
