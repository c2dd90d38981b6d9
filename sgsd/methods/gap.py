"""How far an engine that drew completions is from the trainer that scores them.

Engine and trainer hold the same weights and compute them apart: other kernels, other orders of summation, another
precision. The gap is logged and nothing else; the student's log-probs are always the trainer's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sgsd.teachers import Example


@dataclass(frozen=True)
class EngineGap:
    """|log p by the engine - log p by the trainer| of drawn tokens, both at temperature 1 over the whole vocabulary."""

    total_nats: float
    highest_nats: float
    tokens: int


def engine_gap(examples: Sequence[Example], student_BT: Tensor) -> EngineGap | None:
    """The gap over the examples whose engine told log-probs, None without any.

    `student_BT` is the trainer's, 0 beyond a completion.
    """
    told = [example.rollout.completion.logprobs for example in examples]
    rows = [b for b, logprobs in enumerate(told) if logprobs]
    if not rows:
        return None
    parts = [torch.tensor(told[b], dtype=student_BT.dtype) for b in rows]
    engine_RT = pad_sequence(parts, batch_first=True).to(student_BT.device)
    gaps_RT = (engine_RT - student_BT.detach()[rows, : engine_RT.shape[1]]).abs()  # 0 - 0 in the padding
    total, highest = torch.stack([gaps_RT.sum(), gaps_RT.max()]).tolist()
    return EngineGap(total, highest, sum(map(len, parts)))
