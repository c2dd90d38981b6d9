"""Which pairs a problem gets out of made-up vectors: against restatements over all entries at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skillbank.index.nearest import Nearest
from skillbank.records import Kind, Mistake, Pair, Skill
from skillbank.retrieve.candidates import Candidates
from skillbank.retrieve.diversity import spread
from skillbank.retrieve.pairing import Joined
from skillbank.retrieve.settings import Pairing, Settings
from skillbank.store import Bank
from skillbank.store.query import SIDES

Array = np.ndarray[Any, Any]
COUNT, DIM = 60, 8
SKILLS, MISTAKES = range(1, COUNT + 1), range(COUNT + 1, 2 * COUNT + 1)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """60 skills (1 to 60), 60 mistakes (61 to 120), and 150 pair entries between them, a third of them disabled."""
    rng = np.random.default_rng(0)
    with Bank.create(tmp_path_factory.mktemp("candidates") / "bank") as bank, bank.change(actor="me") as change:
        for n in SKILLS:
            change.add(Skill(title=f"skill {n}", principle="p"))
        for n in MISTAKES:
            change.add(Mistake(description=f"mistake {n}"))
        all_pairs = list(itertools.product(SKILLS, MISTAKES))
        for n, place in enumerate(rng.choice(len(all_pairs), size=150, replace=False).tolist()):
            skill, mistake = all_pairs[place]
            change.add(Pair(skill_id=skill, mistake_id=mistake), status="disabled" if n % 3 == 0 else "active")
    with Bank.open(bank.path) as bank:
        yield bank


@pytest.fixture(scope="module")
def vectors() -> dict[int, Array]:
    rng = np.random.default_rng(1)
    found = rng.standard_normal((2 * COUNT, DIM))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return {n: found[n - 1].astype(np.float32) for n in (*SKILLS, *MISTAKES)}


@pytest.fixture(scope="module")
def indexes(vectors: dict[int, Array]) -> dict[Kind, Nearest]:
    sides: dict[Kind, range] = {"skill": SKILLS, "mistake": MISTAKES}
    return {kind: Nearest.build(np.array(ids), np.stack([vectors[i] for i in ids])) for kind, ids in sides.items()}


@pytest.fixture(scope="module")
def queries_ND() -> Array:
    queries = np.random.default_rng(2).standard_normal((30, DIM))
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def left_out() -> list[set[int]]:
    rng = np.random.default_rng(3)
    return [set(rng.choice(2 * COUNT, size=n, replace=False) + 1) if n % 3 else set() for n in range(30)]


def pair_entries(bank: Bank) -> dict[tuple[int, int], bool]:
    pairs = [(e.content, e.status == "active") for e in bank.entries() if e.kind == "pair"]
    return {(pair.skill_id, pair.mistake_id): active for pair, active in pairs if isinstance(pair, Pair)}


def usable(vectors: dict[int, Array], query_D: Array, ids: range, left: set[int], bound: float | None) -> list[int]:
    cosines = {i: float(vectors[i] @ query_D) for i in ids if i not in left}
    return sorted((i for i in cosines if bound is None or cosines[i] >= bound), key=lambda i: -cosines[i])


def by_rank(
    pairs: dict[tuple[int, int], bool], skills: list[int], mistakes: list[int], k: int
) -> list[tuple[int, int]]:
    found, rest = [], list(mistakes)
    for skill in skills:
        for mistake in rest:
            if len(found) < k and pairs.get((skill, mistake), True):
                found.append((skill, mistake))
                rest.remove(mistake)
                break
    return found


def as_mined(
    pairs: dict[tuple[int, int], bool],
    vectors: dict[int, Array],
    query_D: Array,
    skills: list[int],
    mistakes: list[int],
    k: int,
) -> list[tuple[int, int]]:
    scored = sorted(
        (pair for pair, active in pairs.items() if active and pair[0] in skills and pair[1] in mistakes),
        key=lambda pair: -float((vectors[pair[0]] + vectors[pair[1]]) @ query_D),
    )
    found: list[tuple[int, int]] = []
    for skill, mistake in scored:
        if len(found) < k and all(skill != s and mistake != m for s, m in found):
            found.append((skill, mistake))
    return found


def matched(
    pairs: dict[tuple[int, int], bool], vectors: dict[int, Array], skills: list[int], mistakes: list[int], k: int
) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for skill in skills[:k]:
        free = [m for m in mistakes if pairs.get((skill, m), True) and all(m != taken for _, taken in found)]
        if free:
            found.append((skill, max(free, key=lambda m: float(vectors[m] @ vectors[skill]))))
    return found


@pytest.mark.parametrize("bound", [None, 0.1, 0.5])
@pytest.mark.parametrize("k", [1, 4, 40])
@pytest.mark.parametrize("pairing", ["rank", "mined", "match"])
def test_pairings_against_restatements(
    bank: Bank,
    vectors: dict[int, Array],
    indexes: dict[Kind, Nearest],
    queries_ND: Array,
    left_out: list[set[int]],
    pairing: Pairing,
    k: int,
    bound: float | None,
) -> None:
    candidates = Candidates(bank, indexes, Settings(k=k, pairing=pairing), dict.fromkeys(SIDES, bound))
    pools = candidates.pools(queries_ND, left_out)
    pairs = pair_entries(bank)
    sizes = set()
    for pool, query_D, left in zip(pools, queries_ND, left_out, strict=True):
        skills = usable(vectors, query_D, SKILLS, left, bound)
        mistakes = usable(vectors, query_D, MISTAKES, left, bound)
        expected = {
            "rank": lambda s=skills, m=mistakes: by_rank(pairs, s, m, k),
            "mined": lambda s=skills, m=mistakes, q=query_D: as_mined(pairs, vectors, q, s, m, k),
            "match": lambda s=skills, m=mistakes: matched(pairs, vectors, s, m, k),
        }[pairing]()
        assert [(pair.skill.id, pair.mistake.id) for pair in pool] == expected
        for pair in pool:
            assert pair.skill.cosine == pytest.approx(float(vectors[pair.skill.id] @ query_D), abs=1e-6)
            assert pair.mistake.cosine == pytest.approx(float(vectors[pair.mistake.id] @ query_D), abs=1e-6)
            known = bank.pair_of(pair.skill.id, pair.mistake.id)
            assert pair.pair_id == (known[0] if known else None)
        sizes.add(len(pool))
    assert max(sizes) > 0
    alone = [candidates.pools(queries_ND[n : n + 1], [left_out[n]])[0] for n in range(30)]
    assert [ids(pool) for pool in alone] == [ids(pool) for pool in pools]  # whatever depth the batch wanted


def ids(pool: list[Joined]) -> list[tuple[int, int]]:
    return [(pair.skill.id, pair.mistake.id) for pair in pool]


def test_spread_by_hand() -> None:
    """A near copy of the best waits until what is unlike it has had its turn."""
    vectors_ND = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    cosines_N = np.array([0.9, 0.89, 0.4, 0.7])
    assert spread(cosines_N, vectors_ND, 0.0) == [0, 1, 3, 2]
    # then: 1 at 0.445 - 0.5, 2 at 0.2 - 0, 3 at 0.35 - 0.3; then 1 at 0.445 - 0.5, 3 at 0.35 - 0.4
    assert spread(cosines_N, vectors_ND, 0.5) == [0, 2, 3, 1]
    assert spread(np.zeros(0), np.zeros((0, 2), dtype=np.float32), 0.5) == []


@pytest.mark.parametrize("pairing", ["rank", "mined", "match"])
def test_diversity_makes_pools_less_alike(
    bank: Bank,
    vectors: dict[int, Array],
    indexes: dict[Kind, Nearest],
    queries_ND: Array,
    left_out: list[set[int]],
    pairing: Pairing,
) -> None:
    def likeness(pools: list[list[Joined]]) -> float:
        values = []
        for pool in pools:
            sides = [vectors[pair.skill.id] for pair in pool]
            values += [float(a @ b) for a, b in itertools.combinations(sides, 2)]
        return float(np.mean(values))

    found = {}
    for diversity in (0.0, 1e-9, 0.6):
        settings = Settings(k=4, pairing=pairing, diversity=diversity)
        found[diversity] = Candidates(bank, indexes, settings, dict.fromkeys(SIDES)).pools(queries_ND, left_out)
    assert [ids(pool) for pool in found[1e-9]] == [ids(pool) for pool in found[0.0]]
    assert likeness(found[0.6]) < likeness(found[0.0]) - 0.1
    firsts = [pool[0].skill.id for pool in found[0.6]]
    assert firsts == [pool[0].skill.id for pool in found[0.0]]  # the nearest stays first


def test_an_empty_index_gives_no_pair(tmp_path: Path) -> None:
    empty = Nearest.build(np.zeros(0, dtype=np.int64), np.zeros((0, DIM), dtype=np.float32))
    with Bank.create(tmp_path / "bank") as bank:
        for pairing in ("rank", "mined", "match"):
            candidates = Candidates(
                bank, {"skill": empty, "mistake": empty}, Settings(pairing=pairing), dict.fromkeys(SIDES)
            )
            assert candidates.pools(np.ones((2, DIM), dtype=np.float32), [set(), set()]) == [[], []]
