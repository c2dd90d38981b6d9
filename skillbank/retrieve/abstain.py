"""When to say nothing: a bound on the cosine between problem and entry, read off the bank itself.

Entries that rest on a problem are known to be about it; entries of other problems mostly are not. Over problems whose
text the bank keeps, `calibrate` compares the cosines of the ones with those of the others, for skills and mistakes
apart, and takes the bound that tells them apart best: the share of own entries kept minus the share of others kept is
highest there (Youden's index). A problem whose nearest entries all lie below it gets no pair: nothing in the bank looks
more like it than an entry about something else does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skillbank.errors import InvalidOption
from skillbank.index.embed import Embedder
from skillbank.index.nearest import Nearest
from skillbank.records import Kind, Record
from skillbank.store import Bank
from skillbank.store.query import SIDES

if TYPE_CHECKING:
    import numpy as np

PROBLEMS = 500
"""Problems to calibrate on, spread evenly over the bank's."""
OTHERS = 20
"""Entries of other problems that each is compared with, a kind."""
FEWEST = 10
"""Own entries of a kind below which no bound can be told."""


class Calibration(Record):
    """The bound of a kind, and what it does to the entries it was read off."""

    min_cosine: float
    problems: int
    own_kept: float
    """Share of the problems' own entries at or above the bound."""
    others_kept: float
    """Share of other problems' entries at or above it."""


def calibrate(bank: Bank, embedder: Embedder, indexes: Mapping[Kind, Nearest]) -> dict[Kind, Calibration]:
    """The bound of each kind. Raises InvalidOption when the bank keeps too few problems with entries."""
    problems = _problems(bank)
    resting = _resting(bank, [problem_id for problem_id, _ in problems])
    queries_ND = embedder.encode_queries([text for _, text in problems])
    found: dict[Kind, Calibration] = {}
    for kind in SIDES:
        own_N, others_N = _cosines(indexes[kind], [resting[problem_id] for problem_id, _ in problems], queries_ND)
        if min(len(own_N), len(others_N)) < FEWEST:
            raise InvalidOption(
                f"min_cosine is 'auto' but {bank.path} has {len(own_N)} {kind}s that rest on one of {len(problems)} "
                f"problems whose text it keeps, and {FEWEST} are needed: give a number"
            )
        bound = _youden(own_N, others_N)
        found[kind] = Calibration(
            min_cosine=bound,
            problems=len(problems),
            own_kept=float((own_N >= bound).mean()),
            others_kept=float((others_N >= bound).mean()),
        )
    return found


def _problems(bank: Bank) -> list[tuple[str, str]]:
    """(id, text) of at most PROBLEMS of the bank's problems, evenly spread."""
    ids = [row[0] for row in bank.db.rows("SELECT problem_id FROM problems ORDER BY problem_id")]
    some = ids[:: max(1, -(-len(ids) // PROBLEMS))]
    sql = "SELECT problem_id, problem FROM problems WHERE problem_id IN (SELECT value FROM json_each(?))"
    return [(row[0], row[1]) for row in bank.db.rows(f"{sql} ORDER BY problem_id", (json.dumps(some),))]


def _resting(bank: Bank, problem_ids: Sequence[str]) -> dict[str, set[int]]:
    """The entries that rest on each problem, on others as well or not."""
    rows = bank.db.rows(
        "SELECT DISTINCT x.problem_id, coalesce(e.head, e.id) FROM evidence x JOIN entries e ON e.id = x.entry_id"
        " WHERE x.active AND x.problem_id IN (SELECT value FROM json_each(?))",
        (json.dumps(problem_ids),),
    )
    resting: dict[str, set[int]] = {problem_id: set() for problem_id in problem_ids}
    for problem_id, entry_id in rows:
        resting[problem_id].add(entry_id)
    return resting


def _cosines(
    index: Nearest, resting: Sequence[set[int]], queries_ND: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Cosines of problems to the entries in the index that rest on them, and to some that do not."""
    import numpy as np

    random = np.random.default_rng(0)
    ids_N = np.sort(index.ids())
    own = [np.zeros(0, dtype=np.float32)]
    others = [np.zeros(0, dtype=np.float32)]
    for ids, query_D in zip(resting, queries_ND, strict=True):
        resting_N = np.array(sorted(ids), dtype=np.int64)
        own_N = resting_N[index.holds(resting_N)]
        if len(own_N) == 0:
            continue
        some_N = np.unique(ids_N[random.integers(len(ids_N), size=OTHERS)])
        own.append(index.vectors(own_N) @ query_D)
        others.append(index.vectors(some_N[~np.isin(some_N, resting_N)]) @ query_D)
    return np.concatenate(own), np.concatenate(others)


def _youden(own_N: np.ndarray[Any, Any], others_N: np.ndarray[Any, Any]) -> float:
    """The lowest cosine that parts the two best."""
    import numpy as np

    bounds_N = np.unique(own_N)
    own_kept_N = 1 - np.searchsorted(np.sort(own_N), bounds_N) / len(own_N)
    others_kept_N = 1 - np.searchsorted(np.sort(others_N), bounds_N) / len(others_N)
    return float(bounds_N[np.argmax(own_kept_N - others_kept_N)])
