"""Mining by a language model: rollouts of a problem in, validated skills, mistakes and pairs out, and every fate told.

STUB of the signatures; the bodies follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import Field

from skillbank.mine.complete import Complete
from skillbank.mine.ledger import Ledger
from skillbank.records import MinedEntry, MinedPair, Record, Rollout, RolloutFate


class ExtractSettings(Record):
    """How rollouts are shown to the writer, and what is asked of it."""

    max_items: int = Field(3, ge=1)
    """Skills, mistakes or pairs of one call."""
    attempts_shown: int = Field(4, ge=1)
    """Right attempts, and wrong ones, in one call; what is over that is rejected and counted."""
    max_characters: int = Field(6000, ge=200)
    """A longer problem or attempt is shortened in its middle, with a mark, and counted."""
    show_reference: bool = False
    """Shows the writer the reference answer, which may then leak into entries."""
    prompts: tuple[Path, ...] = ()
    """Files named like those of `skillbank/mine/prompts`, or folders of such, in their place."""
    max_tokens: int = Field(2048, ge=1)
    """Of a reply."""
    temperature: float | None = Field(0.0, ge=0)
    seed: int | None = None


class Plan(Record):
    """What a build by a model would do; nothing is called for it."""

    groups: int
    rollouts: int
    rejected: dict[str, int]
    """Reason -> rollouts that no call would show."""
    calls: dict[str, int]
    """Kind (skills, mistakes, pairs) -> number, those in the ledger included."""
    calls_in_ledger: int
    calls_to_make: int
    prompt_tokens: int
    """Of the calls to make, without repairs."""
    max_completion_tokens: int
    """Of the calls to make: their number times `max_tokens`."""
    tokens_by: str
    """How tokens were counted: "characters / 4", or "tokenizer"."""
    notices: dict[str, int]
    """What was shortened, by reason."""


class Mined(Record):
    """What came of the rollouts of one problem."""

    problem_id: str
    items: tuple[MinedPair | MinedEntry, ...]
    fates: tuple[RolloutFate, ...]
    """One for every rollout of the group; `file` is left for the caller to fill in."""
    notices: dict[str, int]
    """What was shortened, left out or not found, by reason."""
    calls: int = 0
    calls_made: int = 0
    """Those that the ledger did not have."""
    prompt_tokens: int = 0
    """Of the calls made now."""
    completion_tokens: int = 0


OnProgress = Callable[[int], None]
"""Number of groups that are done."""


class ModelMiner:
    """Mines groups of rollouts with `complete`, keeping every finished call in the ledger."""

    def __init__(self, complete: Complete, settings: ExtractSettings, ledger: Ledger) -> None:
        self.complete, self.settings, self.ledger = complete, settings, ledger

    def plan(self, groups: Iterable[Sequence[Rollout]], count_tokens: Callable[[str], int] | None = None) -> Plan:
        """Counts what `mine` would do."""
        raise NotImplementedError

    def mine(self, groups: Iterable[Sequence[Rollout]], on_progress: OnProgress | None = None) -> Iterator[Mined]:
        """One `Mined` a group, in the order of the groups. A group holds all rollouts of one problem.

        Must not be iterated inside a transaction of the ledger's bank: finished calls are committed as they come.
        Raises EndpointUnavailable, CompletionRefused (wrong key or model); the ledger keeps what was finished.
        """
        raise NotImplementedError
