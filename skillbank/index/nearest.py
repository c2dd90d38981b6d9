"""Nearest unit vectors by inner product: exact, or approximate where there are very many; one class for both.

Exact is FAISS's flat index. Approximate is its inverted lists over whole vectors (IVF-Flat): the only one of FAISS's
that finds nearly all, builds in seconds and lets entries go again. How many lists a search reads is set when it is
built, by what exact search finds. What is in an index and where it lies on disk is decided elsewhere (`index.py`,
`generations.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from skillbank.index.pages import large_pages

if TYPE_CHECKING:
    import numpy as np

BLAS_FROM_QUERIES = 12
"""From this many queries on FAISS multiplies matrices, up to five times faster than one dot product after another.
FAISS's own setting counts numbers, queries times dimensions, for the whole process: 128,000 by default."""
APPROXIMATE_FROM = 1_000_000
"""Entries of a kind from which search is approximate: exact, one query takes 0.1 s there (docs/benchmarks.md)."""
RECALL = 0.99
"""Share of the exact result that an approximate index finds when it is built."""
RECALL_DEPTH = 16
"""Depth at which that share is measured."""
RECALL_QUERIES = 256
TRAINING_ROWS = 64
"""Vectors a list that the lists' centres are computed from."""


class Nearest:
    """Unit vectors under ids. Build it with `build`, or `read` what `write` has written."""

    def __init__(self, index: Any, *, probes: int = 0, recall: float | None = None) -> None:
        self._index = index
        self.probes = probes
        """Lists that a search reads; 0 for exact search."""
        self.recall = recall
        """Share of the exact result that was found when it was built; None for exact search."""
        self._sorted_ids_N: np.ndarray[Any, Any] | None = None
        self._paged = 0
        self._page()

    @classmethod
    def build(
        cls, ids_N: np.ndarray[Any, Any], vectors_ND: np.ndarray[Any, Any], *, approximate: bool | None = None
    ) -> Self:
        """An index of these vectors: approximate from APPROXIMATE_FROM on, unless told."""
        import faiss

        if approximate if approximate is not None else len(ids_N) >= APPROXIMATE_FROM:
            return cls._build_approximate(ids_N, vectors_ND)
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors_ND.shape[1]))
        index.add_with_ids(vectors_ND, ids_N)
        return cls(index)

    @classmethod
    def _build_approximate(cls, ids_N: np.ndarray[Any, Any], vectors_ND: np.ndarray[Any, Any]) -> Self:
        import faiss
        import numpy as np

        count, dim = vectors_ND.shape
        lists = min(count, 2 ** round(math.log2(2 * math.sqrt(count))))
        index: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter = 10
        index.cp.min_points_per_centroid = 1  # only a warning of FAISS's
        random = np.random.default_rng(count)
        some = np.sort(random.choice(count, size=min(count, TRAINING_ROWS * lists), replace=False))
        made = cls(index)
        index.train(vectors_ND[some])
        index.add_with_ids(vectors_ND, ids_N)
        index.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]  # ids can be found, and let go
        made._calibrate(_between(vectors_ND[some[:: max(1, len(some) // RECALL_QUERIES)]], random), ids_N, vectors_ND)
        return made

    def _calibrate(
        self, queries_QD: np.ndarray[Any, Any], ids_N: np.ndarray[Any, Any], vectors_ND: np.ndarray[Any, Any]
    ) -> None:
        """Reads as few lists as find RECALL of what exact search finds."""
        import faiss

        depth = min(RECALL_DEPTH, len(ids_N))
        with _set_for_speed(len(queries_QD), vectors_ND.shape[1]):
            _, rows_QK = faiss.knn(queries_QD, vectors_ND, depth, metric=faiss.METRIC_INNER_PRODUCT)
        exact_QK = ids_N[rows_QK]
        self.probes = 1
        while True:
            self.recall = recall(exact_QK, self.search(queries_QD, depth)[1])
            if self.recall >= RECALL or self.probes >= self._index.nlist:
                return
            self.probes *= 2

    def _page(self) -> None:
        """Moves the vectors of exact search into large pages where they lie, in the background."""
        import faiss

        if self.approximate or not self.count:
            return
        flat: Any = faiss.downcast_index(self._index.index)
        address = int(flat.get_xb())
        if address != self._paged:
            self._paged = address
            large_pages(address, 4 * flat.ntotal * flat.d)

    @property
    def approximate(self) -> bool:
        return not hasattr(self._index, "id_map")  # which FAISS wraps around an exact index

    @property
    def outgrown(self) -> bool:
        """Whether it has become too large for exact search."""
        return not self.approximate and self.count >= APPROXIMATE_FROM

    @property
    def count(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        return int(self._index.d)

    def ids(self) -> np.ndarray[Any, Any]:
        """int64 [n], in no order."""
        import faiss
        import numpy as np

        if not self.approximate:
            return np.asarray(faiss.vector_to_array(self._index.id_map))
        lists = self._index.invlists
        sizes = [lists.list_size(n) for n in range(self._index.nlist)]
        parts = [faiss.rev_swig_ptr(lists.get_ids(n), size).copy() for n, size in enumerate(sizes) if size]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def holds(self, ids_N: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """bool [N]: which of these entries are in it."""
        import numpy as np

        if self._sorted_ids_N is None:
            self._sorted_ids_N = np.sort(self.ids())
        if len(self._sorted_ids_N) == 0:
            return np.zeros(len(ids_N), dtype=bool)
        places_N = np.searchsorted(self._sorted_ids_N, ids_N).clip(max=len(self._sorted_ids_N) - 1)
        return np.asarray(self._sorted_ids_N[places_N] == ids_N)

    def search(self, queries_ND: np.ndarray[Any, Any], depth: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(cosines float32 [N, d], ids int64 [N, d]), best first, equal ones by id; d = min(depth, count)."""
        import numpy as np

        depth = min(depth, self.count)
        if depth == 0 or len(queries_ND) == 0:
            shape = (len(queries_ND), depth)
            return np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.int64)
        queries_ND = np.ascontiguousarray(queries_ND, dtype=np.float32)
        if self.approximate:
            cosines_ND, ids_ND = self._search_lists(queries_ND, depth)
        else:
            with _set_for_speed(len(queries_ND), self.dim):
                cosines_ND, ids_ND = self._index.search(queries_ND, depth)
        order_ND = np.lexsort((ids_ND, -cosines_ND), axis=1)
        return np.take_along_axis(cosines_ND, order_ND, axis=1), np.take_along_axis(ids_ND, order_ND, axis=1)

    def _search_lists(
        self, queries_ND: np.ndarray[Any, Any], depth: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Reads more lists the deeper the search; all of them where too few entries were found."""
        lists = self._index.nlist
        self._index.nprobe = min(lists, self.probes * math.ceil(depth / RECALL_DEPTH))
        cosines_ND, ids_ND = self._index.search(queries_ND, depth)
        short_N = (ids_ND < 0).any(axis=1)
        if short_N.any():
            self._index.nprobe = lists
            cosines_ND[short_N], ids_ND[short_N] = self._index.search(queries_ND[short_N], depth)
        return cosines_ND, ids_ND

    def vectors(self, ids_N: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """float32 [N, dim] of entries that are in it."""
        import numpy as np

        if len(ids_N) == 0:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.asarray(self._index.reconstruct_batch(np.asarray(ids_N, dtype=np.int64)))

    def put(self, ids_N: np.ndarray[Any, Any], vectors_ND: np.ndarray[Any, Any]) -> int:
        """Adds entries, or gives them new vectors, and returns how many were new or moved."""
        import numpy as np

        known_N = self.holds(ids_N)
        same_N = known_N.copy()
        same_N[known_N] = (self.vectors(ids_N[known_N]) == vectors_ND[known_N]).all(axis=1)
        self.drop(ids_N[known_N & ~same_N])
        self._sorted_ids_N = None
        self._index.add_with_ids(np.ascontiguousarray(vectors_ND[~same_N]), np.ascontiguousarray(ids_N[~same_N]))
        self._page()  # more room may be elsewhere
        return int((~same_N).sum())

    def drop(self, ids_N: np.ndarray[Any, Any]) -> int:
        """Lets entries go, and returns how many of them were there."""
        import faiss
        import numpy as np

        ids_N = np.ascontiguousarray(ids_N[self.holds(ids_N)], dtype=np.int64)
        if len(ids_N) == 0:
            return 0
        self._sorted_ids_N = None
        if self.approximate:  # with ids to be found by hash, it takes a list of ids and no other selector
            return int(self._index.remove_ids(faiss.IDSelectorArray(len(ids_N), faiss.swig_ptr(ids_N))))
        return int(self._index.remove_ids(ids_N))

    def write(self, file: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(file))

    @classmethod
    def read(cls, file: Path, *, probes: int, recall: float | None) -> Self:
        """What `write` wrote. Call it for our own files alone: FAISS trusts the lengths that a file states."""
        import faiss

        return cls(faiss.read_index(str(file)), probes=probes, recall=recall)


def recall(exact_QK: np.ndarray[Any, Any], found_QK: np.ndarray[Any, Any]) -> float:
    """Share of the exact ids [Q, K] that were found."""
    hits = sum(len(set(exact) & set(found)) for exact, found in zip(exact_QK.tolist(), found_QK.tolist(), strict=True))
    return hits / max(1, exact_QK.size)


def _between(vectors_QD: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Queries as problems are: near an entry, but not one; cosine about 0.5 to the vectors given."""
    import numpy as np

    noise_QD = random.standard_normal(vectors_QD.shape, dtype=np.float32)
    noise_QD /= np.linalg.norm(noise_QD, axis=1, keepdims=True)
    queries_QD = vectors_QD + 1.7 * noise_QD
    norms_Q1 = np.linalg.norm(queries_QD, axis=1, keepdims=True)
    return np.ascontiguousarray(queries_QD / np.where(norms_Q1 > 0, norms_Q1, 1), dtype=np.float32)


@contextmanager
def _set_for_speed(queries: int, dim: int) -> Iterator[None]:
    """FAISS multiplies matrices for many queries, and one query gets one thread: FAISS shares out queries among
    threads, and a team of them around a single one halves its speed."""
    import faiss

    threads = faiss.omp_get_max_threads()
    threshold = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = BLAS_FROM_QUERIES * dim
    if queries == 1:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = threshold
        faiss.omp_set_num_threads(threads)
