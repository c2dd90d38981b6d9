"""All pairs of unit vectors above a cosine: exact, in blocks, with memory that grows with the rows and not the pairs.

Every pair is compared, by multiplying blocks of rows. Where a few leading directions tell most pairs apart, these are
compared first: with `r` the length of what the directions leave out of a vector, `a . b <= a' . b' + r_a r_b`
(Cauchy-Schwarz), so what falls short of the bound need not be looked at in full. One core compares 300 million pairs a
second that way. Left out: searching for a query (index.py), and what is made of the pairs (cluster.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float32]

TOLERANCE = 1e-6
"""What float32 may take from the cosine of two equal texts."""
ROWS, COLUMNS = 1024, 8192
"""Of one product: 32 MiB."""
HITS = 4_000_000
"""Neighbours held at a time; where a block has more, fewer rows are taken at once."""
GATHERED = 16_384
"""Pairs whose vectors are looked up at a time."""
DENSE = 0.01
"""Of the pairs of a product, so many that pass the bound are multiplied in full at once."""

WIDTHS = (64, 128, 256)
"""Columns of narrowed vectors: leading directions, and one for what they leave out."""
SAMPLE = 2048
MAX_FALSE_SHARE = 1e-3
"""Pairs that pass the bound and are not near: more would cost more to look at than the narrower product saves."""

Progress = Callable[[int, int], None]
"""(rows done, rows in all)"""


class Neighbours(NamedTuple):
    """The earlier rows that are near one row."""

    row: int
    earlier: Ints
    cosines: Floats


def earlier_neighbours(
    vectors_ND: np.ndarray[Any, Any], min_cosine: float, *, on_progress: Progress | None = None
) -> Iterator[Neighbours]:
    """For every row that has any, in order: the earlier rows with a cosine of at least `min_cosine`."""
    for block in _blocks(vectors_ND, min_cosine, on_progress):
        yield from _by_row(*block)


def _by_row(rows: Ints, earlier: Ints, cosines: Floats) -> Iterator[Neighbours]:
    """Pairs sorted by row, a row at a time."""
    import numpy as np

    starts = np.flatnonzero(np.diff(rows, prepend=-1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=False):
        yield Neighbours(int(rows[start]), earlier[start:stop], cosines[start:stop])


def _blocks(
    vectors_ND: np.ndarray[Any, Any], min_cosine: float, on_progress: Progress | None = None, *, first: int = 0
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """(rows, earlier rows, cosines) of all pairs that are near, block by block, by row and then by earlier row; from
    row `first` on."""
    import numpy as np

    vectors_ND = np.ascontiguousarray(vectors_ND, dtype=np.float32)
    count, start, height = len(vectors_ND), first, ROWS
    narrow_NW = _narrowed(vectors_ND, min_cosine) if count - first > SAMPLE else vectors_ND
    while start < count:
        stop = min(start + height, count)
        found = _search(vectors_ND, narrow_NW, start, stop, min_cosine - TOLERANCE)
        if found is None:
            height = max(1, (stop - start) // 4)
            continue
        yield found
        start = stop
        if on_progress is not None:
            on_progress(start, count)


def _search(
    vectors_ND: Floats, narrow_NW: Floats, start: int, stop: int, least: float
) -> tuple[Ints, Ints, Floats] | None:
    """The near pairs of rows start to stop and the rows before each; None when there are too many to hold."""
    import numpy as np

    parts: list[tuple[Ints, Ints, Floats]] = []
    held = 0
    for left in range(0, stop, COLUMNS):
        right = min(left + COLUMNS, stop)
        exact = narrow_NW is vectors_ND
        product = narrow_NW[start:stop] @ narrow_NW[left:right].T
        hits = np.flatnonzero(product.ravel() >= (least if exact else least - 1e-5))
        if not exact and len(hits) > DENSE * product.size:  # so many are multiplied faster than looked up
            exact = True
            product = vectors_ND[start:stop] @ vectors_ND[left:right].T
            hits = np.flatnonzero(product.ravel() >= least)
        rows, earlier = np.divmod(hits, right - left)
        rows, earlier = rows + start, earlier + left
        before = earlier < rows
        rows, earlier = rows[before], earlier[before]
        if exact:
            cosines = product.ravel()[hits[before]]
        else:
            cosines = _cosines(vectors_ND, rows, earlier)
            near = cosines >= least
            rows, earlier, cosines = rows[near], earlier[near], cosines[near]
        parts.append((rows, earlier, cosines))
        held += len(rows)
        if held > HITS and stop - start > 1:
            return None
    rows, earlier, cosines = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(rows, kind="stable")
    return rows[order], earlier[order], cosines[order]


def _cosines(vectors_ND: Floats, rows: Ints, others: Ints) -> Floats:
    import numpy as np

    cosines = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), GATHERED):
        part = slice(start, start + GATHERED)
        cosines[part] = np.einsum("nd,nd->n", vectors_ND[rows[part]], vectors_ND[others[part]])
    return cosines


def _narrowed(vectors_ND: Floats, min_cosine: float) -> Floats:
    """Vectors of fewer columns whose products are upper bounds of the cosines; the vectors themselves where no width
    tells enough pairs apart."""
    import numpy as np

    count, dim = vectors_ND.shape
    if count < 2 * SAMPLE:
        return vectors_ND
    # Tried on other rows than the directions were made from, which they fit too well.
    stride = count // SAMPLE
    made_from, sample = (np.ascontiguousarray(vectors_ND[first::stride][:SAMPLE]) for first in (0, 1))
    _, directions = np.linalg.eigh((made_from.T @ made_from).astype(np.float64))
    near = int((sample @ sample.T >= min_cosine).sum())
    for width in WIDTHS:
        if 2 * width > dim:
            break
        leading = np.ascontiguousarray(directions[:, ::-1][:, : width - 1], dtype=np.float32)
        narrow = _project(sample, leading)
        if int((narrow @ narrow.T >= min_cosine).sum()) - near <= MAX_FALSE_SHARE * len(sample) ** 2:
            return _project(vectors_ND, leading)
    return vectors_ND


def _project(vectors_ND: Floats, leading_DW: Floats) -> Floats:
    import numpy as np

    narrow = np.empty((len(vectors_ND), leading_DW.shape[1] + 1), dtype=np.float32)
    np.matmul(vectors_ND, leading_DW, out=narrow[:, :-1])
    rest = np.einsum("nd,nd->n", vectors_ND, vectors_ND) - np.einsum("nd,nd->n", narrow[:, :-1], narrow[:, :-1])
    # Rounding may make the rest too small, and then the bound too low: a millionth more is on the safe side.
    narrow[:, -1] = np.sqrt(np.maximum(rest, 0) + 1e-6)
    return narrow


class NearPairs(NamedTuple):
    """All pairs of rows above a floor, kept to be clustered at one threshold after another."""

    of_rows: int
    """How many rows were compared."""
    rows: Ints
    others: Ints
    """The earlier row of each pair."""
    cosines: Floats
    floor: float
    """Every pair at least so near is here. Higher than what was asked for where that was too many."""

    def earlier(self, order: Sequence[int], min_cosine: float) -> Iterator[Neighbours]:
        """What `earlier_neighbours` says of these rows (all or some of them) in this order, without comparing them."""
        import numpy as np

        rank = np.full(self.of_rows, -1, dtype=np.int64)
        rank[np.asarray(order, dtype=np.int64)] = np.arange(len(order))
        one, other = rank[self.rows], rank[self.others]
        near = (self.cosines >= min_cosine - TOLERANCE) & (one >= 0) & (other >= 0)
        one, other, cosines = one[near], other[near], self.cosines[near]
        later, earlier = np.maximum(one, other), np.minimum(one, other)
        sort = np.lexsort((earlier, later))
        return _by_row(later[sort], earlier[sort], cosines[sort])

    def among(self, rows: Sequence[int]) -> NearPairs:
        """The pairs of these rows alone, which are in ascending order, numbered anew."""
        import numpy as np

        number = np.full(self.of_rows, -1, dtype=np.int64)
        number[np.asarray(rows, dtype=np.int64)] = np.arange(len(rows))
        one, other = number[self.rows], number[self.others]
        both = (one >= 0) & (other >= 0)
        return NearPairs(len(rows), one[both], other[both], self.cosines[both], self.floor)


def near_pairs(
    vectors_ND: np.ndarray[Any, Any], min_cosine: float, *, known: NearPairs | None = None, max_pairs: int = 2_000_000
) -> NearPairs:
    """The pairs of rows at least `min_cosine` near; of more than `max_pairs`, the nearest, with the floor raised.

    `known`, where given, are the pairs of the first rows: those are not compared with one another again.
    """
    import numpy as np

    if known is None:
        known = NearPairs(0, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), min_cosine)
    floor = max(min_cosine, known.floor)
    held: list[tuple[Ints, Ints, Floats]] = [(known.rows, known.others, known.cosines)]
    count = len(known.rows)

    def thinned() -> tuple[Ints, Ints, Floats]:
        nonlocal floor
        rows, others, cosines = (np.concatenate(part) for part in zip(*held, strict=True))
        if len(rows) > max_pairs:
            # Just above the best that does not fit, so that all which are equally near are in or out together.
            floor = float(np.nextafter(np.partition(cosines, -max_pairs - 1)[-max_pairs - 1], np.float32(2)))
            kept = cosines >= floor
            rows, others, cosines = rows[kept], others[kept], cosines[kept]
        return rows, others, cosines

    for rows, others, cosines in _blocks(vectors_ND, min_cosine, first=known.of_rows):
        kept = cosines >= floor - TOLERANCE
        held.append((rows[kept], others[kept], cosines[kept]))
        count += int(kept.sum())
        if count > 2 * max_pairs:
            held = [thinned()]
            count = len(held[0][0])
    return NearPairs(len(vectors_ND), *thinned(), floor=floor)
