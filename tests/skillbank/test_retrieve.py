from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from skillbank.errors import BankNotFound, ForeignFingerprint, InvalidOption
from skillbank.index.embed import Embedder
from skillbank.index.vectors import adopt, load_vectors
from skillbank.records import Pair, RetrievedPair, Skill, problem_hash
from skillbank.retrieve import Retriever, Settings, nearest_entries, open_retriever
from skillbank.store import Bank

from .made_up import OPERATIONS, evidence, mined

PROBLEM = "What is 5 zorp 7 modulo 23?"


def ids(pairs: list[RetrievedPair]) -> list[tuple[int, int]]:
    return [(pair.skill_id, pair.mistake_id) for pair in pairs]


@pytest.fixture
def adopted(bank: Bank, embedder: Embedder) -> Bank:
    adopt(bank, embedder.name, device="cpu")
    return bank


@pytest.fixture
def retriever(adopted: Bank, embedder: Embedder) -> Retriever:
    return Retriever(adopted, embedder, Settings(k=4))


def test_pairs_by_rank_with_softmax_weights(adopted: Bank, embedder: Embedder) -> None:
    """Against the formula of docs/method.md, step 3, restated in float64 over all entries."""
    retriever = Retriever(adopted, embedder, Settings(k=4, temperature=0.5))
    problems = [PROBLEM, "3 blen 4 quix 5", "drell"]
    for problem, pairs in zip(problems, retriever.retrieve(problems), strict=True):
        query_D = embedder.encode_queries([problem])[0].astype(np.float64)
        ranked = {}
        for kind in ("skill", "mistake"):
            ids_N, vectors_ND = load_vectors(adopted, embedder.fingerprint, kind)
            cosines_N = vectors_ND.astype(np.float64) @ query_D
            order = np.argsort(-cosines_N)[:4]
            ranked[kind] = (ids_N[order].tolist(), cosines_N[order])
        assert ids(pairs) == list(zip(ranked["skill"][0], ranked["mistake"][0], strict=True))
        means_K = (ranked["skill"][1] + ranked["mistake"][1]) / 2
        weights_K = np.exp(means_K / 0.5) / np.exp(means_K / 0.5).sum()
        np.testing.assert_allclose([pair.weight for pair in pairs], weights_K, atol=1e-6)
        np.testing.assert_allclose([pair.skill_cosine for pair in pairs], ranked["skill"][1], atol=1e-6)
        np.testing.assert_allclose([pair.mistake_cosine for pair in pairs], ranked["mistake"][1], atol=1e-6)


def test_a_pair_comes_with_its_words_and_its_entry(retriever: Retriever) -> None:
    first = retriever.retrieve([PROBLEM])[0][0]
    assert (first.skill, first.mistake) == (mined("zorp").skill, mined("zorp").mistake)
    assert (first.skill_id, first.mistake_id, first.pair_id) == (1, 2, 3)


def test_a_batch_equals_one_by_one(retriever: Retriever) -> None:
    problems = [f"What is {n} {operation} {n + 1}?" for n, operation in enumerate(OPERATIONS)]
    together = retriever.retrieve(problems)
    alone = [retriever.retrieve([problem])[0] for problem in problems]
    assert [ids(pairs)[0] for pairs in together] == [ids(pairs)[0] for pairs in alone]
    for one, other in zip(together, alone, strict=True):
        assert [p.weight for p in one] == pytest.approx([p.weight for p in other], abs=1e-6)
    assert retriever.retrieve([]) == []


def test_what_rests_on_this_very_problem_is_left_out(retriever: Retriever, adopted: Bank, embedder: Embedder) -> None:
    kept, left = retriever.retrieve([PROBLEM, PROBLEM], ["p-other", "p-zorp"])
    assert ids(kept)[0] == (1, 2)
    assert len(left) == 4  # deeper ones take their place
    assert not {1, 2} & {i for pair in ids(left) for i in pair}
    assert math.fsum(pair.weight for pair in left) == pytest.approx(1)
    own = Retriever(adopted, embedder, Settings(k=4, leave_one_problem_out=False))
    assert ids(own.retrieve([PROBLEM], ["p-zorp"])[0])[0] == (1, 2)


def test_evidence_from_elsewhere_brings_it_back(retriever: Retriever, adopted: Bank) -> None:
    with adopted.change(actor="me") as change:
        change.add_evidence(1, [evidence("p-other", "correct")])
    found = ids(retriever.retrieve([PROBLEM], ["p-zorp"])[0])
    assert found[0][0] == 1  # the skill now rests on two problems
    assert 2 not in {mistake for _, mistake in found}


def test_a_problem_is_known_by_its_words_too(adopted: Bank, embedder: Embedder) -> None:
    with adopted.change(actor="me") as change:
        change.set_status([1, 2, 3], "retired")
    adopted.add_mined([mined("zorp zorp", problem_hash(PROBLEM))], actor="miner")
    retriever = Retriever(adopted, embedder, Settings(k=5))
    own = {19, 20}
    for problem_ids in (None, ["some-other-id"]):
        assert not own & {i for pair in ids(retriever.retrieve([f" {PROBLEM}\n"], problem_ids)[0]) for i in pair}
    assert own & {i for pair in ids(retriever.retrieve(["zorp?"])[0]) for i in pair}


@pytest.mark.parametrize("status", ["disabled", "quarantined", "retired"])
def test_only_active_entries_are_retrieved(retriever: Retriever, adopted: Bank, status: str) -> None:
    assert ids(retriever.retrieve([PROBLEM])[0])[0] == (1, 2)
    with adopted.change(actor="me") as change:
        change.set_status([1], status)  # type: ignore[arg-type]
    found = ids(retriever.retrieve([PROBLEM])[0])  # the same retriever sees it
    assert 1 not in {skill for skill, _ in found}
    assert found[0][1] == 2
    assert len(found) == 4


def test_a_side_whose_pairs_are_all_out_is_out(retriever: Retriever, adopted: Bank) -> None:
    with adopted.change(actor="me") as change:
        extra = change.add(Pair(skill_id=1, mistake_id=5))
        change.set_status([3], "disabled")
    found = ids(retriever.retrieve([PROBLEM])[0])
    assert found[0][0] == 1  # its second pair is active
    assert 2 not in {mistake for _, mistake in found}
    with adopted.change(actor="me") as change:
        change.set_status([extra], "disabled")
    assert 1 not in {skill for skill, _ in ids(retriever.retrieve([PROBLEM])[0])}


def test_a_disabled_pair_makes_no_teacher_though_both_sides_live_on(retriever: Retriever, adopted: Bank) -> None:
    with adopted.change(actor="me") as change:
        change.add(Pair(skill_id=1, mistake_id=5))
        change.add(Pair(skill_id=4, mistake_id=2))
        change.set_status([3], "disabled")
    pairs = retriever.retrieve([PROBLEM])[0]
    assert (1, 2) not in ids(pairs)
    assert pairs[0].skill_id == 1  # the skill takes the next mistake ...
    assert pairs[1].mistake_id == 2  # ... and the next skill takes the mistake
    assert len(pairs) == 4


def test_looks_deeper_when_disabled_pairs_use_up_the_first_ones(adopted: Bank, embedder: Embedder) -> None:
    with adopted.change(actor="me") as change:  # skill 1 goes with mistake 17 alone, the last in rank for it
        for mistake in (5, 8, 11, 14):
            change.add(Pair(skill_id=1, mistake_id=mistake), status="disabled")
        change.add(Pair(skill_id=1, mistake_id=17))
        change.add(Pair(skill_id=4, mistake_id=2))
        change.set_status([3], "disabled")
    retriever = Retriever(adopted, embedder, Settings(k=1))
    assert ids(retriever.retrieve([PROBLEM])[0]) == [(1, 17)]
    deep = retriever.retrieve([PROBLEM, "blen"], ["p", "p-blen"])  # the neighbour in the batch makes the search deeper
    assert ids(deep[0]) == [(1, 17)]


def test_k_beyond_the_bank_warns_once_and_gives_the_shorter_list(adopted: Bank, embedder: Embedder) -> None:
    with adopted.change(actor="me") as change:
        change.add(Skill(title="seventh", principle="p"))
    retriever = Retriever(adopted, embedder, Settings(k=8))
    with pytest.warns(UserWarning, match=r"k is 8 but .* has 7 skills and 6 mistakes .* at most 6 pairs"):
        pairs = retriever.retrieve([PROBLEM, "blen"])
    adopted.undo(actor="me")
    retriever.retrieve([PROBLEM])  # a second warning would be an error here
    assert [len(pool) for pool in pairs] == [6, 6]
    assert math.fsum(pair.weight for pair in pairs[0]) == pytest.approx(1)


@pytest.mark.parametrize("mode", ["similar", "random"])
def test_an_empty_bank_gives_empty_lists(tmp_path: Path, embedder: Embedder, mode: str) -> None:
    with Bank.create(tmp_path / "empty") as bank:
        retriever = Retriever(bank, embedder, Settings(k=2, mode=mode))  # type: ignore[arg-type]
        with pytest.warns(UserWarning, match="0 skills"):
            assert retriever.retrieve([PROBLEM, "blen"]) == [[], []]


def test_random_is_uniform_over_all_entries(bank: Bank) -> None:
    retriever = Retriever(bank, None, Settings(k=2, mode="random", leave_one_problem_out=False))
    problem_ids = [f"q{n}" for n in range(1200)]
    pools = retriever.retrieve([PROBLEM] * 1200, problem_ids)
    expected = 1200 * 2 / 6
    for side in (0, 1):
        counts = Counter(pair[side] for pool in pools for pair in ids(pool))
        assert len(counts) == 6
        chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi_square < 20.5  # 5 degrees of freedom: p = 0.001
    joint = Counter(pair for pool in pools for pair in ids(pool))
    assert len(joint) == 36  # not only the mined pairs
    assert {pair.weight for pool in pools for pair in pool} == {0.5}
    assert all(len({pair[0] for pair in ids(pool)}) == 2 for pool in pools)


def test_random_is_the_same_for_the_same_seed_and_problem(bank: Bank) -> None:
    problem_ids = [f"q{n}" for n in range(30)]

    def draw(seed: int, order: list[str]) -> dict[str, list[tuple[int, int]]]:
        pools = Retriever(bank, None, Settings(k=3, mode="random", seed=seed)).retrieve([PROBLEM] * 30, order)
        return dict(zip(order, map(ids, pools), strict=True))

    assert draw(0, problem_ids) == draw(0, problem_ids[::-1])
    assert draw(0, problem_ids) != draw(1, problem_ids)


def test_random_leaves_out_and_skips_too(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([4], "disabled")
    retriever = Retriever(bank, None, Settings(k=4, mode="random"))
    for pool in retriever.retrieve([PROBLEM] * 40, ["p-zorp"] * 40):
        assert len(pool) == 4
        assert not {1, 2, 4} & {i for pair in ids(pool) for i in pair}


def test_options_out_of_bounds_are_named(adopted: Bank, embedder: Embedder) -> None:
    with pytest.raises(InvalidOption, match="k is 0"):
        Retriever(adopted, embedder, Settings(k=0))
    with pytest.raises(InvalidOption, match="temperature is 0"):
        Retriever(adopted, embedder, Settings(temperature=0))
    with pytest.raises(InvalidOption, match="temperature is nan"):
        Retriever(adopted, embedder, Settings(temperature=math.nan))
    with pytest.raises(InvalidOption, match="mode is 'newest'"):
        Retriever(adopted, embedder, Settings(mode="newest"))  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="needs an embedder"):
        Retriever(adopted, None)


def test_open_retriever(adopted: Bank, embedder: Embedder, tmp_path: Path) -> None:
    retriever = open_retriever(adopted.path, k=1, device="cpu")
    with retriever.bank:
        assert ids(retriever.retrieve([PROBLEM])[0]) == [(1, 2)]
    with open_retriever(adopted.path, k=1, mode="random").bank:
        pass
    with pytest.raises(BankNotFound):
        open_retriever(tmp_path / "nowhere")
    from skillbank.index.embed import build_lexical_embedder

    build_lexical_embedder(tmp_path / "foreign", ["other"])
    with pytest.raises(ForeignFingerprint):
        open_retriever(adopted.path, embedder=str(tmp_path / "foreign"))


def test_nearest_entries(adopted: Bank, embedder: Embedder) -> None:
    found = nearest_entries(adopted, embedder, "zorp", limit=3)
    assert {entry.id for entry, _ in found[:2]} == {1, 2}
    assert found[0][1] > found[1][1] > 0.5 > found[2][1]
    assert [entry.id for entry, _ in nearest_entries(adopted, embedder, "zorp", kind="mistake", limit=1)] == [2]
