"""Why a problem is given these pairs, and why other entries near it are not: for command line and web page alike.

Entries that retrieval may not return are compared too, so that a curator sees what a problem would gain from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from skillbank.errors import InvalidOption
from skillbank.records import Entry, Kind, Record, RetrievedPair, problem_hash
from skillbank.retrieve.pairing import pairs_among, partners
from skillbank.retrieve.retriever import Retriever
from skillbank.store.query import SIDES

if TYPE_CHECKING:
    import numpy as np

EMBEDDED = 2000
"""Texts embedded for one explanation, of entries that have no vector as they were never retrieved."""
Reason = Literal[
    "status",  # not active
    "pairs",  # active, but none of its pairs is
    "own",  # rests on this problem alone
    "filter",  # does not fit `where`
    "bound",  # cosine under `min_cosine`
    "alike",  # too near to one that was chosen
    "pair disabled",  # its pair with what it would go with is out of use
    "unpaired",  # `mined` wants a pair entry, and it is in no active one
    "counterpart",  # the other kind has nothing left for it
    "rank",  # others were nearer
]


class Unused(Record):
    """An entry near the problem that is not among its pairs."""

    entry: Entry
    cosine: float
    rank: int | None
    """Place among all that retrieval may return of its kind, 1 the nearest; None for one that it may not return."""
    reason: Reason
    detail: str


class Explanation(Record):
    """What one problem is given, and what it is not."""

    problem: str
    problem_id: str
    revision: int
    settings: dict[str, Any]
    bounds: dict[Kind, float | None]
    """The lowest cosine that is used, `min_cosine: auto` read off the bank."""
    pairs: tuple[RetrievedPair, ...]
    unused: tuple[Unused, ...]
    """The nearest others of each kind, nearest first."""
    not_compared: int
    """Entries that retrieval may not return and that have no vector, beyond the first EMBEDDED."""


@dataclass(frozen=True)
class _Near:
    entry: Entry
    cosine: float
    rank: int | None


def explain(retriever: Retriever, problem: str, *, problem_id: str | None = None, n: int = 10) -> Explanation:
    """Retrieves for a problem and looks at the `n` nearest other entries of each kind.

    Raises InvalidOption for random retrieval, which has no reasons.
    """
    if retriever.embedder is None or retriever.settings.mode == "random":
        raise InvalidOption("mode is 'random', which has no reasons: explain mode 'similar'")
    problem_id = problem_hash(problem) if problem_id is None else problem_id
    pairs = retriever.retrieve([problem], [problem_id])[0]
    assert retriever.index is not None  # retrieve has opened it
    query_D = retriever.embedder.encode_queries([problem])[0]
    used = {"skill": {pair.skill_id for pair in pairs}, "mistake": {pair.mistake_id for pair in pairs}}
    unused: list[Unused] = []
    not_compared = 0
    with retriever.bank.db.snapshot():
        left_out = retriever.left_out([(problem_id, problem)])[0]
        for kind in SIDES:
            near, skipped = _nearest(retriever, kind, query_D, used[kind], n)
            not_compared += skipped
            judge = _Judge(retriever, kind, pairs, left_out, [one.entry.id for one in near])
            unused += (judge.unused(one) for one in near)
    settings = {name: getattr(retriever.settings, name) for name in retriever.settings.__dataclass_fields__}
    return Explanation(
        problem=problem,
        problem_id=problem_id,
        revision=retriever.index.revision,
        settings=settings | {"where": None if settings["where"] is None else str(settings["where"])},
        bounds=retriever.bounds,
        pairs=tuple(pairs),
        unused=tuple(unused),
        not_compared=not_compared,
    )


def _nearest(
    retriever: Retriever, kind: Kind, query_D: np.ndarray[Any, Any], used: set[int], n: int
) -> tuple[list[_Near], int]:
    """The n nearest entries of a kind that are not used, retrievable or not; and how many were not compared."""
    assert retriever.index is not None
    cosines_1N, ids_1N = retriever.index.search(kind, query_D[None], n + len(used))
    scored = [
        (cosine, entry_id, rank)
        for rank, (entry_id, cosine) in enumerate(zip(ids_1N[0].tolist(), cosines_1N[0].tolist(), strict=True), start=1)
        if entry_id not in used
    ]
    barred, not_compared = _barred(retriever, kind, query_D, n)
    best = sorted([*scored, *((cosine, i, None) for cosine, i in barred)], key=lambda one: (-one[0], one[1]))[:n]
    entries = {entry.id: entry for entry in retriever.bank.entries(ids=[entry_id for _, entry_id, _ in best])}
    return [_Near(entries[entry_id], cosine, rank) for cosine, entry_id, rank in best], not_compared


def _barred(
    retriever: Retriever, kind: Kind, query_D: np.ndarray[Any, Any], n: int
) -> tuple[list[tuple[float, int]], int]:
    """(cosine, id) of the n nearest entries that retrieval may not return, and how many could not be compared."""
    import heapq

    import numpy as np

    assert retriever.embedder is not None
    without: list[tuple[int, str]] = []
    best: list[tuple[float, int]] = []
    not_compared = 0
    rows = retriever.bank.db.stream(
        "SELECT e.id, e.text, v.vector FROM entries e LEFT JOIN vectors v"
        " ON v.fingerprint = ? AND v.content_hash = e.content_hash WHERE e.kind = ? AND NOT e.retrievable",
        (retriever.embedder.fingerprint.digest, kind),
    )
    for entry_id, text, blob in rows:
        if blob is not None:
            best.append((float(np.frombuffer(blob, dtype="<f4") @ query_D), entry_id))
            if len(best) > 100 * n:
                best = heapq.nlargest(n, best)
        elif len(without) < EMBEDDED:
            without.append((entry_id, text))
        else:
            not_compared += 1
    cosines_N = retriever.embedder.encode_documents([text for _, text in without]) @ query_D
    best += ((cosine, entry_id) for cosine, (entry_id, _) in zip(cosines_N.tolist(), without, strict=True))
    return heapq.nlargest(n, best), not_compared


class _Judge:
    """Says of entries of one kind why they are not among a problem's pairs."""

    def __init__(
        self,
        retriever: Retriever,
        kind: Kind,
        pairs: Sequence[RetrievedPair],
        left_out: set[int],
        ids: Sequence[int],
    ) -> None:
        self._retriever, self._kind, self._left_out = retriever, kind, left_out
        self._other: Kind = "mistake" if kind == "skill" else "skill"
        self._used = {
            each: {getattr(pair, f"{each}_id"): getattr(pair, f"{each}_cosine") for pair in pairs} for each in SIDES
        }
        sides: dict[Kind, Sequence[int]] = {kind: ids, self._other: list(self._used[self._other])}
        known = pairs_among(retriever.bank, sides["skill"], sides["mistake"])
        place = tuple(SIDES).index(kind)
        self._disabled: Mapping[int, int] = {
            both[place]: pair_id for both, (pair_id, active) in known.items() if not active
        }
        self._paired = partners(retriever.bank, {SIDES[kind]: ids}).keys()
        where = retriever.settings.where
        fits = ids if where is None else [e.id for e in retriever.bank.entries(where, ids=ids)]
        self._fits = frozenset(fits)

    def unused(self, near: _Near) -> Unused:
        reason, detail = self._reason(near)
        return Unused(entry=near.entry, cosine=near.cosine, rank=near.rank, reason=reason, detail=detail)

    def _reason(self, near: _Near) -> tuple[Reason, str]:
        entry, settings = near.entry, self._retriever.settings
        bound = self._retriever.bounds[self._kind]
        if entry.status != "active":
            return "status", _status(entry)
        if near.rank is None:
            return "pairs", "none of its pairs is active"
        if entry.id in self._left_out:
            return "own", "it rests on this very problem alone"
        if entry.id not in self._fits:
            return "filter", f"it does not fit {settings.where}"
        if bound is not None and near.cosine < bound:
            return "bound", f"its cosine is under {bound:.3f}"
        if settings.pairing == "mined":
            if entry.id not in self._paired:
                return "unpaired", "it is in no active pair"
            return "rank", "its pairs are further from the problem, or share a side with a nearer one"
        return self._outranked(near)

    def _outranked(self, near: _Near) -> tuple[Reason, str]:
        """Why one that might have been used was not, by rank or matched."""
        settings = self._retriever.settings
        chosen = self._used[self._kind]
        nearer = sum(cosine >= near.cosine for cosine in chosen.values())
        if self._kind == "mistake" and settings.pairing == "match":
            return "rank", "it is the nearest mistake of none of the chosen skills"
        if nearer < len(chosen) and near.entry.id in self._disabled:
            return "pair disabled", f"pair {self._disabled[near.entry.id]}, which joins it to one chosen, is not active"
        if nearer < len(chosen) and settings.diversity:
            alike, cosine = self._most_alike(near.entry.id)
            return "alike", f"it resembles {self._kind} {alike} (cosine {cosine:.3f}), chosen before it"
        if len(chosen) < settings.k:
            return "counterpart", f"there is no {self._other} left to go with it"
        return "rank", f"k is {settings.k}, and {nearer} nearer ones were chosen"

    def _most_alike(self, entry_id: int) -> tuple[int, float]:
        import numpy as np

        assert self._retriever.index is not None
        index = self._retriever.index.of(self._kind)
        ids_N = np.array(list(self._used[self._kind]), dtype=np.int64)
        cosines_N = index.vectors(ids_N) @ index.vectors(np.array([entry_id]))[0]
        best = int(cosines_N.argmax())
        return int(ids_N[best]), float(cosines_N[best])


def _status(entry: Entry) -> str:
    if entry.superseded_by is not None:
        return f"superseded by {entry.superseded_by}"
    open_flags = [flag.rule for flag in entry.flags if not flag.released]
    return f"{entry.status} ({', '.join(open_flags)})" if open_flags else entry.status
