"""Problem -> the skill-mistake pairs that guide its teachers, with weights (docs/method.md, step 3).

The K nearest skills and the K nearest mistakes are paired, by rank unless told otherwise (`pairing.py`). Never
returned: entries that `store.py` does not call retrievable, a skill and mistake joined by a pair entry that is not
active, and, unless told otherwise, entries that rest on nothing but the very problem asked about.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skillbank.errors import InvalidOption, SkillBankWarning
from skillbank.index import VectorIndex
from skillbank.index.embed import Embedder
from skillbank.index.nearest import Nearest
from skillbank.index.vectors import bank_embedder
from skillbank.records import Entry, Kind, Mistake, Pair, RetrievedPair, Skill, problem_hash
from skillbank.retrieve.abstain import calibrate
from skillbank.retrieve.candidates import Candidates
from skillbank.retrieve.pairing import Found, Joined, Ranked, by_rank, pairs_among
from skillbank.retrieve.settings import Mode, Pairing, Settings
from skillbank.store import Bank
from skillbank.store.places import resting_on
from skillbank.store.query import SIDES, Query

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Mode", "Pairing", "Retriever", "Settings", "nearest_entries", "open_retriever"]

BATCH = 1024
"""Problems retrieved for at once; more are done batch by batch, so that memory stays flat."""


class Retriever:
    """Retrieves for many problems at once: one call of the embedder, one search a kind.

    A bank that changes in between is seen by the next call. What a problem was given is remembered as long as the bank
    stays at its revision, so a whole training set can be asked for before training and costs nothing then.
    """

    def __init__(self, bank: Bank, embedder: Embedder | None, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        if self.settings.mode == "similar" and embedder is None:
            raise InvalidOption("mode 'similar' needs an embedder: give the bank's, or choose mode 'random'")
        self.bank, self.embedder = bank, embedder
        self.index: VectorIndex | None = None
        """Set by the first retrieval that looks at cosines."""
        self.bounds: dict[Kind, float | None] = dict.fromkeys(SIDES)
        """The lowest cosine of each kind that is used; of `auto` once it has been read off the bank."""
        self._nearest: dict[Kind, Nearest] = {}
        self._ids: dict[Kind, np.ndarray[Any, Any]] = {}
        self._revision = -1
        self._pools: dict[tuple[str, str], tuple[Joined, ...]] = {}
        self._contents: dict[int, Skill | Mistake] = {}
        self._warned = False

    def retrieve(self, problems: Sequence[str], problem_ids: Sequence[str] | None = None) -> list[list[RetrievedPair]]:
        """The pairs of each problem, best first, weights summing to 1; an empty list where there is no pair.

        Without `problem_ids` a problem is known by the hash of its text. Fewer than K of a kind give as many pairs as
        the shorter list, with a warning once.
        """
        pools = self.pools(problems, problem_ids)
        self._remember_contents(pools)
        return [self._with_content(pool) for pool in pools]

    def prefetch(self, problems: Sequence[str], problem_ids: Sequence[str] | None = None) -> int:
        """Asks for a whole training set in one go, and returns how many problems have a pair.

        Until the bank's revision changes, `retrieve` then answers for these problems without embedder and index.
        """
        pools = self.pools(problems, problem_ids)
        self._remember_contents(pools)
        return sum(map(bool, pools))

    def pools(self, problems: Sequence[str], problem_ids: Sequence[str] | None = None) -> list[tuple[Joined, ...]]:
        """The same by ids and cosines alone, without the entries' words."""
        if problem_ids is None:
            problem_ids = [problem_hash(problem) for problem in problems]
        asked = [(problem_id, problem) for problem_id, problem in zip(problem_ids, problems, strict=True)]
        while True:
            self._refresh()
            with self.bank.db.snapshot():
                if self.bank.revision != self._revision:
                    continue  # another process has changed it in between
                new = [key for key in dict.fromkeys(asked) if key not in self._pools]
                for start in range(0, len(new), BATCH):
                    batch = new[start : start + BATCH]
                    self._pools.update(zip(batch, map(tuple, self._find(batch)), strict=True))
                return [self._pools[key] for key in asked]

    def _refresh(self) -> None:
        """Follows the bank to its present revision."""
        if self.bank.revision == self._revision:
            return
        self._pools.clear()
        self._contents.clear()
        allowed = None if self.settings.where is None else self.bank.ids(self.settings.where)
        if self.settings.mode == "random":
            import numpy as np

            revision = self.bank.revision
            self._ids = {kind: np.array(self.bank.retrievable(kind, ids=allowed), dtype=np.int64) for kind in SIDES}
            counts = {kind: len(ids) for kind, ids in self._ids.items()}
        else:
            revision = self._refresh_index(allowed)
            counts = {kind: index.count for kind, index in self._nearest.items()}
        self._revision = revision
        self._warn_if_few(counts)

    def _refresh_index(self, allowed: Sequence[int] | None) -> int:
        import numpy as np

        assert self.embedder is not None  # checked in __init__
        if self.index is None:
            self.index = VectorIndex.open(self.bank, self.embedder)
        else:
            self.index.refresh()
        self._nearest = {kind: self.index.of(kind) for kind in SIDES}
        if allowed is not None:
            allowed_N = np.array(allowed, dtype=np.int64)
            for kind, index in self._nearest.items():
                ids_N = allowed_N[index.holds(allowed_N)]
                self._nearest[kind] = Nearest.build(ids_N, index.vectors(ids_N))
        if self.settings.min_cosine == "auto":
            if self.bounds["skill"] is None:  # read off once: a run keeps its bound when the bank grows
                found = calibrate(self.bank, self.embedder, {kind: self.index.of(kind) for kind in SIDES})
                self.bounds = {kind: calibration.min_cosine for kind, calibration in found.items()}
        else:
            self.bounds = dict.fromkeys(SIDES, self.settings.min_cosine)
        return self.index.revision

    def _warn_if_few(self, counts: dict[Kind, int]) -> None:
        if self.settings.k > min(counts.values()) and not self._warned:
            self._warned = True
            which = "to retrieve" if self.settings.where is None else f"that fit {self.settings.where}"
            warnings.warn(
                f"k is {self.settings.k} but {self.bank.path} has {counts['skill']} skills and {counts['mistake']} "
                f"mistakes {which}: a problem gets at most {min(counts.values())} pairs",
                SkillBankWarning,
                stacklevel=2,
            )

    def left_out(self, asked: Sequence[tuple[str, str]]) -> list[set[int]]:
        """Entries that rest on nothing but each (id, problem) itself, known by its id or by its text's hash."""
        if not self.settings.leave_one_problem_out:
            return [set() for _ in asked]
        names = [(problem_id, problem_hash(problem)) for problem_id, problem in asked]
        resting = resting_on(self.bank.db, sorted({name for both in names for name in both}))
        return [resting[problem_id] | resting[hashed] for problem_id, hashed in names]

    def _find(self, asked: Sequence[tuple[str, str]]) -> Sequence[Sequence[Joined]]:
        left_out = self.left_out(asked)
        if self.settings.mode == "random":
            return [self._draw(problem_id, left) for (problem_id, _), left in zip(asked, left_out, strict=True)]
        assert self.embedder is not None  # checked in __init__
        candidates = Candidates(self.bank, self._nearest, self.settings, self.bounds)
        return candidates.pools(self.embedder.encode_queries([problem for _, problem in asked]), left_out)

    def _draw(self, problem_id: str, left_out: set[int]) -> list[Joined]:
        """K of each kind, uniformly without replacement, the same for the same seed and problem."""
        import numpy as np

        number = int.from_bytes(hashlib.sha256(problem_id.encode()).digest()[:8])
        random = np.random.default_rng([self.settings.seed, number])
        drawn = []
        for kind in SIDES:
            ids = self._ids[kind]
            # More than K, so that K remain when some must not be taken. Of these count those alone that are there:
            # entries that were added and taken back must not change what is drawn.
            left = int(np.isin(sorted(left_out), ids).sum())
            some = random.choice(ids, size=min(len(ids), 2 * self.settings.k + left), replace=False).tolist()
            drawn.append(Ranked([Found(i, 0.0) for i in some if i not in left_out], all_seen=True))
        skills, mistakes = drawn
        known = pairs_among(self.bank, [s.id for s in skills.found], [m.id for m in mistakes.found])
        return by_rank(skills, mistakes, known, self.settings.k) or []

    def _remember_contents(self, pools: Sequence[Sequence[Joined]]) -> None:
        ids = {i for pool in pools for joined in pool for i in (joined.skill.id, joined.mistake.id)}
        unknown = ids - self._contents.keys()
        if unknown:
            for entry in self.bank.entries(ids=unknown):
                assert not isinstance(entry.content, Pair)
                self._contents[entry.id] = entry.content

    def _with_content(self, pool: Sequence[Joined]) -> list[RetrievedPair]:
        pairs = []
        for joined, weight in zip(pool, weights(pool, self.settings.temperature), strict=True):
            skill, mistake = self._contents[joined.skill.id], self._contents[joined.mistake.id]
            assert isinstance(skill, Skill)
            assert isinstance(mistake, Mistake)
            pairs.append(
                RetrievedPair(
                    skill_id=joined.skill.id,
                    mistake_id=joined.mistake.id,
                    skill=skill,
                    mistake=mistake,
                    skill_cosine=joined.skill.cosine,
                    mistake_cosine=joined.mistake.cosine,
                    weight=weight,
                    pair_id=joined.pair_id,
                )
            )
        return pairs


def weights(pool: Sequence[Joined], temperature: float) -> list[float]:
    """softmax over the pool of mean(skill cosine, mistake cosine) / temperature."""
    logits = [joined.score / temperature for joined in pool]
    top = max(logits, default=0.0)
    exponentials = [math.exp(logit - top) for logit in logits]
    total = math.fsum(exponentials)
    return [value / total for value in exponentials]


def nearest_entries(
    bank: Bank, embedder: Embedder, text: str, *, kind: Kind | None = None, limit: int = 20
) -> list[tuple[Entry, float]]:
    """The retrievable skills and mistakes (or one kind of them) nearest to a text, with cosines, best first."""
    index = VectorIndex.open(bank, embedder)
    query_1D = embedder.encode_queries([text])
    scored: list[tuple[float, int]] = []
    for each in SIDES if kind is None else (kind,):
        cosines_1N, ids_1N = index.search(each, query_1D, limit)
        scored += zip(cosines_1N[0].tolist(), ids_1N[0].tolist(), strict=True)
    best = sorted(scored, key=lambda found: (-found[0], found[1]))[:limit]
    entries = {entry.id: entry for entry in bank.entries(ids=[entry_id for _, entry_id in best])}
    return [(entries[entry_id], cosine) for cosine, entry_id in best]


def open_retriever(
    bank: str | Path,
    *,
    embedder: str | None = None,
    k: int = 8,
    temperature: float = 1.0,
    mode: Mode = "similar",
    pairing: Pairing = "rank",
    diversity: float = 0.0,
    min_cosine: float | Literal["auto"] | None = None,
    where: Query | str | None = None,
    leave_one_problem_out: bool = True,
    seed: int = 0,
    device: str | None = None,
) -> Retriever:
    """A Retriever over the bank in a folder, with the bank's own embedder unless it is named. Close `.bank` at the end.

    `where` as `Query.parse` reads it. Raises BankNotFound, BankCorrupt, EmbedderNotFound, ForeignFingerprint,
    InvalidOption.
    """
    settings = Settings(
        k=k,
        temperature=temperature,
        mode=mode,
        pairing=pairing,
        diversity=diversity,
        min_cosine=min_cosine,
        where=Query.parse(where) if isinstance(where, str) else where,
        leave_one_problem_out=leave_one_problem_out,
        seed=seed,
    )
    opened = Bank.open(bank, readonly=not os.access(bank, os.W_OK) and Path(bank).exists())
    try:
        found = None if mode == "random" and embedder is None else bank_embedder(opened, embedder, device=device)
        return Retriever(opened, found, settings)
    except BaseException:
        opened.close()
        raise
