"""What a build tells: its counts, which add up, and why nothing could be mined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from skillbank.building.harvest import Example
from skillbank.building.merging import MergeReport
from skillbank.building.spool import OTHER_SPLIT
from skillbank.records import Kind, Record, RolloutFate
from skillbank.store import BankStats

EXAMPLES = 3


class Calls(Record):
    """What was asked of a language model."""

    calls: int
    """Those of earlier builds, which the ledger has, included."""
    made: int
    prompt_tokens: int
    """Of the calls made now, as the server counted."""
    completion_tokens: int


class BuildReport(Record):
    """What a build read, made and dropped, and how long each phase took."""

    bank: str
    revision: int
    miner: str
    rollouts: int
    """Read, each id once: `accepted` and all of `rejected` and `dead`."""
    accepted: int
    """Rollouts on which an entry rests."""
    rejected: dict[str, int]
    """Reason -> rollouts that gave nothing."""
    dead: dict[str, int]
    """Reason -> rollouts whose call to the model came to nothing; `sgsd bank dead-letters` lists them."""
    seen_before: int
    """Rollouts that came again with the same id and the same content; not counted anywhere else."""
    unusable: dict[str, int]
    """Reason -> lines that are no rollout, and rollouts whose id another one has; they are in `rejected.jsonl`."""
    notices: dict[str, int]
    """What else happened to rollouts and replies -> how often."""
    problems: int
    """Of the rollouts that were mined."""
    problems_with_both: int
    """Problems with a right and a wrong attempt, the only ones that a contrast can come from."""
    pairs: int
    """Mined, after merging."""
    singles: int
    """Skills and mistakes mined without a counterpart, after merging."""
    merged: MergeReport
    quarantined: int
    """Entries added now that the guard holds back."""
    entries: dict[Kind, int]
    """In the bank now."""
    added: dict[Kind, int]
    calls: Calls | None
    embedder: str
    seconds: dict[str, float]
    examples: tuple[Example, ...]
    """The best-evidenced pairs."""


class Tally:
    """What is counted while a build goes on."""

    def __init__(self) -> None:
        self.seen_before = 0
        self.problems = self.problems_with_both = 0
        self.notices: Counter[str] = Counter()
        self.calls: Calls | None = None
        self.accepted = 0
        self.rejected: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()

    def count(self, fate: RolloutFate) -> None:
        """A rollout's last word."""
        if fate.fate == "accepted":
            self.accepted += 1
        else:
            (self.rejected if fate.fate == "rejected" else self.dead)[fate.reason] += 1

    def report(
        self,
        *,
        bank: str,
        miner: str,
        unusable: Mapping[str, int],
        merged: MergeReport,
        before: BankStats,
        after: BankStats,
        embedder: str,
        seconds: Mapping[str, float],
        examples: tuple[Example, ...],
    ) -> BuildReport:
        """`before`, `after`: what the bank held."""
        held_back = [stats.by_status.get("quarantined", 0) for stats in (before, after)]
        return BuildReport(
            bank=bank,
            revision=after.revision,
            miner=miner,
            rollouts=self.accepted + self.rejected.total() + self.dead.total(),
            accepted=self.accepted,
            rejected=_by_count(self.rejected),
            dead=_by_count(self.dead),
            seen_before=self.seen_before,
            unusable=_by_count(unusable),
            notices=_by_count(self.notices),
            problems=self.problems,
            problems_with_both=self.problems_with_both,
            pairs=merged.pairs_out,
            singles=merged.singles_out,
            merged=merged,
            quarantined=held_back[1] - held_back[0],
            entries=after.entries,
            added={kind: after.entries[kind] - before.entries[kind] for kind in after.entries},
            calls=self.calls,
            embedder=embedder,
            seconds=dict(seconds),
            examples=examples,
        )


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent first."""
    return {key: count for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count}


def nothing_mined(
    files: Sequence[Path], split: str, problems: int, problems_with_both: int, rejected: Mapping[str, int]
) -> str:
    """One line for people: why there is no bank, and what to do."""
    named = ", ".join(map(str, files))
    rejected = _by_count(rejected)
    others = {reason: count for reason, count in rejected.items() if reason.startswith(OTHER_SPLIT)}
    rollouts = sum(rejected.values()) - sum(others.values())
    if not rollouts:
        held = ", ".join(f"{count} {reason.removeprefix('rollout ')}" for reason, count in others.items())
        return f"{named}: no rollout of split {split!r}, but {held or 'none at all'}: choose another split"
    reasons = ", ".join(f"{reason}: {count}" for reason, count in rejected.items() if reason not in others)
    return (
        f"{named}: nothing mined from {rollouts} rollouts of {problems} problems, "
        f"{problems_with_both} of them with both right and wrong attempts ({reasons or 'nothing to mine'}); "
        "sample several attempts a problem, at problems that are neither too easy nor too hard"
    )
