"""Problem -> the skill-mistake pairs that guide its teachers, with weights (docs/method.md, step 3).

The K nearest skills and the K nearest mistakes are paired by rank. Never returned: entries that `store.py` does not
call retrievable, a skill and mistake joined by a pair entry that is not active (the skill then takes the next mistake),
and, unless told otherwise, entries that rest on nothing but the very problem asked about.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skillbank.embed import Embedder
from skillbank.errors import InvalidOption, SkillBankWarning
from skillbank.index import VectorIndex
from skillbank.query import SIDES
from skillbank.records import Entry, Kind, Mistake, RetrievedPair, Skill, problem_hash
from skillbank.store import Bank
from skillbank.vectors import bank_embedder

if TYPE_CHECKING:
    import numpy as np

Mode = Literal["similar", "random"]


@dataclass(frozen=True)
class _Found:
    """An entry that was found for a problem."""

    id: int
    cosine: float


@dataclass(frozen=True)
class _Joined:
    """A found skill and a found mistake, and the pair entry that joins them if there is one."""

    skill: _Found
    mistake: _Found
    pair_id: int | None


class Retriever:
    """Retrieves for many problems at once: one call of the embedder, one search a kind.

    `similar` ranks by cosine and weighs by softmax(mean of the two cosines / temperature) over the pool. `random` (the
    ablation) draws K of each kind uniformly from all that may be retrieved, by the seed and the problem's id, with
    equal weights and cosines 0; it needs no embedder. A bank that changes in between is seen by the next call.
    """

    def __init__(
        self,
        bank: Bank,
        embedder: Embedder | None,
        *,
        k: int = 8,
        temperature: float = 1.0,
        mode: Mode = "similar",
        leave_one_problem_out: bool = True,
        seed: int = 0,
    ) -> None:
        if k < 1:
            raise InvalidOption(f"k is {k}: retrieve at least 1 pair")
        if not temperature > 0:
            raise InvalidOption(f"temperature is {temperature}: it must be above 0")
        if mode not in ("similar", "random"):
            raise InvalidOption(f"mode is {mode!r}: choose 'similar' or 'random'")
        if mode == "similar" and embedder is None:
            raise InvalidOption("mode 'similar' needs an embedder: give the bank's, or choose mode 'random'")
        self.bank, self.embedder = bank, embedder
        self.k, self.temperature, self.mode, self.seed = k, temperature, mode, seed
        self.leave_one_problem_out = leave_one_problem_out
        self._index: VectorIndex | None = None
        self._ids: dict[Kind, np.ndarray[Any, Any]] = {}
        self._revision = -1
        self._warned = False

    def retrieve(self, problems: Sequence[str], problem_ids: Sequence[str] | None = None) -> list[list[RetrievedPair]]:
        """The pairs of each problem, best first, weights summing to 1; an empty list where there is no pair.

        Without `problem_ids` a problem is known by the hash of its text. Fewer than K of a kind give as many pairs as
        the shorter list, with a warning once.
        """
        self._refresh()
        if problem_ids is None:
            problem_ids = [problem_hash(problem) for problem in problems]
        left_out = [
            self._left_out(problem, problem_id) for problem, problem_id in zip(problems, problem_ids, strict=True)
        ]
        if self.mode == "random":
            pools = [self._draw(pid, left) for pid, left in zip(problem_ids, left_out, strict=True)]
        else:
            pools = self._nearest(problems, left_out)
        return self._with_content(pools)

    def _refresh(self) -> None:
        """Follows the bank to its present revision."""
        revision = self.bank.revision
        if revision == self._revision:
            return
        if self.embedder is not None and self.mode == "similar":
            self._index = VectorIndex.open(self.bank, self.embedder)
            counts = {kind: self._index.count(kind) for kind in SIDES}
        else:
            import numpy as np

            self._ids = {kind: np.array(self.bank.retrievable(kind), dtype=np.int64) for kind in SIDES}
            counts = {kind: len(ids) for kind, ids in self._ids.items()}
        self._revision = revision
        if self.k > min(counts.values()) and not self._warned:
            self._warned = True
            warnings.warn(
                f"k is {self.k} but {self.bank.path} has {counts['skill']} skills and {counts['mistake']} mistakes to "
                f"retrieve: a problem gets at most {min(counts.values())} pairs",
                SkillBankWarning,
                stacklevel=3,
            )

    def _left_out(self, problem: str, problem_id: str) -> set[int]:
        """Entries that this very problem would only tell what was learnt from it, under its id or its text's hash."""
        if not self.leave_one_problem_out:
            return set()
        return self.bank.resting_on(problem_id) | self.bank.resting_on(problem_hash(problem))

    def _nearest(self, problems: Sequence[str], left_out: Sequence[set[int]]) -> list[list[_Joined]]:
        assert self.embedder is not None  # checked in __init__
        assert self._index is not None  # set by _refresh
        queries_ND = self.embedder.encode_queries(problems)
        pools: dict[int, list[_Joined]] = {}
        waiting = list(range(len(problems)))
        depth = self.k + max(map(len, left_out), default=0)
        deepest = max(self._index.count(kind) for kind in SIDES)
        while waiting:
            found = {kind: self._search(kind, queries_ND[waiting], depth) for kind in SIDES}
            for row, n in enumerate(waiting):
                skills, mistakes = ([f for f in found[kind][row] if f.id not in left_out[n]] for kind in SIDES)
                joined = self._join(skills, mistakes, all_seen=depth >= deepest)
                if joined is not None:
                    pools[n] = joined
            waiting = [n for n in waiting if n not in pools]
            depth *= 4
        return [pools[n] for n in range(len(problems))]

    def _search(self, kind: Kind, queries_ND: np.ndarray[Any, Any], depth: int) -> list[list[_Found]]:
        assert self._index is not None
        cosines_ND, ids_ND = self._index.search(kind, queries_ND, depth)
        rows = zip(ids_ND.tolist(), cosines_ND.tolist(), strict=True)
        return [[_Found(i, cosine) for i, cosine in zip(ids, cosines, strict=True)] for ids, cosines in rows]

    def _draw(self, problem_id: str, left_out: set[int]) -> list[_Joined]:
        """K of each kind, uniformly without replacement, the same for the same seed and problem."""
        import numpy as np

        number = int.from_bytes(hashlib.sha256(problem_id.encode()).digest()[:8])
        random = np.random.default_rng([self.seed, number])
        drawn = []
        for kind in SIDES:
            ids = self._ids[kind]
            # More than K, so that K remain when some must not be taken.
            some = random.choice(ids, size=min(len(ids), 2 * self.k + len(left_out)), replace=False).tolist()
            drawn.append([_Found(i, 0.0) for i in some if i not in left_out])
        return self._join(*drawn, all_seen=True) or []

    def _join(self, skills: Sequence[_Found], mistakes: Sequence[_Found], *, all_seen: bool) -> list[_Joined] | None:
        """Pairs by rank: each skill takes the first mistake left with which it was not taken out of use; K at most.

        None when the lists end before that is decided and `all_seen` says that there is more: what a problem gets must
        not depend on how deep a batch was searched.
        """
        joined: list[_Joined] = []
        rest = list(mistakes)
        for skill in skills:
            if len(joined) == self.k or not rest:
                break
            for place, mistake in enumerate(rest):
                entry = self.bank.pair_of(skill.id, mistake.id)
                if entry is None or entry[1]:
                    joined.append(_Joined(skill, rest.pop(place), entry[0] if entry else None))
                    break
            else:
                if not all_seen:
                    return None
        return joined if all_seen or len(joined) == self.k else None

    def _with_content(self, pools: Sequence[Sequence[_Joined]]) -> list[list[RetrievedPair]]:
        ids = {i for pool in pools for joined in pool for i in (joined.skill.id, joined.mistake.id)}
        contents = {entry.id: entry.content for entry in self.bank.entries(ids=ids)}
        result = []
        for pool in pools:
            weights = self._weights(pool)
            pairs = []
            for joined, weight in zip(pool, weights, strict=True):
                skill, mistake = contents[joined.skill.id], contents[joined.mistake.id]
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
            result.append(pairs)
        return result

    def _weights(self, pool: Sequence[_Joined]) -> list[float]:
        """softmax over the pool of mean(skill cosine, mistake cosine) / temperature."""
        logits = [(joined.skill.cosine + joined.mistake.cosine) / 2 / self.temperature for joined in pool]
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
    leave_one_problem_out: bool = True,
    seed: int = 0,
    device: str | None = None,
) -> Retriever:
    """A Retriever over the bank in a folder, with the bank's own embedder unless it is named. Close `.bank` at the end.

    Raises BankNotFound, BankCorrupt, EmbedderNotFound, ForeignFingerprint.
    """
    opened = Bank.open(bank, readonly=not os.access(bank, os.W_OK) and Path(bank).exists())
    try:
        found = None if mode == "random" and embedder is None else bank_embedder(opened, embedder, device=device)
        return Retriever(
            opened,
            found,
            k=k,
            temperature=temperature,
            mode=mode,
            leave_one_problem_out=leave_one_problem_out,
            seed=seed,
        )
    except BaseException:
        opened.close()
        raise
