"""One protocol for drawing completions, whatever draws them. Used by rollout, training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sgsd.records import Completion

if TYPE_CHECKING:
    from sgsd.config import SamplingConfig


class Generator(Protocol):
    """What turns prompts into completions."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`sampling.n` completions of each prompt (token ids), in the order of the prompts.

        The same prompts, sampling, seed and weights give the same completions, whatever ran before; the caller's random
        state is left alone. A completion ends with its end token, or is `truncated` at `sampling.max_new_tokens`.
        `on_progress` is called with the number of prompts that were finished since its last call.
        """
        ...


@runtime_checkable
class Engine(Generator, Protocol):
    """A generator that draws from weights of its own, copies of the student's."""

    def weights_changed(self) -> None:
        """The student has other weights now: they are pushed before the next draw. Every rank must say so."""
        ...

    def close(self) -> None:
        """Give memory, processes and connections back. It does not draw any more."""
        ...
