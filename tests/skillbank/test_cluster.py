"""Clusters of vectors against a restatement that compares every pair the plain way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillbank.dedupe import cluster as clustering
from skillbank.dedupe import neighbours
from skillbank.dedupe.cluster import Apart, cluster, complete_link
from skillbank.dedupe.neighbours import earlier_neighbours, near_pairs
from skillbank.errors import InvalidOption

Vectors = np.ndarray[Any, np.dtype[np.float32]]


def unit(rows: Any) -> Vectors:
    vectors = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


def on_a_circle(*degrees: float) -> Vectors:
    turns = np.radians(degrees)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def in_clumps(count: int, dim: int, spread: float, seed: int = 0, low_rank: int | None = None) -> Vectors:
    """Clumps of about five vectors; with `low_rank`, all near a subspace, as embeddings of one subject are."""
    random = np.random.default_rng(seed)
    rank = low_rank or dim
    centres = random.standard_normal((max(1, count // 5), rank))
    points = centres[random.integers(0, len(centres), count)] + spread * random.standard_normal((count, rank))
    if low_rank is not None:
        points = points @ random.standard_normal((rank, dim)) + 0.05 * random.standard_normal((count, dim))
    return unit(points)


def restated(vectors: Vectors, min_cosine: float) -> list[int]:
    """The leader of every row, one row and one cluster at a time."""
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    clusters: dict[int, list[int]] = {}
    leader = list(range(len(vectors)))
    for row in range(len(vectors)):
        fits = [lead for lead, members in clusters.items() if cosines[row, members].min() >= min_cosine]
        if fits:
            leader[row] = max(fits, key=lambda lead: (cosines[row, lead], -lead))
        clusters.setdefault(leader[row], []).append(row)
    return leader


@pytest.mark.parametrize("low_rank", [None, 20])
@pytest.mark.parametrize("min_cosine", [0.95, 0.9, 0.7])
def test_clusters_are_those_of_the_plain_way(min_cosine: float, low_rank: int | None) -> None:
    vectors = in_clumps(600, 32, 0.3, low_rank=low_rank)
    found = cluster(vectors, min_cosine)
    assert found.leader_N.tolist() == restated(vectors, min_cosine)
    assert 50 < len(found.members()) < 300
    for leader, members in found.members().items():
        assert leader == members[0] == min(members)
        assert (vectors[members] @ vectors[members].T).min() >= min_cosine - 1e-5
    near = (vectors @ vectors.T >= min_cosine) & ~np.eye(len(vectors), dtype=bool)
    leaders = np.unique(found.leader_N)
    among_leaders = near[np.ix_(leaders, leaders)]
    assert (found.near, found.still_near) == (near.sum() // 2, among_leaders.sum() // 2)
    assert (found.crowded, found.still_crowded) == (near.any(axis=1).sum(), among_leaders.any(axis=1).sum())


@pytest.mark.parametrize(
    ("low_rank", "min_cosine", "width"), [(20, 0.9, 64), (None, 0.9, 64), (None, 0.7, 128), (None, 0.3, 256)]
)
def test_narrowed_vectors_and_small_blocks_lose_no_pair(
    monkeypatch: pytest.MonkeyPatch, low_rank: int | None, min_cosine: float, width: int
) -> None:
    monkeypatch.setattr(neighbours, "SAMPLE", 300)
    monkeypatch.setattr(neighbours, "COLUMNS", 100)
    monkeypatch.setattr(neighbours, "GATHERED", 7)
    monkeypatch.setattr(neighbours, "DENSE", 0.005)  # some products are looked up, some multiplied in full
    vectors = in_clumps(1500, 256, 0.2, low_rank=low_rank)
    assert neighbours._narrowed(vectors, min_cosine).shape == (1500, width)
    cosines = np.tril(vectors.astype(np.float64) @ vectors.T.astype(np.float64), -1)
    expected = list(zip(*np.nonzero(cosines >= min_cosine), strict=True))
    assert len(expected) > 2000
    for hits in (neighbours.HITS, 100):  # with 100, blocks have to shrink
        monkeypatch.setattr(neighbours, "HITS", hits)
        found = list(earlier_neighbours(vectors, min_cosine))
        assert [(n.row, other) for n in found for other in n.earlier] == expected
        for n in found:
            assert n.cosines == pytest.approx(cosines[n.row, n.earlier], abs=1e-5)


def test_a_bound_from_narrowed_vectors_is_never_below_the_cosine() -> None:
    vectors = in_clumps(500, 96, 0.3, low_rank=10)
    directions = np.linalg.qr(np.random.default_rng(1).standard_normal((96, 15)))[0].astype(np.float32)
    narrow = neighbours._project(vectors, directions)
    assert (narrow @ narrow.T - vectors @ vectors.T).min() >= -1e-6


def test_a_chain_joins_neighbours_and_not_its_ends() -> None:
    found = cluster(on_a_circle(0, 10, 20, 30), np.cos(np.radians(15)))
    assert found.leader_N.tolist() == [0, 0, 2, 2]
    assert (found.near, found.still_near, found.crowded, found.still_crowded) == (3, 0, 4, 0)


def test_what_stays_apart_though_near_is_told() -> None:
    found = cluster(on_a_circle(0, 10, -10), np.cos(np.radians(15)))
    assert found.leader_N.tolist() == [0, 0, 2]
    (apart,) = found.apart
    assert (apart.row, apart.other, found.still_near) == (2, 0, 1)
    assert apart.cosine == pytest.approx(np.cos(np.radians(10)))


def test_a_row_joins_the_nearest_leader() -> None:
    assert cluster(on_a_circle(0, 20, 12), np.cos(np.radians(15))).leader_N.tolist() == [0, 1, 1]


def test_equal_rows_join_at_a_threshold_of_one_and_zeros_never() -> None:
    vectors = np.concatenate([in_clumps(1, 384, 0)] * 3 + [np.zeros((2, 384), np.float32)])
    assert cluster(vectors, 1.0).leader_N.tolist() == [0, 0, 0, 3, 4]


def test_may_join_is_asked_of_every_member() -> None:
    asked = []

    def may_join(row: int, member: int) -> bool:
        asked.append((row, member))
        return (row, member) != (2, 1)

    found = cluster(on_a_circle(0, 1, 2, 3), 0.9, may_join=may_join)
    assert found.leader_N.tolist() == [0, 0, 2, 2]
    assert asked == [(1, 0), (2, 0), (2, 1), (3, 2)]
    assert [(pair.row, pair.other) for pair in found.apart] == [(2, 0)]


def test_what_a_row_took_in_before_counts_and_is_no_pair() -> None:
    near = np.cos(np.radians(15))
    # 2 took in 0, which is too far from 3; 2 and 3 are near.
    found = cluster(on_a_circle(-10, 90, 0, 10), near, absorbed=[(0, 2)])
    assert found.leader_N.tolist() == [2, 1, 2, 3]
    assert (found.near, found.still_near, found.apart[0][:2]) == (1, 1, (3, 2))
    # 3 took in 2; both are near 0 and 1, which are one already.
    found = cluster(on_a_circle(0, 5, 10, 4), near, absorbed=[(2, 3)])
    assert found.leader_N.tolist() == [0, 0, 0, 0]
    # 3 took in 1 and 2, of which 1 is near nothing.
    found = cluster(on_a_circle(0, 90, 10, 4), near, absorbed=[(1, 3), (2, 3)])
    assert found.leader_N.tolist() == [0, 3, 3, 3]
    with pytest.raises(ValueError, match="row 2 is absorbed by 1"):
        cluster(on_a_circle(0, 5, 10), near, absorbed=[(2, 1)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.8, 0.9, 0.95]))
def test_clustering_the_leaders_again_joins_nothing(seed: int, min_cosine: float) -> None:
    vectors = in_clumps(120, 12, 0.35, seed=seed)
    first = cluster(vectors, min_cosine)
    # Leaders keep their order, each right after what it took in.
    order = [
        row for leader in np.unique(first.leader_N) for row in [*np.flatnonzero(first.leader_N == leader)[1:], leader]
    ]
    place = {row: n for n, row in enumerate(order)}
    absorbed = [(place[row], place[first.leader_N[row]]) for row in order if first.leader_N[row] != row]
    second = cluster(vectors[order], min_cosine, absorbed=absorbed)
    assert second.leader_N.tolist() == [place[first.leader_N[row]] for row in order]
    assert second.near == second.still_near == first.still_near


def test_pairs_kept_give_the_same_clusters_at_every_threshold_and_order() -> None:
    vectors = in_clumps(400, 24, 0.3)
    pairs = near_pairs(vectors, 0.6)
    assert pairs.floor == 0.6
    order = np.random.default_rng(3).permutation(400)
    for min_cosine in (0.6, 0.8, 0.93):
        from_pairs = complete_link(pairs.earlier(order.tolist(), min_cosine), 400)
        afresh = cluster(vectors[order], min_cosine)
        assert from_pairs.leader_N.tolist() == afresh.leader_N.tolist()
        assert (from_pairs.near, from_pairs.still_near) == (afresh.near, afresh.still_near)


def test_pairs_grow_with_new_rows_and_rows_may_leave() -> None:
    vectors = in_clumps(500, 24, 0.3)
    known = near_pairs(vectors[:450], 0.6)
    grown, afresh = near_pairs(vectors, 0.6, known=known), near_pairs(vectors, 0.6)
    pairs = [sorted(zip(p.rows.tolist(), p.others.tolist(), strict=True)) for p in (grown, afresh)]
    assert pairs[0] == pairs[1]
    assert len(known.rows) < len(grown.rows)
    order = np.random.default_rng(3).permutation(500)[:300]
    some = complete_link(grown.earlier(order.tolist(), 0.8), 300)
    assert some.leader_N.tolist() == cluster(vectors[order], 0.8).leader_N.tolist()
    assert some.near > 0


@pytest.mark.parametrize("hits", [200, 4_000_000])
def test_of_too_many_pairs_the_nearest_are_kept(monkeypatch: pytest.MonkeyPatch, hits: int) -> None:
    monkeypatch.setattr(neighbours, "HITS", hits)
    vectors = in_clumps(400, 24, 0.3)
    everything = near_pairs(vectors, 0.3)
    some = near_pairs(vectors, 0.3, max_pairs=500)
    assert len(some.rows) == 500
    assert sorted(some.cosines) == sorted(everything.cosines)[-500:]
    assert some.floor == pytest.approx(sorted(everything.cosines)[-501], abs=1e-6)
    assert some.floor > sorted(everything.cosines)[-501]


@pytest.mark.parametrize("count", [0, 1])
def test_few_rows_make_no_cluster(count: int) -> None:
    vectors = in_clumps(count, 8, 0) if count else np.zeros((0, 8), np.float32)
    assert cluster(vectors, 0.9).leader_N.tolist() == list(range(count))
    assert near_pairs(vectors, 0.9).rows.tolist() == []


def test_a_bound_that_is_no_cosine_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"the least cosine is 1\.5: it must be between -1 and 1"):
        cluster(on_a_circle(0, 1), 1.5)


def test_apart_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "LISTED", 2)
    found = cluster(on_a_circle(0, 1, 2, 3), 0.9, may_join=lambda row, member: False)
    assert (found.still_near, len(found.apart)) == (6, 2)
    assert found.apart[0] == Apart(1, 0, pytest.approx(np.cos(np.radians(1))))
