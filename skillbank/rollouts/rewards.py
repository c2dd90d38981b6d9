"""What a reward says of an attempt: correct, wrong, or nothing that can be relied on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from skillbank.records import Outcome, Record
from skillbank.rollouts.rejects import Unusable


class Verdict(Record):
    """How rewards are read, for the formats that hold rewards and no outcome."""

    reward: str | None = None
    """The field that tells right from wrong; without it the format's own, or the one that is told by its name."""
    threshold: float | None = None
    """A reward of at least this is correct, a lower one wrong. Without it only 1, 0 and -1 say anything."""


def outcome_of(reward: object, threshold: float | None = None) -> Outcome:
    """1 and True are correct, 0, -1 and False wrong. All else is unverifiable: text, null, NaN, and a fraction unless
    a threshold is named."""
    if isinstance(reward, bool):
        return "correct" if reward else "wrong"
    if not isinstance(reward, int | float) or reward != reward:
        return "unverifiable"
    if threshold is not None:
        return "correct" if reward >= threshold else "wrong"
    if reward == 1:
        return "correct"
    return "wrong" if reward in (0, -1) else "unverifiable"


# By what a reward function is called: one that judges the answer, before one that says no more than "reward".
_TELLING = (
    re.compile(r"accura|correct|verif|solved|outcome", re.IGNORECASE),
    re.compile(r"reward|score", re.IGNORECASE),
)


def deciding(rewards: Mapping[str, Any], verdict: Verdict) -> Any:
    """The reward that tells right from wrong, among several. Raises Unusable when none is named and none stands out."""
    if verdict.reward is not None:
        if verdict.reward not in rewards:
            held = ", ".join(sorted(rewards)) or "none"
            raise Unusable("no such reward", f"{verdict.reward}; the rewards are: {held}")
        return rewards[verdict.reward]
    if len(rewards) == 1:
        return next(iter(rewards.values()))
    for telling in _TELLING:
        named = [name for name in rewards if telling.search(name)]
        if len(named) == 1:
            return rewards[named[0]]
        if named:
            break
    held = ", ".join(sorted(rewards)) or "none"
    raise Unusable("no single reward", f"name the one that tells right from wrong; the rewards are: {held}")
