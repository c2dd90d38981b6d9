"""A loss that is the mean, over all completion tokens of an optimiser step, of something made of each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from sgsd.methods.base import MethodResult, Window
from sgsd.score import ScoreRow, score
from sgsd.teachers import Example

COUNTED = ("loss_tokens", "token_loss")

TokenLosses = Callable[[nn.Module, Sequence[ScoreRow], Sequence[Example]], Tensor]
"""(student, its rows, their examples) -> [B, T], 0 beyond a row's completion, with gradient in the student."""


def mean_over_tokens(
    model: nn.Module, batch: Sequence[Example], window: Window, token_losses: TokenLosses
) -> MethodResult:
    """The part of a micro-batch in the mean over the window's tokens; of `batch`, what no teacher has read adds none.

    Where nothing teaches, the shortest row passes and a zero goes back through the graph: under DDP the other ranks
    wait for this one's gradients.
    """
    examples = [example for example in batch if example.scored]
    if not examples:
        shortest = min(batch, key=lambda example: len(example.rollout.prompt_ids) + len(example))
        row = shortest.row(shortest.rollout.prompt_ids)
        zero = 0.0 * score(model, [row], grad=True).sum()
        return MethodResult(zero, dict.fromkeys(COUNTED, 0.0))
    rows = [example.row(example.rollout.prompt_ids) for example in examples]
    total = token_losses(model, rows, examples).sum()
    sums = {"loss_tokens": float(sum(map(len, examples))), "token_loss": total.item()}
    return MethodResult(total / max(1, window.tokens), sums)


def mean_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    return {"token_loss": sums["token_loss"] / max(1.0, sums["loss_tokens"])}
