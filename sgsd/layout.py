"""Rows of tokens to tensors that a decoder reads in one pass.

A row is [prompt | completion]. Where the attention takes sequences of unequal lengths, as flash attention does, the
rows of a pass lie end to end in one row without padding, each with positions of its own. Elsewhere they are padded to
the longest behind their completions, where no token that counts can see: a causal model needs no mask for it, and
without one the attention kernels take their fast way. A mask that keeps packed rows apart costs more than padding
(docs/benchmarks.md). Rows of like length pass together, and passes are as even as their number allows.

`_N` runs over all completion tokens of a pass, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sgsd.errors import ConfigError

PASS_TOKENS = 16_384
"""Tokens of one pass on an accelerator, unless told otherwise."""
CPU_PASS_TOKENS = 2_048
"""On a CPU: above it the activations of a layer leave the cache, and a token takes longer."""


@dataclass(frozen=True)
class ScoreRow:
    """A completion and the prompt to read it under. The prompt has at least one token, the completion may have none."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class Pass:
    """The rows of one forward pass."""

    inputs: dict[str, Tensor | int]
    """What the decoder is given: input_ids and position_ids, [rows, longest] or [1, all tokens]; for packed rows also
    where they begin, so that no layer has to look for it."""
    here_N: Tensor
    """The row of `inputs`."""
    position_N: Tensor
    """The place in it whose hidden state predicts the token."""
    target_N: Tensor
    row_N: Tensor
    """Row within the call."""
    token_N: Tensor
    """Index within the completion."""


def takes_packed_rows(model: PreTrainedModel) -> bool:
    """True where attention keeps the rows of a packed pass apart at no cost, and no layer carries a state along."""
    attention = model.config.get_text_config()._attn_implementation or ""
    return "flash" in attention and not model._is_stateful


def default_budget(device: torch.device) -> int:
    return CPU_PASS_TOKENS if device.type == "cpu" else PASS_TOKENS


def micro_batches(lengths: Sequence[int], token_budget: int | None, *, packed: bool = False) -> list[list[int]]:
    """Indices of the rows of each pass, longest first.

    A pass keeps to the budget in tokens, those of its padding counted unless rows are `packed`; a longer row goes
    alone; None is one pass for all. The number of passes is what filling one after the other gives; then the tokens of
    the fullest are made as few as that number allows.
    """
    if token_budget is not None and token_budget < 1:
        raise ConfigError(f"token_budget = {token_budget} is below 1: give the tokens of one forward pass")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    if token_budget is None or not order:
        return [order] if order else []
    wanted = len(_filled(order, lengths, token_budget, packed))
    low, high = 1, token_budget
    while low < high:
        middle = (low + high) // 2
        if len(_filled(order, lengths, middle, packed)) <= wanted:
            high = middle
        else:
            low = middle + 1
    return _filled(order, lengths, high, packed)


def _filled(order: Sequence[int], lengths: Sequence[int], budget: int, packed: bool) -> list[list[int]]:
    passes: list[list[int]] = []
    room = cost = 0
    for index in order:
        if packed or not passes:
            cost = lengths[index]
        if not passes or room < cost:
            passes.append([])
            room, cost = budget, lengths[index]  # of padded rows the first is the longest, and what each one costs
        passes[-1].append(index)
        room -= cost
    return passes


def lay_out(rows: Sequence[ScoreRow], part: Sequence[int], device: torch.device, *, packed: bool) -> Pass:
    """The rows of `part` as one pass."""
    chosen = [rows[index] for index in part]
    lengths = torch.tensor([len(row) for row in chosen])
    longest = int(lengths.max())
    begins: dict[str, Tensor | int] = {}
    if packed:
        ids = torch.tensor([list(chain.from_iterable((*row.prompt_ids, *row.completion_ids) for row in chosen))])
        positions = torch.cat([torch.arange(len(row)) for row in chosen])[None]
        starts = torch.tensor(list(accumulate(map(len, chosen), initial=0)), dtype=torch.int32)
        # Under these names transformers hands them to flash attention, queries and keys alike.
        begins = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}
        first = starts[:-1].long()
        row_of = torch.zeros(len(chosen), dtype=torch.int64)
    else:
        ids = torch.zeros(len(chosen), longest, dtype=torch.int64)  # any id serves as padding
        for i, row in enumerate(chosen):
            ids[i, : len(row)] = torch.tensor([*row.prompt_ids, *row.completion_ids])
        positions = torch.arange(longest).expand(ids.shape)
        first = torch.zeros(len(chosen), dtype=torch.int64)
        row_of = torch.arange(len(chosen))
    counts = torch.tensor([len(row.completion_ids) for row in chosen])
    which_N = torch.repeat_interleave(torch.arange(len(chosen)), counts)
    token_N = torch.cat([torch.arange(int(n)) for n in counts])
    before_N = (first + torch.tensor([len(row.prompt_ids) - 1 for row in chosen]))[which_N]
    here_N, position_N = row_of[which_N], before_N + token_N
    inputs: dict[str, Tensor | int] = {"input_ids": ids, "position_ids": positions, **begins}
    return Pass(
        inputs={name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()},
        here_N=here_N.to(device),
        position_N=position_N.to(device),
        target_N=ids[here_N, position_N + 1].to(device),
        row_N=torch.tensor(part)[which_N].to(device),
        token_N=token_N.to(device),
    )
