"""Which entries of a bank say the same: clusters of near neighbours within a kind, the best wording first.

Skills are compared with skills and mistakes with mistakes, those that retrieval may return; which of them is the one
to keep, and which stay apart whatever their cosine, is said in `standing.py`. A cluster is complete-link (`cluster.py`)
and holds what its entries took in before: two texts further apart than the threshold never end up under one entry,
however often duplicates are looked for. Left out: merging them (`dedupe.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from skillbank.dedupe.cluster import Clustering, check_cosine, complete_link
from skillbank.dedupe.neighbours import NearPairs, Progress, near_pairs
from skillbank.dedupe.standing import Rows
from skillbank.index.embed import Embedder
from skillbank.index.vectors import Vectors, check_fingerprint, embed_missing
from skillbank.records import Entry, Kind, Mistake, Pair, Record, Skill
from skillbank.store import Bank
from skillbank.store.query import SIDES

FLOOR = 0.8
"""Pairs that are kept for the next look at the same bank are at least so near."""
KEPT_BANKS = 4
"""Times kinds: so many banks' pairs are kept."""


class Member(Record):
    """One entry of a cluster."""

    entry: Entry
    cosine: float
    """With the entry to keep."""


class DuplicateCluster(Record):
    """Entries that say the same."""

    kind: Kind
    members: tuple[Member, ...]
    """The one to keep first, the others from near to far."""
    why: str
    """Why the first is the one to keep."""


class KeptApart(Record):
    """Two entries that are near and stay two."""

    kind: Kind
    one: int
    other: int
    cosine: float
    why: str


class Tally(Record):
    """One kind before and after its clusters have become one entry each."""

    kind: Kind
    entries: int
    near_pairs: int
    """Pairs of entries at least as near as the threshold."""
    near_share: float
    """Of all pairs of entries."""
    near_entries: int
    """Entries in such a pair."""
    left: int
    left_near_pairs: int
    left_near_share: float
    left_near_entries: int


class Duplicates(Record):
    """The clusters of a bank at one threshold."""

    threshold: float
    embedder: str
    revision: int
    """Of the bank when it was looked at."""
    tallies: tuple[Tally, ...]
    total: int
    """Clusters in all; `clusters` may hold fewer."""
    clusters: tuple[DuplicateCluster, ...]
    """Large ones first, and of one size the nearest."""
    apart: tuple[KeptApart, ...]
    """Near pairs that stay two, up to `LISTED` of `cluster.py`; the tallies count them all."""


class Group(NamedTuple):
    """A cluster by ids."""

    kind: Kind
    ids: list[int]
    """The one to keep first, the others from near to far."""
    cosines: list[float]
    why: str
    settled: bool
    """The one to keep is pinned or worded by a person: no other wording is wanted."""


class Look(NamedTuple):
    """All clusters of a bank at one threshold, by ids: a bank of a million entries may have very many."""

    threshold: float
    embedder: str
    revision: int
    tallies: list[Tally]
    groups: list[Group]
    apart: list[KeptApart]

    def to_reword(self, bank: Bank) -> dict[int, dict[int, Skill | Mistake]]:
        """The clusters for which another wording than the best may be written: id of the best -> id -> words."""
        groups = [group for group in self.groups if not group.settled]
        entries = bank.entries(ids=[i for group in groups for i in group.ids])
        contents = {entry.id: entry.content for entry in entries if not isinstance(entry.content, Pair)}
        return {group.ids[0]: {i: contents[i] for i in group.ids} for group in groups}

    def described(self, bank: Bank, limit: int | None = None) -> Duplicates:
        """With the entries themselves, of the first `limit` clusters."""
        shown = self.groups[:limit]
        entries = {entry.id: entry for entry in bank.entries(ids=[i for group in shown for i in group.ids])}
        return Duplicates(
            threshold=self.threshold,
            embedder=self.embedder,
            revision=self.revision,
            tallies=tuple(self.tallies),
            total=len(self.groups),
            clusters=tuple(
                DuplicateCluster(
                    kind=group.kind,
                    members=tuple(
                        Member(entry=entries[i], cosine=round(cosine, 4))
                        for i, cosine in zip(group.ids, group.cosines, strict=True)
                    ),
                    why=group.why,
                )
                for group in shown
            ),
            apart=tuple(self.apart),
        )


def find_duplicates(
    bank: Bank,
    embedder: Embedder,
    threshold: float,
    *,
    kinds: Sequence[Kind] = tuple(SIDES),
    on_progress: Progress | None = None,
) -> Look:
    """All clusters. Memory grows with the entries and not with their pairs.

    Raises InvalidOption for a threshold that is no cosine, ForeignFingerprint for an embedder that is not the bank's.
    """
    return _look(bank, embedder, threshold, kinds, lambda rows: rows.cluster(threshold, on_progress))


def near_duplicates(
    bank: Bank, embedder: Embedder, threshold: float, limit: int | None = 100, *, kinds: Sequence[Kind] = tuple(SIDES)
) -> Duplicates:
    """The same, with the entries of the first `limit` clusters, for looking at one threshold after another.

    Which entries are near is kept for as long as the process lives: only the first look at a bank compares them all, a
    later one compares what is new since.
    """
    digest = embedder.fingerprint.digest

    def made(rows: Rows) -> Clustering:
        key = (bank.meta("bank_id"), digest, rows.kind)
        kept = _KEPT.pop(key, None) or _Kept()
        _KEPT[key] = kept
        while len(_KEPT) > KEPT_BANKS * len(SIDES):
            del _KEPT[next(iter(_KEPT))]
        return kept.cluster(rows, threshold)

    return _look(bank, embedder, threshold, kinds, made).described(bank, limit)


def _look(
    bank: Bank, embedder: Embedder, threshold: float, kinds: Sequence[Kind], make: Callable[[Rows], Clustering]
) -> Look:
    check_cosine(threshold)
    check_fingerprint(bank, embedder)
    unsaved: Vectors = {}
    embed_missing(bank, embedder, unsaved=unsaved)
    with bank.db.snapshot():
        look = Look(threshold, embedder.describe(), bank.revision, [], [], [])
        of_kinds = [Rows(bank, embedder, kind, unsaved) for kind in kinds]
    for rows in of_kinds:
        made = make(rows)
        look.tallies.append(_tally(rows, made))
        look.groups.extend(_groups(rows, made))
        look.apart.extend(_apart(rows, made))
    look.groups.sort(key=lambda group: (-len(group.ids), -group.cosines[-1], group.ids))
    return look


def _tally(rows: Rows, made: Clustering) -> Tally:
    entries = sum(row.head is None for row in rows.rows)
    left = entries - sum(
        row.head is None and leader != n
        for n, (row, leader) in enumerate(zip(rows.rows, made.leader_N.tolist(), strict=True))
    )
    return Tally(
        kind=rows.kind,
        entries=entries,
        near_pairs=made.near,
        near_share=_share(made.near, entries),
        near_entries=made.crowded,
        left=left,
        left_near_pairs=made.still_near,
        left_near_share=_share(made.still_near, left),
        left_near_entries=made.still_crowded,
    )


def _share(near: int, entries: int) -> float:
    return near / (entries * (entries - 1) / 2) if near else 0.0


def _groups(rows: Rows, made: Clustering) -> Iterator[Group]:
    for leader, members in made.members().items():
        others = [row for row in members if row != leader and rows.rows[row].head is None]
        if not others:  # nothing but what it took in before
            continue
        cosines = (rows.vectors_ND[others] @ rows.vectors_ND[leader]).tolist()
        near = sorted(zip(others, cosines, strict=True), key=lambda one: (-one[1], one[0]))
        yield Group(
            kind=rows.kind,
            ids=[rows.rows[row].id for row in (leader, *(row for row, _ in near))],
            cosines=[1.0, *(cosine for _, cosine in near)],
            why=rows.why(leader, min(others)),
            settled=rows.rows[leader].pinned or rows.rows[leader].by_hand,
        )


def _apart(rows: Rows, made: Clustering) -> Iterator[KeptApart]:
    for row, other, cosine in made.apart:
        why = rows.against(row, other) or "other members of their clusters are too far apart, or contradict each other"
        yield KeptApart(
            kind=rows.kind, one=rows.rows[other].id, other=rows.rows[row].id, cosine=round(cosine, 4), why=why
        )


class _Kept:
    """The near pairs of one kind of a bank, by entry and wording."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, str]] = []
        self.pairs: NearPairs | None = None

    def cluster(self, rows: Rows, threshold: float) -> Clustering:
        keys = [(row.id, row.content_hash) for row in rows.rows]
        place = {key: n for n, key in enumerate(self.keys)}
        if self.pairs is None or any(key not in place for key in keys):
            place = self._grow(rows, keys, place)
        assert self.pairs is not None
        if threshold < self.pairs.floor:
            return rows.cluster(threshold)
        earlier = list(self.pairs.earlier([place[key] for key in keys], threshold))
        rows.read({row for near in earlier for row in (near.row, *near.earlier.tolist())})
        return complete_link(earlier, len(keys), absorbed=rows.absorbed, may_join=rows.may_join)

    def _grow(
        self, rows: Rows, keys: Sequence[tuple[int, str]], place: Mapping[tuple[int, str], int]
    ) -> dict[tuple[int, str], int]:
        """Compares the new with all; what is gone is forgotten, as what is new was not compared with it."""
        now = {key: n for n, key in enumerate(keys)}
        known = [key for key in self.keys if key in now]
        self.keys = [*known, *(key for key in keys if key not in place)]
        known_pairs = self.pairs and self.pairs.among([place[key] for key in known])
        self.pairs = near_pairs(rows.vectors_ND[[now[key] for key in self.keys]], FLOOR, known=known_pairs)
        return {key: n for n, key in enumerate(self.keys)}


_KEPT: dict[tuple[str | None, str, Kind], _Kept] = {}
