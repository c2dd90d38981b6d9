"""The accuracy curve of a run, as its log holds it. Light: who reads a log need not load what writes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def collapsed(accuracies: Sequence[float]) -> bool:
    """True when the last two points of a curve lie below half of its best one."""
    return len(accuracies) > 2 and all(accuracy < max(accuracies) / 2 for accuracy in accuracies[-2:])


def curve_points(history: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Points {step, tokens, accuracy, ci} among the logs of a run (`TrainerState.log_history`)."""
    return tuple(
        {
            "step": log["step"],
            "tokens": int(log["eval_tokens"]),
            "accuracy": log["eval_accuracy"],
            "ci": [log["eval_low"], log["eval_high"]],
        }
        for log in history
        if "eval_accuracy" in log
    )
