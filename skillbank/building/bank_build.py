"""Past rollouts in, a bank that can be retrieved from out: read, mine, merge, add, embed, index.

A new bank is built beside its place and moved there whole; an existing one gains everything in one revision. Either
way a build that stops half-way leaves what was there before, and the same rollouts a second time add nothing. A build
that was killed is begun again and ends in the same bank; calls of a language model that were finished are not repeated.
Memory does not grow with the rollouts, only with the texts that are embedded.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from sqlite3 import Connection
from typing import TYPE_CHECKING, Any, Literal, Protocol

from skillbank.building.guarding import contexts, guard_of
from skillbank.building.harvest import Harvest
from skillbank.building.intake import take_in
from skillbank.building.merging import merge
from skillbank.building.miners import Contrasting, Extracting, Groups, Miner
from skillbank.building.report import EXAMPLES, BuildReport, Tally, nothing_mined
from skillbank.building.site import REJECTED_FILE, Site
from skillbank.building.spool import Spool, scratch
from skillbank.errors import InvalidOption, RolloutsInvalid, RolloutsNotFound
from skillbank.guard import Guard, register
from skillbank.guard.rules import flags_of
from skillbank.index import VectorIndex
from skillbank.index.embed import Embedder, build_lexical_embedder
from skillbank.index.vectors import FOLDER, adopt, bank_embedder, embed_missing
from skillbank.mine.contrast import MinedProblem, mine_problem
from skillbank.mine.model.answer import Mined
from skillbank.mine.model.complete import Complete
from skillbank.mine.model.extract import ExtractSettings, ModelMiner
from skillbank.mine.model.ledger import Ledger
from skillbank.records import Flag, Record, Rollout, RolloutFate
from skillbank.rollouts import OnReject, Reading, RejectLog
from skillbank.store import Bank
from skillbank.store.mined import add_mined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Build", "BuildReport", "BuildSettings", "Engine", "Local", "build_bank"]

Progress = Callable[[str, int, int | None], None]
"""(phase, done, total or None when it is not known beforehand)"""
COLLECT_FROM = 100_000
"""Objects, in place of Python's 700 or 2,000."""
MinerName = Literal["contrast", "model"]


class BuildSettings(Record):
    """What a build does, whatever mines and wherever it runs."""

    embedder: str | None = None
    """Without one a new bank gets a lexical one of its own and an existing one keeps what it has."""
    merge_cosine: float = 0.95
    split: str = "train"
    """Rollouts of other splits are rejected."""
    reading: Reading = Reading()
    evaluations: tuple[Path, ...] = ()
    """Files of evaluation problems for the bank's registry, which the guard keeps entries apart from."""


class Engine(Protocol):
    """Where the work is done: `Local`, or a cluster (`sharded.py`). Results do not depend on it."""

    def read(self, files: Sequence[Path], reading: Reading, on_reject: OnReject) -> Iterator[tuple[Path, Rollout]]:
        """The rollouts of all files, in order."""
        ...

    def contrasts(self, groups: Groups) -> Iterator[MinedProblem]:
        """`mine_problem` of every group."""
        ...

    def extracts(
        self, complete: Complete, settings: ExtractSettings, ledger: Ledger
    ) -> Callable[[Groups], Iterator[Mined]]:
        """What does as `ModelMiner.mine`."""
        ...

    def flags(self, guard: Guard, bank: Bank, ids: Sequence[int]) -> Iterator[tuple[int, Sequence[Flag]]]:
        """(id, flags) of those of these skills and mistakes that the guard flags."""
        ...

    def embed(self, bank: Bank, embedder: Embedder, on_progress: Callable[[int, int], None]) -> None:
        """Gives every retrievable entry its vector."""
        ...


class Local:
    """Everything in this process."""

    def read(self, files: Sequence[Path], reading: Reading, on_reject: OnReject) -> Iterator[tuple[Path, Rollout]]:
        for file in files:
            for rollout in reading.rollouts(file, on_reject):
                yield file, rollout

    def contrasts(self, groups: Groups) -> Iterator[MinedProblem]:
        return map(mine_problem, groups)

    def extracts(
        self, complete: Complete, settings: ExtractSettings, ledger: Ledger
    ) -> Callable[[Groups], Iterator[Mined]]:
        return ModelMiner(complete, settings, ledger).mine

    def flags(self, guard: Guard, bank: Bank, ids: Sequence[int]) -> Iterator[tuple[int, Sequence[Flag]]]:
        for entry_id, context in contexts(guard, bank, ids):
            if found := list(flags_of(context, guard.rules)):
                yield entry_id, found

    def embed(self, bank: Bank, embedder: Embedder, on_progress: Callable[[int, int], None]) -> None:
        embed_missing(bank, embedder, on_progress)


def build_bank(
    rollouts: Sequence[str | Path],
    bank: str | Path,
    *,
    embedder: str | None = None,
    miner: MinerName = "contrast",
    complete: Complete | None = None,
    extract: ExtractSettings | None = None,
    merge_cosine: float = 0.95,
    split: str = "train",
    reading: Reading | None = None,
    evaluations: Sequence[str | Path] = (),
    engine: Engine | None = None,
    on_progress: Progress | None = None,
) -> BuildReport:
    """Mine the rollouts of `split` in the files into the bank, make its vectors and its index.

    The miner `model` asks `complete`, as `extract` says. Without `embedder` a new bank gets a lexical one of its own
    and an existing one keeps what it has; naming one makes it the bank's. Files of `evaluations` join the bank's
    registry before anything enters it.

    Raises RolloutsNotFound, RolloutsInvalid, EmbedderNotFound, BankExists (the folder holds something else), BankBusy
    (another build of this bank), BankCorrupt, InvalidOption, and what `ModelMiner.mine` raises.
    """
    if miner not in ("contrast", "model"):
        raise InvalidOption(f"miner is {miner!r}: choose 'contrast' or 'model'")
    if (miner == "model") != (complete is not None):
        raise InvalidOption("the miner 'model', and no other, asks a language model: give `complete` with it alone")
    if not -1 <= merge_cosine <= 1:
        raise InvalidOption(f"merge_cosine is {merge_cosine}: it must be between -1 and 1")
    if not rollouts:
        raise RolloutsNotFound("no rollout file is named; name at least one JSONL or parquet file of past rollouts")
    settings = BuildSettings(
        embedder=embedder,
        merge_cosine=merge_cosine,
        split=split,
        reading=reading or Reading(),
        evaluations=tuple(map(Path, evaluations)),
    )
    where = engine or Local()
    with Site(Path(bank)) as site:
        with site.open_bank() as opened, closing(scratch(site.spool)) as connection:
            mining: Miner = Contrasting(where.contrasts)
            if complete is not None:
                mining = Extracting(where.extracts(complete, extract or ExtractSettings(), Ledger(opened.db)))
            build = Build(settings, where, mining, site, opened, connection, on_progress or _silent)
            with _few_collections():
                report = build.run([Path(file) for file in rollouts])
        site.finish()
    return report


@contextmanager
def _few_collections() -> Iterator[None]:
    """What a build allocates dies by itself; looking for cycles in it takes a fifth of the time of mining."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_FROM, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _silent(phase: str, done: int, total: int | None) -> None:
    """For callers who show no progress."""


class Build:
    """One build, from its files to its report."""

    def __init__(
        self,
        settings: BuildSettings,
        engine: Engine,
        miner: Miner,
        site: Site,
        bank: Bank,
        connection: Connection,
        on_progress: Progress,
    ) -> None:
        self.settings, self.engine, self.miner = settings, engine, miner
        self.site, self.bank, self.on_progress = site, bank, on_progress
        self.spool, self.harvest = Spool(connection), Harvest(connection)
        self.tally = Tally()
        self.seconds: dict[str, float] = {}
        self._named: Embedder | None = None
        self._embedding_s = 0.0

    def run(self, files: Sequence[Path]) -> BuildReport:
        """Messages and the report speak of the site's target, whatever folder the bank grows in."""
        if self.settings.embedder is not None:
            with self._phase("embed"):
                self._named = Embedder.load(self.settings.embedder)  # fails before the long work
        before = self.bank.stats()
        with RejectLog(self.site.folder / REJECTED_FILE) as rejects:
            with self._phase("read"):
                for file in self.settings.evaluations:
                    register(self.bank, file)
                take_in(
                    self.engine.read(files, self.settings.reading, rejects),
                    self.spool,
                    split=self.settings.split,
                    bank=None if self.site.new else self.bank,
                    rejects=rejects,
                    tally=self.tally,
                    on_rollouts=lambda done: self.on_progress("read", done, None),
                )
            with self._phase("mine"):
                self.miner.mine(self.spool, self.harvest, self.tally, lambda done: self.on_progress("mine", done, None))
                self.spool.settle(self.harvest.bearing())
            if self.site.new and not self.harvest.count():
                raise RolloutsInvalid(self._nothing_mined(files))
            with self._phase("merge"):
                merged = merge(self.harvest, self._encode, self.settings.merge_cosine, self.miner.merge_by)
            with self._phase("store"):
                self._store(files)
            with self._phase("embed"):
                own = self._own_embedder()
                self.engine.embed(self.bank, own, lambda done, total: self.on_progress("embed", done, total))
            with self._phase("index"):
                VectorIndex.open(self.bank, own)
        return self.tally.report(
            bank=str(self.site.target),
            miner=self.miner.name,
            unusable=rejects.counts,
            merged=merged,
            before=before,
            after=self.bank.stats(),
            embedder=own.describe(),
            seconds=self.seconds,
            examples=self.harvest.examples(EXAMPLES),
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Times a phase. What is embedded in order to merge counts as embedding."""
        started, embedding_s = time.perf_counter(), self._embedding_s
        self.on_progress(name, 0, None)
        yield
        embedding_s = self._embedding_s - embedding_s
        for phase, seconds in ((name, time.perf_counter() - started - embedding_s), ("embed", embedding_s)):
            if seconds:
                self.seconds[phase] = round(self.seconds.get(phase, 0.0) + seconds, 3)

    def _nothing_mined(self, files: Sequence[Path]) -> str:
        counts = self.spool.counts()
        rejected = counts["rejected"] | {f"dead, {reason}": count for reason, count in counts["dead"].items()}
        problems, both = self.tally.problems, self.tally.problems_with_both
        return nothing_mined(files, self.settings.split, problems, both, rejected)

    # Storing

    def _store(self, files: Sequence[Path]) -> None:
        """First what the guard looks up, problems and rollouts; then all entries, guarded, in one revision. All or
        nothing: no rollout is told accepted without its entry."""
        reason = f"{self.miner.name} over {', '.join(file.name for file in files)}"
        with self.bank.change(actor="miner", reason=reason) as change:
            self.bank.record_problems(self.spool.problems())
            self.bank.record_rollouts(self._fates())
            guard = guard_of(self.bank, self.harvest.texts())
            last = self.bank.db.value("SELECT coalesce(max(id), 0) FROM entries")
            add_mined(change, self.harvest.results())
            new = "SELECT id FROM entries WHERE id > ? AND kind <> 'pair' ORDER BY id"
            added = [row[0] for row in self.bank.db.rows(new, (last,))]
            for entry_id, flags in self.engine.flags(guard, self.bank, added):
                change.flag(entry_id, flags)
            if self.site.new:  # the search index in one piece, as `vacuum` leaves it; quick while it is as small
                self.bank.db.run("INSERT INTO entry_text (entry_text) VALUES ('optimize')")

    def _fates(self) -> Iterator[RolloutFate]:
        """What became of each rollout, counted. One on which an entry of an earlier build rests stays accepted."""
        for fate in self.spool.fates(self.miner.name):
            if fate.fate != "accepted" and not self.site.new and self._bears(fate.rollout_id):
                fate = fate.model_copy(update={"fate": "accepted", "reason": ""})
            self.tally.count(fate)
            yield fate

    def _bears(self, rollout_id: str) -> bool:
        sql = "SELECT 1 FROM evidence WHERE rollout_id = ? AND active LIMIT 1"
        return self.bank.db.value(sql, (rollout_id,)) is not None

    # Embedding

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Tells the merger how near texts are: by the named embedder, else by a lexical one of the mined texts.

        Never by the bank's own: whether two new texts merge must not depend on what the bank held before, or the same
        rollouts a second time would merge in another way and add to the bank.
        """
        started = time.perf_counter()
        self.on_progress("embed", 0, None)
        if self._named is None:
            folder = self.site.folder / "merging"
            build_lexical_embedder(folder, chain(self._problem_texts(), self.harvest.texts()))
            self._named = Embedder.load(folder, device="cpu")
        vectors_ND: np.ndarray[Any, np.dtype[np.float32]] = self._named.encode_documents(texts)
        self._embedding_s += time.perf_counter() - started
        self.on_progress("merge", 0, None)
        return vectors_ND

    def _own_embedder(self) -> Embedder:
        if self.settings.embedder is None or self.settings.embedder == FOLDER:
            return bank_embedder(self.bank, problems=self._problem_texts())
        return adopt(self.bank, self.settings.embedder)

    def _problem_texts(self) -> Iterator[str]:
        return (problem.problem for problem in self.spool.problems())
