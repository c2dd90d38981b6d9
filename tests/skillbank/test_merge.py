"""Which pairs become one, and which must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillbank.building.merging import merge_pairs
from skillbank.mine.merge import key_words
from skillbank.mine.wording import mistake_from_step, skill_from_step
from skillbank.records import Evidence, MinedPair, Skill


def evidence(problem: str, quote: str) -> Evidence:
    return Evidence(rollout_id=f"{problem}/1", problem_id=problem, outcome="correct", quote=quote, span=(0, len(quote)))


def pair(right: str, wrong: str, problem: str, origin: str = "mined") -> MinedPair:
    return MinedPair(
        skill=skill_from_step(right, ["zorp"]),
        mistake=mistake_from_step(wrong, right),
        skill_evidence=(evidence(problem, right),),
        mistake_evidence=(evidence(problem, wrong),),
        origin=origin,
    )


def all_alike(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An embedder that finds everything equal, so that only the words can keep texts apart."""
    return np.ones((len(texts), 1), dtype=np.float32)


def test_the_same_words_of_two_problems_are_one_pair_with_all_evidence() -> None:
    merged, report = merge_pairs(
        [pair("zorp means doubled sum", "zorp means sum", f"p{n}") for n in range(3)]
        + [pair("Zorp  means doubled sum.", "zorp means sum", "p3")]
    )
    (one,) = merged
    assert one.skill.principle == "zorp means doubled sum"  # three times against once
    assert [item.problem_id for item in one.skill_evidence] == ["p0", "p1", "p2", "p3"]
    assert [item.quote for item in one.skill_evidence][-1] == "Zorp  means doubled sum."
    assert (report.pairs_in, report.pairs_out, report.skills_in, report.skills_out) == (4, 1, 2, 1)


def test_evidence_is_counted_once() -> None:
    twice = [pair("zorp means doubled sum", "zorp means sum", "p")] * 2
    (one,), _ = merge_pairs(twice)
    assert len(one.skill_evidence) == len(one.mistake_evidence) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("zorp means sum", "zorp means doubled sum"),
        ("zorp means sum", "blick means sum"),
        ("subtract the first from the second", "subtract the second from the first"),
        ("the price is reduced by 20", "the price is reduced to 20"),
        ("he can pay", "he can not pay"),
        ("she pays 3 + 4 for eggs", "she pays 3 * 4 for eggs"),
        ("add the parts before doubling", "add the parts after doubling"),
    ],
)
def test_contradictory_texts_never_merge_however_near(one: str, other: str) -> None:
    merged, _ = merge_pairs([pair(one, "wrong", "p"), pair(other, "wrong", "q")], encode=all_alike)
    assert {item.skill.principle for item in merged} == {one, other}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("so 3 * 4 = 12 eggs are left", "So, 5 * 6 = 30 eggs are left"),
        ("double the sum", "doubled sums"),
        ("he pays the rent", "she pays her rent"),
    ],
)
def test_numbers_fillers_and_inflection_merge_when_the_vectors_agree(one: str, other: str) -> None:
    pairs = [pair(one, "wrong", "p"), pair(other, "wrong", "q"), pair(one, "wrong", "r")]
    merged, _ = merge_pairs(pairs, encode=all_alike)
    assert [item.skill.principle for item in merged] == [one]
    assert len(merge_pairs(pairs)[0]) == 2  # without vectors, equal words alone


def test_far_vectors_do_not_merge() -> None:
    def opposite(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)[: len(texts)]

    pairs = [pair("so 3 eggs are left", "wrong", "p"), pair("so 5 eggs are left", "wrong", "q")]
    assert len(merge_pairs(pairs, encode=opposite)[0]) == 2


def test_a_chain_does_not_join_its_ends() -> None:
    angles = {"3": 0.0, "4": 0.3, "5": 0.6}  # cos 0.3 = 0.955, cos 0.6 = 0.825

    def on_a_circle(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        turns = [next(angle for digit, angle in angles.items() if digit in text) for text in texts]
        return np.array([[np.cos(turn), np.sin(turn)] for turn in turns], dtype=np.float32)

    pairs = [pair(f"so {digit} eggs are left", "wrong way", f"p{digit}") for digit in angles]
    merged, report = merge_pairs(pairs, encode=on_a_circle)
    assert report.skills_out == 2
    joined = {tuple(sorted(e.problem_id for e in item.skill_evidence)) for item in merged}
    assert joined == {("p3", "p4"), ("p5",)}


def test_origins_do_not_mix() -> None:
    pairs = [pair("zorp means sum", "wrong", "p"), pair("zorp means sum", "wrong", "p", origin="misleading")]
    assert {item.origin for item in merge_pairs(pairs, encode=all_alike)[0]} == {"mined", "misleading"}


def test_key_words_of_a_mistake_hold_what_to_do_instead() -> None:
    assert key_words(mistake_from_step("zorp means sum", "zorp means doubled sum")) != key_words(
        mistake_from_step("zorp means sum", "zorp means product")
    )
    assert key_words(Skill(title="t", principle="Doubled the 3 sums")) == ("doubl", "sum", "|")


STEP = st.sampled_from(
    ["zorp means sum", "zorp means doubled sum", "So 3 + 4 eggs", "so 5 + 6 eggs", "so, 5 - 6 eggs", "Zorp means sum."]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(pair, STEP, STEP, st.sampled_from("pqr"))), st.randoms(), st.booleans())
def test_the_order_changes_nothing_and_merging_again_neither(
    pairs: list[MinedPair], random: Any, with_vectors: bool
) -> None:
    encode = all_alike if with_vectors else None
    merged, report = merge_pairs(pairs, encode=encode)
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert merge_pairs(shuffled, encode=encode) == (merged, report)
    assert merge_pairs(merged, encode=encode)[0] == merged
    assert {e for item in merged for e in item.skill_evidence} == {e for item in pairs for e in item.skill_evidence}
