"""Completions from a transformers model in this process: training on a small machine, evaluation without a server.

The model's own generation settings (Qwen3 ships temperature 0.6 and top-k 20) are set aside during a call: what
`SamplingConfig` says is all that holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from sgsd.errors import ConfigError
from sgsd.generate.seeds import seeded
from sgsd.records import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import SamplingConfig


class TransformersGenerator:
    """Draws from `model` (a causal language model, with or without a PEFT adapter) as its weights are at the call."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.stop_ids = stop_token_ids(model, tokenizer)
        pad_id = tokenizer.pad_token_id
        # Padding is masked before the prompt and cut after the end, so that any token will do.
        self.pad_id = int(pad_id) if isinstance(pad_id, int) else self.stop_ids[0]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Generator.generate`. Prompts are batched by length, `sampling.batch_size` at a time."""
        if not all(prompts):
            raise ConfigError("a prompt has no tokens: the chat template rendered nothing")
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        completions: list[list[Completion]] = [[] for _ in prompts]
        with seeded(self.model.device, seed), _inference(self.model) as model:
            for start in range(0, len(by_length), sampling.batch_size):
                batch = by_length[start : start + sampling.batch_size]
                for index, drawn in zip(batch, self._draw(model, [prompts[i] for i in batch], sampling), strict=True):
                    completions[index] = drawn
                if on_progress is not None:
                    on_progress(len(batch))
        return completions

    def _draw(self, model: Any, prompts: list[Sequence[int]], sampling: SamplingConfig) -> list[list[Completion]]:
        width = max(map(len, prompts))
        device = model.device
        ids_BP = torch.tensor([[self.pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask_BP = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        drawn_NT = model.generate(
            ids_BP,
            attention_mask=mask_BP,
            generation_config=self._settings(sampling),
            synced_gpus=False,  # a process has all weights while it draws (sgsd.shards.whole), and its own prompts
        )[:, width:]
        cut = [self._cut(tokens) for tokens in drawn_NT.tolist()]
        texts = self.tokenizer.batch_decode([ids for ids, _ in cut], skip_special_tokens=True)
        flat = [Completion(tuple(ids), text, not ended) for (ids, ended), text in zip(cut, texts, strict=True)]
        return [flat[start : start + sampling.n] for start in range(0, len(flat), sampling.n)]

    def _cut(self, tokens: list[int]) -> tuple[list[int], bool]:
        """The tokens up to the first end token, that one included, and whether there is one."""
        for position, token in enumerate(tokens):
            if token in self.stop_ids:
                return tokens[: position + 1], True
        return tokens, False

    def _settings(self, sampling: SamplingConfig) -> GenerationConfig:
        drawing: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            drawing = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,  # 0 is off; left out it would be 50
            }
        return GenerationConfig(  # type: ignore[no-untyped-call]
            **drawing,
            max_new_tokens=sampling.max_new_tokens,
            num_return_sequences=sampling.n,
            eos_token_id=self.stop_ids,
            pad_token_id=self.pad_id,
            use_cache=True,
            disable_compile=True,
        )


def stop_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokenizer's end token and those of the model's generation settings (Qwen3 has two). Sorted.

    Raises ConfigError when there is none: completions would never end.
    """
    settings = getattr(model, "generation_config", None)
    named: list[Any] = [tokenizer.eos_token_id, getattr(settings, "eos_token_id", None)]
    ids = {int(i) for ids in named if ids is not None for i in (ids if isinstance(ids, list | tuple) else [ids])}
    if not ids:
        raise ConfigError("neither the tokenizer nor the model names an end token: set eos_token in the tokenizer")
    return sorted(ids)


@contextmanager
def _inference(model: Any) -> Iterator[Any]:
    """The model inside its adapter, in eval mode, without gradient, without generation settings of its own.

    Every module gets its own mode back: a caller may hold some in eval mode on purpose. Gradient checkpointing acts in
    training mode only, so the key-value cache works under it.
    """
    modes = {module: module.training for module in model.modules()}
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = inner.generation_config
    model.eval()
    inner.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad():
            yield inner
    finally:
        inner.generation_config = settings
        for module, training in modes.items():
            module.training = training
