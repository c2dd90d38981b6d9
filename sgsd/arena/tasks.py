r"""The task family: chains of made-up binary operations on two-digit numbers, digit by digit and without carry.

A problem reads `What is 52 zorp 37 blick 14, digit by digit and without carry?`. Each operation has one true rule, which
no problem tells. A solution names the rule of an operation on one line and calculates on the next:

    zorp means raised sum
    52 zorp 37 = 90
    blick means doubled sum
    90 blick 14 = 08
    \boxed{08}

Left out on purpose: precedence, several phrasings, carries. What is hard here is knowing the rules.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from sgsd.data import problem_hash
from sgsd.errors import DataInvalid
from sgsd.records import Problem

Level = Literal["easy", "medium", "hard"]
Split = Literal["train", "validation", "test"]

DIGITS = 2
CHAIN_LENGTH: dict[Level, int] = {"easy": 1, "medium": 2, "hard": 4}

# What each rule makes of two digits, modulo 10. Names differ in their first word, so that one token decides which rule a
# solution follows; two rules agree on both digits of a pair of numbers in 1.4 % of the cases on average.
RULES: dict[str, Callable[[int, int], int]] = {
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: a - b,
    "raised sum": lambda a, b: a + b + 1,
    "lowered difference": lambda a, b: a - b - 1,
    "doubled sum": lambda a, b: 2 * (a + b),
    "reversed difference": lambda a, b: b - a,
}

TRUE_RULE: dict[str, str] = {
    "zorp": "raised sum",
    "blick": "doubled sum",
    "quone": "sum",
    "dax": "lowered difference",
    "wug": "reversed difference",
    "fep": "difference",
    "tiv": "sum",
    "mulk": "doubled sum",
    "narb": "lowered difference",
    "gleeb": "difference",
    "snarf": "reversed difference",
    "plim": "raised sum",
}
OPERATIONS = tuple(TRUE_RULE)


class Step(NamedTuple):
    """One operation of a chain and its second operand, two digits."""

    operation: str
    operand: str


class Chain(NamedTuple):
    """A problem: a start value and the operations applied to it from left to right."""

    start: str
    steps: tuple[Step, ...]

    def key(self) -> str:
        return " ".join([self.start, *(f"{op} {b}" for op, b in self.steps)])

    def text(self) -> str:
        return f"What is {self.key()}, digit by digit and without carry?"


def apply_rule(rule: str, a: str, b: str) -> str:
    return "".join(str(RULES[rule](int(x), int(y)) % 10) for x, y in zip(a, b, strict=True))


def solve(chain: Chain, rules: Sequence[str]) -> tuple[str, str]:
    """The solution text and result when step i follows `rules[i]`."""
    lines, value = [], chain.start
    for (operation, operand), rule in zip(chain.steps, rules, strict=True):
        result = apply_rule(rule, value, operand)
        lines += [rule_line(operation, rule), f"{value} {operation} {operand} = {result}"]
        value = result
    return "\n".join([*lines, f"\\boxed{{{value}}}"]), value


def rule_line(operation: str, rule: str) -> str:
    return f"{operation} means {rule}"


def true_rules(chain: Chain) -> list[str]:
    return [TRUE_RULE[op] for op, _ in chain.steps]


def split_of(chain: Chain) -> Split:
    """Split by content: a problem is in the same split in every run, level and data set, pre-training included."""
    bucket = int.from_bytes(hashlib.sha256(chain.key().encode()).digest()[:4], "big") % 100
    return "test" if bucket < 22 else "validation" if bucket < 30 else "train"


def draw_chain(rng: random.Random, length: int, split: Split) -> Chain:
    """A random chain of distinct operations from one split. The numbers that a problem gives have no zeros."""

    def number() -> str:
        return "".join(rng.choice("123456789") for _ in range(DIGITS))

    while True:
        chain = Chain(number(), tuple(Step(op, number()) for op in rng.sample(OPERATIONS, length)))
        if split_of(chain) == split:
            return chain


SIZES: dict[Split, int] = {"train": 4000, "validation": 500, "test": 1200}


def load_problems(level: str, split: str = "train", limit: int | None = None, seed: int = 0) -> list[Problem]:
    """Distinct problems of a level and split: `limit`, or as many as SIZES says, drawn by `seed`.

    The first problems of a seed are the same whatever the limit. Raises DataInvalid for an unknown level or split.
    """
    if level not in CHAIN_LENGTH or split not in SIZES:
        known = f"{', '.join(CHAIN_LENGTH)} with the splits {', '.join(SIZES)}"
        raise DataInvalid(f"arena:{level} split {split!r} does not exist: the arena has {known}")
    rng = random.Random(f"{level}/{split}/{seed}")
    wanted = limit or SIZES[split]
    found: dict[str, Chain] = {}
    while len(found) < wanted:
        chain = draw_chain(rng, CHAIN_LENGTH[level], split)
        found.setdefault(chain.key(), chain)
    return [_problem(chain, level, split) for chain in found.values()]


def _problem(chain: Chain, level: str, split: str) -> Problem:
    solution, result = solve(chain, true_rules(chain))
    return Problem(
        problem_id=problem_hash(chain.text()),
        problem=chain.text(),
        answer=result,
        source=f"arena:{level}",
        split=split,
        solution=solution,
    )
