"""Made-up operations and what a miner would find about them."""

from __future__ import annotations

from skillbank.records import Evidence, MinedPair, Mistake, Outcome, Skill

OPERATIONS = ("zorp", "blen", "quix", "framp", "drell", "skorn")


def evidence(problem_id: str, outcome: Outcome, quote: str = "so it is 3") -> Evidence:
    return Evidence(
        rollout_id=f"{problem_id}-{outcome}", problem_id=problem_id, outcome=outcome, quote=quote, span=(4, 14)
    )


def mined(operation: str, problem_id: str | None = None) -> MinedPair:
    """What a miner would find about one operation, by default on the problem `p-OPERATION`."""
    problem_id = problem_id or f"p-{operation}"
    return MinedPair(
        skill=Skill(
            title=f"Step on {operation}",
            principle=f"{operation} means double the first and add the second",
            when_to_apply=f"The problem mentions {operation}.",
        ),
        mistake=Mistake(
            description=f"{operation} taken as the sum of both",
            how_to_avoid=f"Instead: {operation} doubles the first",
        ),
        skill_evidence=(evidence(problem_id, "correct"),),
        mistake_evidence=(evidence(problem_id, "wrong"),),
    )
