"""Past rollouts in, a bank that can be retrieved from out: read, mine, merge, add, embed, index.

A new bank is built beside its place and moved there whole; an existing one gains everything in one revision. Either
way a build that stops half-way leaves what was there before, and the same rollouts a second time add nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skillbank.embed import Embedder, build_lexical_embedder
from skillbank.errors import BankExists, InvalidOption, RolloutsInvalid, RolloutsNotFound
from skillbank.index import VectorIndex
from skillbank.mine.contrast import ContrastReport, mine_contrast
from skillbank.mine.merge import MergeReport, merge_pairs
from skillbank.records import Kind, MinedPair, Record, Rollout
from skillbank.rollouts import RejectLog, read_rollouts
from skillbank.store import FILE, Bank
from skillbank.vectors import FOLDER, adopt, bank_embedder, embed_missing

if TYPE_CHECKING:
    import numpy as np

REJECTED_FILE = "rejected.jsonl"
"""In the bank's folder: the lines that the last build could not use. Absent when it could use all."""
EXAMPLES = 3

Progress = Callable[[str, int, int | None], None]
"""(phase, done, total or None when it is not known beforehand)"""


class BuildReport(Record):
    """What a build read, dropped, made, and how long each phase took."""

    bank: str
    revision: int
    rollouts: int
    """Records read and mined from, after rejected and dropped ones."""
    rejected: dict[str, int]
    """Reason -> lines that are no rollout; the lines themselves are in `rejected.jsonl`."""
    dropped: dict[str, int]
    """Reason -> number: of rollouts for reasons that start with `rollout`, of wrong attempts for the others."""
    problems: int
    problems_with_both: int
    """Problems with a right and a wrong attempt, the only ones that a contrast can come from."""
    pairs: int
    """Mined, after merging."""
    merged: MergeReport
    entries: dict[Kind, int]
    """In the bank now."""
    added: dict[Kind, int]
    embedder: str
    seconds: dict[str, float]
    examples: tuple[MinedPair, ...]
    """The best-evidenced pairs."""


def build_bank(
    rollouts: Sequence[str | Path],
    bank: str | Path,
    *,
    embedder: str | None = None,
    miner: Literal["contrast"] = "contrast",
    merge_cosine: float = 0.95,
    split: str = "train",
    on_progress: Progress | None = None,
) -> BuildReport:
    """Mine the rollouts of `split` in the files into the bank, make its vectors and its index.

    Without `embedder` a new bank gets a lexical one of its own and an existing one keeps what it has; naming one makes
    it the bank's. Raises RolloutsNotFound, RolloutsInvalid, EmbedderNotFound, BankExists (the folder holds something
    else), BankCorrupt, InvalidOption.
    """
    target = Path(bank)
    if miner != "contrast":
        raise InvalidOption(f"miner is {miner!r}: choose 'contrast'")
    if not -1 <= merge_cosine <= 1:
        raise InvalidOption(f"merge_cosine is {merge_cosine}: it must be between -1 and 1")
    if not rollouts:
        raise RolloutsNotFound("no rollout file is named; name at least one JSONL or parquet file of past rollouts")
    build = _Build(embedder, merge_cosine, split, on_progress or _silent)
    files = [Path(file) for file in rollouts]
    if (target / FILE).exists():
        return build.run(files, target, target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BankExists(f"{target} exists and is no bank; name an empty or a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=target.parent))
    try:
        report = build.run(files, folder, target)
        folder.chmod(0o755)  # mkdtemp keeps others out
        os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _silent(phase: str, done: int, total: int | None) -> None:
    """For callers who show no progress."""


class _Build:
    """One build: its settings, and what is gathered on the way for the report."""

    def __init__(self, embedder: str | None, merge_cosine: float, split: str, on_progress: Progress) -> None:
        self.embedder, self.merge_cosine, self.split, self.on_progress = embedder, merge_cosine, split, on_progress
        self.dropped: Counter[str] = Counter()
        self.problems: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def run(self, files: Sequence[Path], folder: Path, target: Path) -> BuildReport:
        """Build in `folder`; messages and the report speak of `target`."""
        named = None if self.embedder is None else Embedder.load(self.embedder)  # fails before the long work
        new = not (folder / FILE).exists()
        with RejectLog(folder / REJECTED_FILE) as rejects:
            with self._phase("read"):
                read = list(self._read(files, rejects))
            with self._phase("mine"):
                mined, contrast = mine_contrast(read)
            if new and not mined:
                raise RolloutsInvalid(_nothing_mined(files, contrast, self.split, self.dropped))
            with self._phase("merge"):
                pairs, merged = merge_pairs(mined, encode=self._encoder(named, mined), min_cosine=self.merge_cosine)
            with Bank.open_or_create(folder) as bank:
                before = bank.stats().entries
                with self._phase("store"):
                    names = ", ".join(file.name for file in files)
                    bank.add_mined(pairs, actor="miner", reason=f"contrast over {names}")
                with self._phase("embed"):
                    own = self._own_embedder(bank)
                    embed_missing(bank, own, lambda done, total: self.on_progress("embed", done, total))
                with self._phase("index"):
                    VectorIndex.open(bank, own)
                entries, revision = bank.stats().entries, bank.revision
        return BuildReport(
            bank=str(target),
            revision=revision,
            rollouts=contrast.rollouts,
            rejected=dict(sorted(rejects.counts.items())),
            dropped=dict(sorted((self.dropped + Counter(contrast.dropped)).items())),
            problems=contrast.problems,
            problems_with_both=contrast.problems_with_both,
            pairs=len(pairs),
            merged=merged,
            entries=entries,
            added={kind: entries[kind] - before[kind] for kind in entries},
            embedder=own.describe(),
            seconds=self.seconds,
            examples=_examples(pairs),
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self.on_progress(name, 0, None)
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)

    def _read(self, files: Sequence[Path], rejects: RejectLog) -> Iterator[Rollout]:
        """The rollouts of all files to mine from: of the split, each id once."""
        seen: set[str] = set()
        for file in files:
            for number, rollout in enumerate(read_rollouts(file, on_reject=rejects), start=1):
                if number % 1000 == 0:
                    self.on_progress("read", number, None)
                if rollout.split != self.split:
                    self.dropped[f"rollout of split {rollout.split}"] += 1
                elif rollout.rollout_id in seen:
                    self.dropped["rollout id seen before"] += 1
                else:
                    seen.add(rollout.rollout_id)
                    self.problems[rollout.problem_id] = rollout.problem
                    yield rollout

    def _encoder(
        self, named: Embedder | None, mined: Sequence[MinedPair]
    ) -> Callable[[Sequence[str]], np.ndarray[Any, np.dtype[np.float32]]]:
        """What tells the merger how near two texts are: the named embedder, else a lexical one of the mined texts.

        Never the bank's own: whether two new texts merge must not depend on what the bank held before, or the same
        rollouts a second time would merge in another way and add to the bank.
        """

        def encode(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
            if named is not None:
                return named.encode_documents(texts)
            with tempfile.TemporaryDirectory() as folder:
                words = [*self.problems.values(), *(t.text() for pair in mined for t in (pair.skill, pair.mistake))]
                build_lexical_embedder(folder, words)
                return Embedder.load(folder, device="cpu").encode_documents(texts)

        return encode

    def _own_embedder(self, bank: Bank) -> Embedder:
        if self.embedder is None or self.embedder == FOLDER:
            return bank_embedder(bank, problems=self.problems.values())
        return adopt(bank, self.embedder)


def _examples(pairs: Sequence[MinedPair]) -> tuple[MinedPair, ...]:
    """The best-evidenced pairs, of different skills."""
    best: dict[str, MinedPair] = {}
    for pair in sorted(pairs, key=_evidence_count, reverse=True):
        best.setdefault(pair.skill.title, pair)
    return tuple(best.values())[:EXAMPLES]


def _evidence_count(pair: MinedPair) -> int:
    return len(pair.skill_evidence) + len(pair.mistake_evidence)


def _nothing_mined(files: Sequence[Path], contrast: ContrastReport, split: str, dropped: Mapping[str, int]) -> str:
    named = ", ".join(map(str, files))
    if not contrast.rollouts:
        held = ", ".join(f"{count} {reason.replace('rollout of', 'of')}" for reason, count in dropped.items())
        return f"{named}: no rollout of split {split!r}, but {held or 'none at all'}: choose another split"
    reasons = ", ".join(f"{reason}: {count}" for reason, count in contrast.dropped.items())
    return (
        f"{named}: no pair in {contrast.rollouts} rollouts of {contrast.problems} problems, "
        f"{contrast.problems_with_both} of them with both right and wrong attempts ({reasons or 'nothing to mine'}); "
        "sample several attempts a problem, at problems that are neither too easy nor too hard"
    )
