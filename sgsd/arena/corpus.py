"""What the base model is pre-trained on: texts that make it behave as base models do in this method.

Left alone it draws each operation's rule from a fixed prior: a quarter of the operations it knows, on the others a
popular wrong rule is more likely than the true one. Given guidance about an operation it follows it, whatever the rule,
19 times of 20; what the guidance does not speak of it takes from the prior. Guidance is written by the very functions
that the miner and the trainer use.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from sgsd.arena.tasks import OPERATIONS, RULES, TRUE_RULE, Chain, draw_chain, rule_line, solve
from sgsd.prompts import NEUTRAL, Guidance, guided_user_text
from skillbank.mine.wording import mistake_from_step, skill_from_step

FOLLOW = 0.95
KNOWN = ("quone", "fep", "narb")
"""Operations whose true rule the base prefers: a greedy base solves these and no others."""
P_TRUE_KNOWN, P_TRUE_UNKNOWN, P_DECOY = 0.5, 0.2, 0.4


@dataclass(frozen=True)
class Example:
    """One pre-training text: user turn and completion."""

    user: str
    completion: str


def decoy(operation: str) -> str:
    """The popular wrong rule of an operation that the base does not know."""
    names = list(RULES)
    return names[(names.index(TRUE_RULE[operation]) + 1 + OPERATIONS.index(operation) % 4) % len(names)]


def prior(operation: str, knows: tuple[str, ...] = KNOWN) -> dict[str, float]:
    """Probability of each rule when nothing in the context speaks of the operation."""
    true = TRUE_RULE[operation]
    if operation in knows:
        return {rule: P_TRUE_KNOWN if rule == true else (1 - P_TRUE_KNOWN) / 5 for rule in RULES}
    rest = (1 - P_TRUE_UNKNOWN - P_DECOY) / 4
    return {r: P_TRUE_UNKNOWN if r == true else P_DECOY if r == decoy(operation) else rest for r in RULES}


def lesson(skill_on: str, rule: str, mistake_on: str, wrong: str, right: str) -> Guidance:
    """A pair as a teacher gets it: pairs are joined by rank, so the two halves may speak of different operations."""
    return Guidance(
        skill_from_step(rule_line(skill_on, rule), [skill_on]),
        mistake_from_step(rule_line(mistake_on, wrong), rule_line(mistake_on, right)),
    )


LENGTHS = {1: 24, 2: 20, 3: 20, 4: 10, 6: 14, 8: 12}
"""Chain lengths of the texts and their weights: longer than any level, for they teach the most rules a token."""


def draw_drill(rng: random.Random) -> Example:
    """A text of the opening: rules drawn evenly, on a long plain chain or on one operation with one lesson that is
    always followed. The first kind teaches what the rules do, the second to read."""
    plain = rng.random() < 0.5
    chain = draw_chain(rng, 8 if plain else 1, "train")
    drawn = [rng.choice(list(RULES)) for _ in chain.operations]
    lessons = []
    if not plain:
        op, wrong = chain.operations[0], rng.choice([rule for rule in RULES if rule != drawn[0]])
        lessons = [lesson(op, drawn[0], op, wrong, drawn[0])]
    return Example(guided_user_text(chain.text(), lessons), solve(chain, drawn)[0])


def draw_example(rng: random.Random, *, strong: bool = False) -> Example:
    """One text. `strong` is the external teacher: it knows the rules, and follows guidance as well."""
    length = rng.choices(list(LENGTHS), weights=list(LENGTHS.values()))[0]
    chain = draw_chain(rng, length, "train")
    operations = list(chain.operations)
    kind = rng.choices(("none", "one", "several", "irrelevant", "avoid"), weights=(27, 36, 24, 8, 5))[0]
    lessons: list[Guidance] = []
    advised: dict[str, list[str]] = {}
    avoided: dict[str, str] = {}

    def teach(about: str) -> None:
        rule = TRUE_RULE[about] if rng.random() < 0.4 else rng.choice(list(RULES))
        mistake_on = about if rng.random() < 0.7 else rng.choice(operations if rng.random() < 0.4 else OPERATIONS)
        right = rule if mistake_on == about and rng.random() < 0.85 else rng.choice(list(RULES))
        wrong = rng.choice([r for r in RULES if r != right])
        lessons.append(lesson(about, rule, mistake_on, wrong, right))
        advised.setdefault(about, []).append(rule)
        advised.setdefault(mistake_on, []).append(right)

    if kind == "one":
        teach(rng.choice(operations))
    elif kind == "several":
        about = operations[:4] + rng.sample(OPERATIONS, rng.randrange(3))
        rng.shuffle(about)
        for operation in dict.fromkeys(about):
            teach(operation)
    elif kind == "irrelevant":
        others = [op for op in OPERATIONS if op not in operations]
        for operation in rng.sample(others, rng.randint(1, 2)):
            wrong, right = rng.sample(list(RULES), 2)
            lessons.append(lesson(operation, right, operation, wrong, right))
        if rng.random() < 0.2:
            lessons = [NEUTRAL]
    elif kind == "avoid":
        operation = rng.choice(operations)
        avoided[operation] = rng.choice(list(RULES))
        mistake = mistake_from_step(rule_line(operation, avoided[operation]), "")
        lessons.append(Guidance(None, mistake.model_copy(update={"how_to_avoid": ""})))

    rules = [_draw_rule(rng, op, advised.get(op), avoided.get(op), strong) for op in operations]
    return Example(guided_user_text(chain.text(), lessons), solve(chain, rules)[0])


def _draw_rule(rng: random.Random, op: str, advised: list[str] | None, avoided: str | None, strong: bool) -> str:
    if rng.random() < FOLLOW:
        if advised:
            return rng.choice(advised)
        if strong:
            return TRUE_RULE[op]
        if avoided:
            weights = {r: w for r, w in prior(op).items() if r != avoided}
            return rng.choices(list(weights), weights=list(weights.values()))[0]
    weights = prior(op)
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def all_right_lessons(chain: Chain, rng: random.Random) -> list[Guidance]:
    """One right pair for each operation of the chain, in random order."""
    lessons = []
    for op in rng.sample(chain.operations, len(chain.operations)):
        wrong = rng.choice([r for r in RULES if r != TRUE_RULE[op]])
        lessons.append(lesson(op, TRUE_RULE[op], op, wrong, TRUE_RULE[op]))
    return lessons
