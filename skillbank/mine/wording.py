"""How a contrast between a right step and a wrong one is put into words.

One place, because whoever trains or tests on mined text must write exactly what the miner writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from skillbank.records import Mistake, Skill


def skill_from_step(step: str, terms: Sequence[str]) -> Skill:
    """The step that right attempts share; `terms` are the words it has in common with the problem."""
    topic = ", ".join(terms)
    return Skill(
        title=f"Step on {topic}" if topic else "Step that right attempts share",
        principle=step,
        when_to_apply=f"The problem mentions {topic}." if topic else "",
    )


def mistake_from_step(wrong: str, right: str) -> Mistake:
    """The step at which a wrong attempt departs, and the one that belongs there."""
    return Mistake(
        description=wrong,
        why_it_happens="Wrong attempts depart here from what the right ones share.",
        how_to_avoid=f"Instead: {right}",
    )
