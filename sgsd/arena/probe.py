"""Is the base still the organism it is meant to be? Accuracy by level, plain and under guidance."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sgsd.arena.corpus import all_right_lessons
from sgsd.arena.tasks import CHAIN_LENGTH, Chain, draw_chain, solve, true_rules
from sgsd.prompts import Guidance, guided_user_text, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM


def probe(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, problems: int = 400, seed: int = 0
) -> Iterator[str]:
    """One line a level: greedy and sampled accuracy, plain and with all right lessons."""
    for level, length in CHAIN_LENGTH.items():
        rng = random.Random(seed)
        chains = [draw_chain(rng, length, "validation") for _ in range(problems)]
        lessons = [all_right_lessons(chain, rng) for chain in chains]
        plain: list[list[Guidance]] = [[] for _ in chains]
        yield (
            f"{level}: plain greedy {accuracy(model, tokenizer, chains, plain):.3f}, "
            f"sampled {accuracy(model, tokenizer, chains, plain, temperature=1.0):.3f}; "
            f"all right lessons greedy {accuracy(model, tokenizer, chains, lessons):.3f}, "
            f"sampled {accuracy(model, tokenizer, chains, lessons, temperature=1.0):.3f}"
        )


def accuracy(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    chains: list[Chain],
    lessons: list[list[Guidance]],
    temperature: float = 0.0,
) -> float:
    """Share of exactly right completions, lesson by lesson; generated in batches of equal prompt length."""
    import torch

    prompts = [render(tokenizer, guided_user_text(c.text(), g)) for c, g in zip(chains, lessons, strict=True)]
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    right = 0
    for members in by_length.values():
        ids = torch.tensor([prompts[i] for i in members])
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=16 * max(len(chains[i].steps) for i in members),
                do_sample=temperature > 0,
                pad_token_id=tokenizer.pad_token_id,
            )
        for i, row in zip(members, out[:, ids.shape[1] :].tolist(), strict=True):
            text = tokenizer.decode(row, skip_special_tokens=True)
            _, result = solve(chains[i], true_rules(chains[i]))
            right += text.rstrip().endswith(f"\\boxed{{{result}}}")
    return right / len(chains)
