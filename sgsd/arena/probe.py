"""Is the base still the organism it is meant to be? Accuracy by level, plain and under guidance."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sgsd.arena.corpus import all_right_lessons
from sgsd.arena.settings import sampling
from sgsd.arena.tasks import CHAIN_LENGTH, Chain, draw_chain, solve, true_rules
from sgsd.generate.transformers import TransformersGenerator
from sgsd.prompts import Guidance, guided_user_text, render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def probe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: int = 400) -> Iterator[str]:
    """One line a level: greedy and sampled accuracy, plain and with all right lessons."""
    generator = TransformersGenerator(model, tokenizer)
    for level, length in CHAIN_LENGTH.items():
        rng = random.Random(0)
        chains = [draw_chain(rng, length, "validation") for _ in range(problems)]
        lessons = [all_right_lessons(chain, rng) for chain in chains]
        none: list[list[Guidance]] = [[] for _ in chains]
        shares = [accuracy(generator, chains, given, heat) for given in (none, lessons) for heat in (0.0, 1.0)]
        yield "{}: plain greedy {:.3f}, sampled {:.3f}; all right lessons greedy {:.3f}, sampled {:.3f}".format(
            level, *shares
        )


def accuracy(
    generator: TransformersGenerator,
    chains: Sequence[Chain],
    lessons: Sequence[Sequence[Guidance]],
    temperature: float = 0.0,
) -> float:
    """Share of the chains whose completion ends in the right box; `lessons[i]` stands before chain i."""
    prompts = [
        render(generator.tokenizer, guided_user_text(chain.text(), given))
        for chain, given in zip(chains, lessons, strict=True)
    ]
    drawn = generator.generate(prompts, sampling("hard", temperature=temperature), seed=0)
    results = [solve(chain, true_rules(chain))[1] for chain in chains]
    right = [c[0].text.rstrip().endswith(f"\\boxed{{{r}}}") for c, r in zip(drawn, results, strict=True)]
    return sum(right) / len(right)
