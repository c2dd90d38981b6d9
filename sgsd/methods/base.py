"""What a method is to the trainer: a pool of teachers, an objective, and perhaps a ledger.

The trainer calls `pool` and `objective.score_teachers` once an optimiser step, `objective.loss` once a micro-batch.
What came of it goes to the `ledger`, and so back to the bank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from sgsd.ledger import UsageLedger
from sgsd.methods.gap import EngineGap
from sgsd.objectives.gated import GatedDiagnostics
from sgsd.teachers import Example, TeacherPool


@dataclass(frozen=True)
class MethodResult:
    """Of one micro-batch: the loss, sums for the log, and what each teacher of each judged example did."""

    loss: Tensor
    sums: dict[str, float]
    """Numbers that add up over micro-batches and ranks."""
    judged: tuple[Example, ...] = ()
    diagnostics: GatedDiagnostics | None = None
    """Of `judged`, where teachers are judged."""
    placebo: GatedDiagnostics | None = None
    """What their placebos did, K = 1: of those of `judged` that have one. No part of the loss."""
    gap: EngineGap | None = None
    """Of the engine that drew, where its log-probs of the drawn tokens are told and the trainer's are at hand."""


@dataclass(frozen=True)
class Window:
    """What an optimiser step holds, over all micro-batches and ranks: losses are divided by it, so that no split of the
    step changes them."""

    examples: int
    tokens: int
    """Of the completions."""


class Objective(Protocol):
    """What turns teachers' opinions into a loss."""

    @property
    def teacher_network(self) -> nn.Module | None:
        """Another network that teaches; None where the student's own does."""
        ...

    @property
    def counted(self) -> Sequence[str]:
        """Names of the sums that `loss` returns, the same on every rank."""
        ...

    def score_teachers(self, model: nn.Module, examples: Sequence[Example]) -> list[Example]:
        """The examples of a window with their teachers' scores. No gradient."""
        ...

    def loss(self, model: nn.Module, batch: Sequence[Example], window: Window) -> MethodResult:
        """The part of a micro-batch in the loss of an optimiser step."""
        ...

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What the log shows of these sums over a step: means and shares."""
        ...


@dataclass(frozen=True)
class Method:
    """What the trainer needs to know of a method."""

    name: str
    pool: TeacherPool
    objective: Objective
    ledger: UsageLedger | None = None
    close: Callable[[], None] = lambda: None
    """Gives back what the teachers hold."""
