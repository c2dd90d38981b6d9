"""Unit vectors into clusters of near neighbours, the same whatever order the entries come in.

Rows come best first: a row joins an earlier cluster when it is near enough to every member of it (complete link, so
that a chain of small steps never joins its ends), and among such clusters the one whose leader is nearest; else it
leads a cluster of its own. The leader is thus the best row of its cluster.

What rows mean, and which of them must stay apart whatever their cosine, is the caller's to say (dedupe.py); where their
neighbours come from is in neighbours.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from skillbank.dedupe.neighbours import Neighbours, Progress, earlier_neighbours
from skillbank.errors import InvalidOption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float32]

LISTED = 1000
"""Of the pairs that stay apart, so many are told one by one."""

MayJoin = Callable[[int, int], bool]


class Apart(NamedTuple):
    """Two leaders that are near and yet stay apart."""

    row: int
    other: int
    """The better of the two."""
    cosine: float


class Clustering(NamedTuple):
    """Which rows belong together."""

    leader_N: Ints
    """The row that leads each row's cluster; a leader's own is itself."""
    near: int
    """Pairs of rows at least `min_cosine` near each other, absorbed rows left out."""
    still_near: int
    """Such pairs among the leaders: each has a member too far from the other, or may not join."""
    crowded: int
    """Rows with at least one such neighbour."""
    still_crowded: int
    """Leaders with at least one among the leaders."""
    apart: tuple[Apart, ...]
    """The first LISTED of them."""

    def members(self) -> dict[int, list[int]]:
        """Leader -> its cluster, best first; only clusters of more than one row."""
        import numpy as np

        joined = np.flatnonzero(self.leader_N != np.arange(len(self.leader_N)))
        clusters: dict[int, list[int]] = {}
        for row in joined.tolist():
            leader = int(self.leader_N[row])
            clusters.setdefault(leader, [leader]).append(row)
        return {leader: sorted(clusters[leader]) for leader in sorted(clusters)}


def cluster(
    vectors_ND: np.ndarray[Any, Any],
    min_cosine: float,
    *,
    absorbed: Iterable[tuple[int, int]] = (),
    may_join: MayJoin | None = None,
    on_progress: Progress | None = None,
) -> Clustering:
    """Complete-link clusters of the rows of `vectors_ND` (unit vectors, float32 [N, D]), which come best first.

    `absorbed` names rows that belong to another from before, as (row, row that took it in): every such row precedes the
    row that took it in, and counts when that one asks to join. `may_join(row, member)` can refuse. Raises InvalidOption
    for a bound outside [-1, 1].
    """
    check_cosine(min_cosine)
    neighbours = earlier_neighbours(vectors_ND, min_cosine, on_progress=on_progress)
    return complete_link(neighbours, len(vectors_ND), absorbed=absorbed, may_join=may_join)


def check_cosine(min_cosine: float) -> None:
    if not -1 <= min_cosine <= 1:
        raise InvalidOption(f"the least cosine is {min_cosine}: it must be between -1 and 1")


def complete_link(
    neighbours: Iterable[Neighbours],
    count: int,
    *,
    absorbed: Iterable[tuple[int, int]] = (),
    may_join: MayJoin | None = None,
) -> Clustering:
    """Clusters of `count` rows from their earlier neighbours, which are all of those above one threshold."""
    return _Linking(count, absorbed, may_join).run(neighbours)


class _Linking:
    """The clusters as they stand while rows come by. A cluster's number is the row that leads it."""

    def __init__(self, count: int, absorbed: Iterable[tuple[int, int]], may_join: MayJoin | None) -> None:
        import numpy as np

        self.leader_N = np.arange(count, dtype=np.int64)
        self.groups: dict[int, list[int]] = {}
        """Row -> it and the rows it took in before."""
        for row, head in absorbed:
            if not 0 <= row < head < count:
                raise ValueError(f"row {row} is absorbed by {head}: it must come before the row that took it in")
            self.leader_N[row] = head
            self.groups.setdefault(head, [head]).append(row)
        self.head_N = self.leader_N.copy()
        self.size_N = np.bincount(self.leader_N, minlength=count)
        self.members: dict[int, list[int]] = {}
        self.may_join = may_join
        self.near = self.still_near = 0
        self.crowded_N = np.zeros(count, dtype=bool)
        self.still_crowded_N = np.zeros(count, dtype=bool)
        self.apart: list[Apart] = []
        self.waiting: dict[int, list[set[int]]] = {}
        """Row -> for each row it took in, the clusters that this one is near as a whole."""

    def run(self, neighbours: Iterable[Neighbours]) -> Clustering:
        for row, earlier, cosines in neighbours:
            whole = self._near_as_a_whole(earlier, head=int(self.head_N[row]))
            if self.head_N[row] != row:
                self.waiting.setdefault(int(self.head_N[row]), []).append(set(whole))
                continue
            standing = self.head_N[earlier] == earlier
            self.near += int(standing.sum())
            self.crowded_N[earlier[standing]] = True
            self.crowded_N[row] |= standing.any()
            leads = self.leader_N[earlier] == earlier
            leaders = dict(zip(earlier[leads].tolist(), cosines[leads].tolist(), strict=True))
            home = self._home(row, [(-leaders[leader], leader) for leader in whole if leader in leaders])
            if home is not None:
                self._join(row, home)
                continue
            self.still_near += len(leaders)
            self.still_crowded_N[[*leaders, *([row] if leaders else [])]] = True
            self.apart += [Apart(row, *pair) for pair in leaders.items()][: LISTED - len(self.apart)]
        return Clustering(
            leader_N=self.leader_N,
            near=self.near,
            still_near=self.still_near,
            crowded=int(self.crowded_N.sum()),
            still_crowded=int(self.still_crowded_N.sum()),
            apart=tuple(self.apart),
        )

    def _near_as_a_whole(self, earlier: Ints, head: int) -> list[int]:
        """The clusters all of whose members are among these rows."""
        import numpy as np

        numbers = self.leader_N[earlier]
        if len(numbers) == 1:
            only = int(numbers[0])
            return [only] if self.size_N[only] == 1 and only != head else []
        found, counts = np.unique(numbers, return_counts=True)
        whole: list[int] = found[(counts == self.size_N[found]) & (found != head)].tolist()
        return whole

    def _home(self, row: int, candidates: list[tuple[float, int]]) -> int | None:
        """The cluster with the nearest leader that takes the row and all that it took in before."""
        group = self.groups.get(row, [row])
        waiting = self.waiting.pop(row, [])
        if len(waiting) < len(group) - 1:  # one of them is near nothing
            return None
        for _, leader in sorted(candidates):
            if not all(leader in near for near in waiting):
                continue
            members = self.members.get(leader) or self.groups.get(leader, [leader])
            if self.may_join is None or all(self.may_join(one, other) for one in group for other in members):
                return leader
        return None

    def _join(self, row: int, leader: int) -> None:
        group = self.groups.get(row, [row])
        self.members.setdefault(leader, list(self.groups.get(leader, [leader]))).extend(group)
        self.leader_N[group] = leader
        self.size_N[leader] += len(group)
