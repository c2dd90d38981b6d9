"""Exact and approximate search, against brute force in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillbank.index.nearest import Nearest, recall
from skillbank.index.pages import large_pages

DIM = 16
Array = np.ndarray[Any, Any]


def unit(rng: np.random.Generator, count: int, clusters: int = 20) -> Array:
    """Clustered unit vectors, float32."""
    centres = rng.standard_normal((clusters, DIM))
    vectors = centres[rng.integers(clusters, size=count)] + 0.5 * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(vectors: dict[int, Array], queries_ND: Array, depth: int) -> tuple[Array, Array]:
    ids_N = np.array(sorted(vectors))
    cosines_QN = queries_ND @ np.stack([vectors[i] for i in ids_N]).T
    order_QD = np.argsort(-cosines_QN, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(cosines_QN, order_QD, axis=1), ids_N[order_QD]


@pytest.fixture(params=["exact", "approximate"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same tests for both: approximate search that reads every list is exact."""
    if request.param == "approximate":
        monkeypatch.setattr("skillbank.index.nearest.APPROXIMATE_FROM", 1)
        monkeypatch.setattr("skillbank.index.nearest.RECALL", 1.0)
    return str(request.param)


def build(vectors: dict[int, Array]) -> Nearest:
    ids = sorted(vectors)
    return Nearest.build(np.array(ids, dtype=np.int64), np.stack([vectors[i] for i in ids]))


def test_it_finds_what_brute_force_finds(method: str) -> None:
    rng = np.random.default_rng(0)
    vectors = dict(zip((7 * np.arange(500) + 3).tolist(), unit(rng, 500), strict=True))
    index = build(vectors)
    assert index.approximate == (method == "approximate")
    assert (index.probes > 0) == index.approximate
    queries_ND = unit(rng, 40)
    for some in (slice(0, 1), slice(0, 5), slice(0, 40)):  # alone, one by one, as a matrix
        cosines, ids = index.search(queries_ND[some], 12)
        expected_cosines, expected = brute_force(vectors, queries_ND[some], 12)
        if method == "exact":
            np.testing.assert_array_equal(ids, expected)
            np.testing.assert_allclose(cosines, expected_cosines, atol=1e-6)
        else:
            assert recall(expected, ids) > 0.95
    cosines, ids = index.search(queries_ND, 9999)
    assert ids.shape == (40, 500)
    assert (np.sort(ids, axis=1) == np.array(sorted(vectors))).all()  # the deepest search finds all, in any method
    assert (np.diff(cosines, axis=1) <= 0).all()


def test_equal_cosines_come_by_id(method: str) -> None:
    vector = unit(np.random.default_rng(0), 1)[0]
    index = build(dict.fromkeys((9, 2, 5), vector))
    assert index.search(vector[None], 3)[1].tolist() == [[2, 5, 9]]


def test_putting_and_dropping_equals_building_anew(method: str) -> None:
    rng = np.random.default_rng(1)
    vectors = dict(zip(range(300), unit(rng, 300), strict=True))
    index = build(vectors)
    assert index.drop(np.arange(100, 150)) == 50
    assert index.drop(np.arange(100, 150)) == 0
    moved = unit(rng, 60)
    ids_N = np.arange(260, 320)
    assert index.put(ids_N, moved) == 60  # 40 with new words, 20 new
    assert index.put(ids_N, moved) == 0  # the same again
    for i in range(100, 150):
        del vectors[i]
    vectors |= dict(zip(ids_N.tolist(), moved, strict=True))
    assert index.count == len(vectors) == 270
    assert sorted(index.ids().tolist()) == sorted(vectors)
    assert index.holds(np.array([99, 100, 149, 150, 319, 320])).tolist() == [True, False, False, True, True, False]
    some = np.array([319, 5, 150])
    np.testing.assert_array_equal(index.vectors(some), np.stack([vectors[i] for i in some.tolist()]))
    queries_ND = unit(rng, 30)
    found, expected = index.search(queries_ND, 8)[1], brute_force(vectors, queries_ND, 8)[1]
    assert recall(expected, found) == 1.0 if method == "exact" else recall(expected, found) > 0.95


def test_what_was_written_is_read(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    vectors = dict(zip(range(200), unit(rng, 200), strict=True))
    index = build(vectors)
    index.write(tmp_path / "index")
    again = Nearest.read(tmp_path / "index", probes=index.probes, recall=index.recall)
    queries_ND = unit(rng, 20)
    for mine, theirs in zip(index.search(queries_ND, 6), again.search(queries_ND, 6), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert again.approximate == index.approximate
    assert again.drop(np.arange(10)) == 10  # it can still change
    assert again.count == 190


def test_approximate_search_reads_as_few_lists_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 well parted clusters in 128 lists: few lists hold all neighbours, and how many find them is measured."""
    monkeypatch.setattr("skillbank.index.nearest.APPROXIMATE_FROM", 4000)
    rng = np.random.default_rng(3)
    vectors_ND = unit(rng, 4000)
    index = Nearest.build(np.arange(4000), vectors_ND)
    assert 0 < index.probes < 128
    assert index.recall is not None
    assert index.recall >= 0.99
    queries_ND = vectors_ND[::40]
    expected = brute_force(dict(enumerate(vectors_ND)), queries_ND, 8)[1]
    assert recall(expected, index.search(queries_ND, 8)[1]) > 0.97


def test_large_pages_change_nothing_but_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("skillbank.index.nearest.large_pages", lambda address, size: asked.append((address, size)))
    rng = np.random.default_rng(4)
    index = Nearest.build(np.arange(1000), unit(rng, 1000))
    index.put(np.arange(1000, 1001), unit(rng, 1))  # no room was left: all moves elsewhere
    index.put(np.arange(1001, 1002), unit(rng, 1))  # now there is some
    index.drop(np.arange(5))
    assert [size for _, size in asked] == [4 * DIM * 1000, 4 * DIM * 1001]
    assert asked[0][0] != asked[1][0]
    monkeypatch.setattr("skillbank.index.pages.SMALLEST", 1)
    numbers = rng.integers(0, 255, size=9 * 2**20, dtype=np.uint8)
    before = numbers.copy()
    thread = large_pages(numbers.ctypes.data, numbers.nbytes)
    if thread is not None:
        thread.join()
    np.testing.assert_array_equal(numbers, before)
    assert large_pages(numbers.ctypes.data, 0) is None


def test_recall_by_hand() -> None:
    assert recall(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])) == 0.75


@settings(max_examples=60, deadline=None)
@given(
    start=st.sets(st.integers(1, 40), max_size=20),
    changes=st.lists(st.tuples(st.booleans(), st.sets(st.integers(1, 40), max_size=8)), max_size=8),
    depth=st.integers(1, 50),
)
def test_any_changes_leave_what_brute_force_finds(
    start: set[int], changes: list[tuple[bool, set[int]]], depth: int
) -> None:
    rng = np.random.default_rng(len(start))
    vectors = dict(zip(sorted(start), unit(rng, len(start)), strict=True))
    ids_N = np.array(sorted(vectors), dtype=np.int64)
    index = Nearest.build(ids_N, np.array([vectors[i] for i in ids_N.tolist()], dtype=np.float32).reshape(-1, DIM))
    for adding, ids in changes:
        some_N = np.array(sorted(ids), dtype=np.int64)
        if adding:
            new = unit(rng, len(ids))
            index.put(some_N, new)
            vectors |= dict(zip(some_N.tolist(), new, strict=True))
        else:
            index.drop(some_N)
            vectors = {i: vector for i, vector in vectors.items() if i not in ids}
    queries_ND = unit(rng, 3)
    cosines, found = index.search(queries_ND, depth)
    if not vectors:
        assert found.shape == (3, 0)
        return
    expected_cosines, expected = brute_force(vectors, queries_ND, depth)
    np.testing.assert_allclose(cosines, expected_cosines, atol=1e-6)
    assert [set(row) for row in found.tolist()] == [set(row) for row in expected.tolist()]
