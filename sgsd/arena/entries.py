"""Knobs of the arena's bank: entries that mislead, entries beside the point; and who retrieves what is right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from sgsd.arena.corpus import decoy
from sgsd.arena.tasks import OPERATIONS, RULES, TRUE_RULE, rule_line
from sgsd.records import Problem
from skillbank.mine.wording import mistake_from_step, skill_from_step
from skillbank.records import Evidence, MinedPair
from skillbank.retrieve import Retriever
from skillbank.store import Bank, Query

STRANGERS = ("frob", "grix", "vemp", "josk", "yulb", "hinz")
"""Operations that no problem of the arena has."""


def plant(bank_dir: str | Path, *, misleading: float = 0.0, irrelevant: float = 0.0, seed: int = 0) -> int:
    """Add pairs until a share `misleading` of the entries is false and `irrelevant` is about nothing.

    A misleading pair teaches a wrong rule (the popular one first) and calls the true one the mistake. Returns the
    number of pairs added; their origins are `misleading` and `irrelevant`.
    """
    if misleading < 0 or irrelevant < 0 or misleading + irrelevant >= 1:
        raise ValueError(
            f"misleading = {misleading} and irrelevant = {irrelevant} must not be negative and add up to less than 1"
        )
    rng = random.Random(f"plant/{seed}")
    with Bank.open(bank_dir) as bank:
        skills, mistakes = bank.count(Query(kind="skill")), bank.count(Query(kind="mistake"))
        rest = 1 - misleading - irrelevant
        pairs = _misleading(round(skills * misleading / rest), round(mistakes * misleading / rest), rng)
        pairs += _irrelevant(round(mistakes * irrelevant / rest), rng)
        if pairs:
            bank.add_mined(pairs, actor="arena", reason=f"misleading {misleading}, irrelevant {irrelevant}")
    return len(pairs)


def _misleading(skills: int, mistakes: int, rng: random.Random) -> list[MinedPair]:
    """`skills` wrong rules and `mistakes` reversals, joined operation by operation."""
    taught: dict[str, list[str]] = {op: [] for op in OPERATIONS}
    for i in range(min(skills, len(OPERATIONS) * (len(RULES) - 1))):
        op = OPERATIONS[i % len(OPERATIONS)]
        others = [r for r in RULES if r not in (TRUE_RULE[op], *taught[op])]
        taught[op].append(decoy(op) if decoy(op) in others else rng.choice(others))
    pairs = []
    for i in range(mistakes):
        op = OPERATIONS[i % len(OPERATIONS)]
        if not taught[op]:
            continue
        wrong = taught[op][(i // len(OPERATIONS)) % len(taught[op])]
        called = [TRUE_RULE[op], *(r for r in RULES if r not in (TRUE_RULE[op], wrong))]
        mistaken = called[(i // len(OPERATIONS)) % len(called)]
        pairs.append(_pair(op, wrong, mistaken, "misleading"))
    return pairs


def _irrelevant(mistakes: int, rng: random.Random) -> list[MinedPair]:
    draws = {(op, *rng.sample(list(RULES), 2)) for op in STRANGERS for _ in range(-(-mistakes // len(STRANGERS)))}
    return [_pair(op, right, wrong, "irrelevant") for op, right, wrong in sorted(draws)[:mistakes]]


def _pair(operation: str, right: str, wrong: str, origin: str) -> MinedPair:
    planted = Evidence(
        rollout_id=f"{origin}-{operation}-{right}-{wrong}",
        problem_id=f"{origin}-{operation}",
        outcome="unverifiable",
        quote=rule_line(operation, right),
        source=f"arena:{origin}",
    )
    return MinedPair(
        skill=skill_from_step(rule_line(operation, right), [operation]),
        mistake=mistake_from_step(rule_line(operation, wrong), rule_line(operation, right)),
        skill_evidence=(planted,),
        mistake_evidence=(planted,),
        origin=origin,
    )


def hit_share(retriever: Retriever, problems: Sequence[Problem]) -> float:
    """Share of the problems whose pool has a pair that states the true rule of one of their operations."""
    truths = {rule_line(op, rule): op for op, rule in TRUE_RULE.items()}
    pools = retriever.retrieve([p.problem for p in problems], [p.problem_id for p in problems])
    hits = 0
    for problem, pool in zip(problems, pools, strict=True):
        words = set(problem.problem.split())
        advice = {pair.skill.principle for pair in pool}
        advice |= {pair.mistake.how_to_avoid.removeprefix("Instead: ") for pair in pool}
        hits += any(truths[line] in words for line in advice & truths.keys())
    return hits / len(problems)
