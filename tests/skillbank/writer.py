"""A writer for tests: it answers by rule, so that what is mined from any rollouts is known beforehand."""

from __future__ import annotations

import json
import re
from typing import Any

from skillbank.records import Outcome, Rollout

ATTEMPT = re.compile(r'<attempt number="(\d+)" outcome="(right|wrong)">\n(.*?)\n</attempt>', re.DOTALL)
PROBLEM = re.compile(r"<problem>\n(.*?)\n</problem>", re.DOTALL)


def rollout(number: int, problem: str, outcome: Outcome, completion: str = "", **fields: Any) -> Rollout:
    text = completion or f"{problem}: attempt {number} goes a {outcome} way\n\\boxed{{{number}}}"
    return Rollout(
        rollout_id=f"{problem}-{number}",
        problem_id=problem,
        problem=f"What is {problem}?",
        completion=text,
        outcome=outcome,
        **fields,
    )


def skill(name: str, *evidence: tuple[int, str]) -> dict[str, Any]:
    cited = [{"attempt": number, "quote": quote} for number, quote in evidence]
    return {"title": f"Do {name}", "principle": f"{name} works.", "when_to_apply": "Often.", "evidence": cited}


def mistake(name: str, *evidence: tuple[int, str]) -> dict[str, Any]:
    cited = [{"attempt": number, "quote": quote} for number, quote in evidence]
    return {
        "description": f"Not doing {name}",
        "why_it_happens": "It tempts.",
        "how_to_avoid": f"Do {name}.",
        "evidence": cited,
    }


def written(prompt: str) -> str:
    """The reply to a prompt: one item named after the problem, resting on every attempt that is shown."""
    name = PROBLEM.findall(prompt)[0]
    right = [(int(number), text.splitlines()[0]) for number, side, text in ATTEMPT.findall(prompt) if side == "right"]
    wrong = [(int(number), text.splitlines()[0]) for number, side, text in ATTEMPT.findall(prompt) if side == "wrong"]
    if right and wrong:
        return json.dumps({"pairs": [{"skill": skill(name, *right), "mistake": mistake(name, *wrong)}]})
    if right:
        return json.dumps({"skills": [skill(name, *right)]})
    return json.dumps({"mistakes": [mistake(name, *wrong)]})


def groups(problems: int) -> list[list[Rollout]]:
    """Problems in their order: every third with right attempts alone, with wrong ones alone, with both."""
    made = []
    for number in range(problems):
        name = f"p{number:03}"
        right = [rollout(1, name, "correct"), rollout(2, name, "correct")]
        wrong = [rollout(3, name, "wrong"), rollout(4, name, "unverifiable")]
        made.append([*(right if number % 3 != 1 else []), *(wrong if number % 3 != 0 else [])])
    return made
