r"""The task family: chains of made-up operations on three-digit codes.

A problem reads `What is blick of zorp of 527?`: operations apply from right to left, as functions do. Each operation
has one true rule, which no problem tells. A solution names the rule of an operation on one line and applies it on the
next:

    zorp means triple
    527 becomes 561
    blick means rotate
    561 becomes 615
    \boxed{615}

Left out on purpose: several phrasings, operations of two arguments. What is hard here is knowing the rules.
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

DIGITS = 3
CHAIN_LENGTH: dict[Level, int] = {"easy": 1, "medium": 2, "hard": 4}


def _each(digit: Callable[[int], int]) -> Callable[[str], str]:
    return lambda code: "".join(str(digit(int(d)) % 10) for d in code)


# Names are one word each, so that one token decides which rule a solution follows. All are invertible and few commute:
# a chain with a wrong rule in it almost never ends right.
RULES: dict[str, Callable[[str], str]] = {
    "reverse": lambda code: code[::-1],
    "triple": _each(lambda d: 3 * d),
    "rotate": lambda code: code[1:] + code[:1],
    "complement": _each(lambda d: 9 - d),
    "increase": _each(lambda d: d + 3),
    "neighbour": _each(lambda d: d ^ 1),
}
"""`triple` and `increase` (by 3) are modulo 10; `complement` is 9 - d; `neighbour` exchanges 0 and 1, 2 and 3 ..."""

TRUE_RULE: dict[str, str] = {
    "zorp": "triple",
    "blick": "rotate",
    "quone": "reverse",
    "dax": "neighbour",
    "wug": "increase",
    "fep": "complement",
    "tiv": "reverse",
    "mulk": "neighbour",
    "narb": "triple",
    "gleeb": "increase",
    "snarf": "rotate",
    "plim": "complement",
}
OPERATIONS = tuple(TRUE_RULE)


class Chain(NamedTuple):
    """A problem: a code and the operations applied to it, the first one first."""

    code: str
    operations: tuple[str, ...]

    def text(self) -> str:
        return f"What is {' of '.join(reversed(self.operations))} of {self.code}?"


def solve(chain: Chain, rules: Sequence[str]) -> tuple[str, str]:
    """The solution text and result when operation i follows `rules[i]`."""
    lines, code = [], chain.code
    for operation, rule in zip(chain.operations, rules, strict=True):
        result = RULES[rule](code)
        lines += [rule_line(operation, rule), f"{code} becomes {result}"]
        code = result
    return "\n".join([*lines, f"\\boxed{{{code}}}"]), code


def rule_line(operation: str, rule: str) -> str:
    return f"{operation} means {rule}"


def true_rules(chain: Chain) -> list[str]:
    return [TRUE_RULE[op] for op in chain.operations]


def split_of(chain: Chain) -> Split:
    """Split by content: a problem is in the same split in every run, level and data set, pre-training included."""
    bucket = int.from_bytes(hashlib.sha256(chain.text().encode()).digest()[:4], "big") % 100
    return "test" if bucket < 22 else "validation" if bucket < 30 else "train"


def draw_chain(rng: random.Random, length: int, split: Split) -> Chain:
    """A random chain of distinct operations from one split, on a code of distinct digits without a zero."""
    while True:
        chain = Chain("".join(rng.sample("123456789", DIGITS)), tuple(rng.sample(OPERATIONS, length)))
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
        found.setdefault(chain.text(), chain)
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
