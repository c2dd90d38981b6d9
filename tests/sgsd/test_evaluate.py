"""The numbers of an evaluation against hand-worked cases and brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsd.config import EvalConfig, SamplingConfig, VerifierConfig
from sgsd.errors import DataInvalid, ProblemTooLong
from sgsd.evaluate import (
    ProblemResult,
    bootstrap_means,
    evaluate,
    majority,
    mean_over_sets,
    pass_at,
    summarise,
)
from sgsd.prompts import Guidance, plain_user_text, render
from sgsd.records import Completion, Outcome, Problem
from sgsd.rollout import draw_rollouts, past_rollouts
from sgsd.verify import load_verifier

MATH = VerifierConfig(name="math")
LETTERS: dict[str, Outcome] = {"c": "correct", "w": "wrong", "u": "unverifiable"}


class Scripted:
    """A generator that says what it is told to, and remembers what it was asked."""

    def __init__(self, *said: Sequence[str], truncated: Sequence[str] = ()) -> None:
        self.said, self.truncated = said, truncated
        self.prompts: list[list[int]] = []

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        self.prompts = [list(prompt) for prompt in prompts]
        return [
            [Completion(tuple(range(len(text))), text, text in self.truncated) for text in texts[: sampling.n]]
            for texts in self.said[: len(prompts)]
        ]


def problems(*answers: str) -> list[Problem]:
    return [Problem(f"p{i}", f"What is {i} ?", answer) for i, answer in enumerate(answers)]


def result(outcomes: str, answers: Sequence[str | None] = ()) -> ProblemResult:
    k = len(outcomes)
    return ProblemResult("p", tuple(LETTERS[o] for o in outcomes), tuple(answers), (5,) * k, (False,) * k)


def test_evaluation_counts_what_was_drawn(tiny: Any) -> None:
    generator = Scripted(
        [r"\boxed{1}", r"so \boxed{1}", r"\boxed{7}", "none"],
        [r"\boxed{7}", r"\boxed{7}", r"\boxed{2}", r"\boxed{8}"],
        truncated=["none"],
    )
    config = EvalConfig(sampling=SamplingConfig(n=4, temperature=1.0), bootstrap=200)
    got = evaluate(generator, tiny.tokenizer(), problems("1", "2"), load_verifier(MATH), config)
    assert got.accuracy == (0.5 + 0.25) / 2
    assert got.ci == (0.25, 0.5)
    assert (got.k, got.problems, got.unverifiable, got.too_long) == (4, 2, 0, 0)
    assert {j: round(e.value, 12) for j, e in got.pass_at_k.items()} == {
        1: 0.375,
        2: round((5 / 6 + 0.5) / 2, 12),
        4: 1.0,
    }
    assert got.majority_at_k.value == 0.5
    assert got.truncated_share == 1 / 8
    assert got.mean_tokens == np.mean([len(t) for texts in generator.said for t in texts])
    assert got.records[0] == ProblemResult(
        "p0",
        ("correct", "correct", "wrong", "wrong"),
        ("1", "1", "7", None),
        (9, 12, 9, 4),
        (False, False, False, True),
        ("", "", "", r"no \boxed{} answer"),
    )
    assert got.summary()["ci"] == [0.25, 0.5]
    assert "records" not in got.summary()


def test_the_truncation_policy_reaches_the_outcomes(tiny: Any) -> None:
    cut = r"\boxed{1}"
    config = EvalConfig(sampling=SamplingConfig(temperature=0.0))
    counts = {}
    for policy in ("grade", "wrong", "ignore"):
        got = evaluate(
            Scripted([cut], truncated=[cut]),
            tiny.tokenizer(),
            problems("1"),
            load_verifier(MATH),
            config,
            truncated=policy,
        )
        counts[policy] = (got.accuracy, got.unverifiable)
    assert counts == {"grade": (1.0, 0), "wrong": (0.0, 0), "ignore": (0.0, 1)}


def test_prompts_are_plain_or_guided_and_never_cut(tiny: Any) -> None:
    class Lesson:
        title = principle = "step by step"
        when_to_apply = description = how_to_avoid = ""

    tokenizer = tiny.tokenizer()
    asked = [Problem("p0", "What is 1 + 1 ?", "2"), Problem("p1", "What is " + "1 + " * 60 + "1 ?", "61")]
    config = EvalConfig(sampling=SamplingConfig(temperature=0.0), bootstrap=10)

    def limited(tokens: int) -> EvalConfig:
        return EvalConfig(sampling=SamplingConfig(temperature=0.0, max_prompt_tokens=tokens), bootstrap=10)

    plain_ids = render(tokenizer, plain_user_text(asked[0].problem))
    generator = Scripted([r"\boxed{2}"])
    got = evaluate(generator, tokenizer, asked, load_verifier(MATH), limited(len(plain_ids)))
    assert generator.prompts == [plain_ids]
    assert (got.problems, got.too_long, got.accuracy) == (1, 1, 1.0)

    generator = Scripted(*[[r"\boxed{2}"]] * 2)
    lessons = [[Guidance(Lesson(), None)], []]
    evaluate(generator, tokenizer, asked, load_verifier(MATH), config, guidance=lambda _: lessons)
    assert len(generator.prompts[0]) > len(plain_ids)
    assert generator.prompts[1] == render(tokenizer, plain_user_text(asked[1].problem))

    with pytest.raises(ProblemTooLong, match=rf"all 2 prompts exceed max_prompt_tokens = 3 .*has {len(plain_ids)}\)"):
        evaluate(generator, tokenizer, asked, load_verifier(MATH), limited(3))
    with pytest.raises(DataInvalid, match="at least one"):
        evaluate(generator, tokenizer, [], load_verifier(MATH), config)


@given(st.integers(1, 7).flatmap(lambda k: st.tuples(st.integers(0, k), st.integers(1, k), st.just(k))))
def test_pass_at_is_the_share_of_subsets_with_a_correct_one(case: tuple[int, int, int]) -> None:
    correct, draws, k = case
    subsets = list(itertools.combinations(range(k), draws))
    share = sum(any(i < correct for i in subset) for subset in subsets) / len(subsets)
    assert pass_at(draws, correct, k) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(
    ("outcomes", "answers", "expected"),
    [
        ("ccw", ["1/2", "0.5", "3"], 1.0),  # differently written, but one answer
        ("cww", ["1", "3", "3"], 0.0),
        ("cww", ["1", "3", "4"], 1 / 3),
        ("ccwwuu", ["1", "1", "3", "3", "4", "4"], 1 / 3),
        ("cwww", ["1", None, None, None], 1.0),  # no answer, no vote
        ("cww", ["1", "x y", "x  y"], 0.0),
        ("www", [None, None, None], 0.0),
        ("wwu", ["3", "3", None], 0.0),
    ],
)
def test_majority_breaks_ties_by_expectation(outcomes: str, answers: list[str | None], expected: float) -> None:
    assert majority(result(outcomes, answers)) == pytest.approx(expected)


def test_bootstrap_interval_is_that_of_the_normal_approximation() -> None:
    values = np.array([[0.0] * 120 + [1.0] * 280])
    (estimate,) = bootstrap_means(values, resamples=4000, seed=0)
    half = 1.96 * (0.7 * 0.3 / 400) ** 0.5
    assert estimate.value == 0.7
    assert estimate.low == pytest.approx(0.7 - half, abs=0.005)
    assert estimate.high == pytest.approx(0.7 + half, abs=0.005)
    assert bootstrap_means(values, resamples=50, seed=3) == bootstrap_means(values, resamples=50, seed=3)


def test_all_equal_problems_and_k_of_one() -> None:
    got = summarise([result("c", ["1"])] * 5, bootstrap=50)
    assert (got.accuracy, got.ci, got.majority_at_k.value) == (1.0, (1.0, 1.0), 1.0)
    assert list(got.pass_at_k) == [1]
    assert list(summarise([result("cwwwww", ["1"] * 6)], bootstrap=5).pass_at_k) == [1, 2, 4, 6]


def test_rollouts_become_the_banks(tiny: Any) -> None:
    sampling = SamplingConfig(n=2, temperature=1.0)
    generator = Scripted([r"\boxed{1}", r"\boxed{5}"], [r"\boxed{2}", "?"])
    drawn = draw_rollouts(generator, tiny.tokenizer(), problems("1", "2"), load_verifier(MATH), sampling)
    lines = list(past_rollouts(drawn.rollouts, model="m", sampling=sampling, seed=3))
    assert [line.outcome for line in lines] == ["correct", "wrong", "correct", "wrong"]
    assert [line.answer for line in lines] == ["1", "5", "2", None]
    assert [line.reference for line in lines] == ["1", "1", "2", "2"]
    assert lines[0].sampling == {**sampling.model_dump(mode="json"), "seed": 3}
    ids = [line.rollout_id for line in lines]
    assert len(set(ids)) == 4
    assert ids == [line.rollout_id for line in past_rollouts(drawn.rollouts, model="m", sampling=sampling, seed=3)]
    other = [line.rollout_id for line in past_rollouts(drawn.rollouts, model="m", sampling=sampling, seed=4)]
    assert not set(ids) & set(other)


def test_every_set_counts_alike_in_the_mean() -> None:
    small, large = (
        summarise([result(outcomes, ["1", "2"]) for outcomes in of], bootstrap=10)
        for of in (["cc"], ["cw", "cw", "cw", "ww"])
    )
    got = mean_over_sets([small, large], bootstrap=400)
    assert got.value == (1.0 + 0.375) / 2
    # The small set never varies; the large one's mean is 0.125 times the draws, of four, that are not the last problem.
    drawn = np.random.default_rng(0).binomial(4, 0.75, 4000) * 0.125
    low, high = np.percentile((1.0 + drawn) / 2, [2.5, 97.5])
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.0626)


def test_batches_are_drawn_from_seeds_of_their_own_and_told_in_the_problems_order(tiny: Any) -> None:
    seeds: list[int] = []

    class Noting(Scripted):
        def generate(self, prompts: Sequence[Sequence[int]], *args: Any, seed: int, **kwargs: Any) -> Any:
            seeds.append(seed)
            return super().generate(prompts, *args, seed=seed, **kwargs)

    asked = [Problem("long", "What is 1 + 1 + 1 + 1 ?", "4"), Problem("short", "What is 1 ?", "4")]
    config = EvalConfig(sampling=SamplingConfig(n=2, temperature=1.0, batch_size=2), bootstrap=10)
    got = evaluate(Noting([r"\boxed{4}", "none"]), tiny.tokenizer(), asked, load_verifier(MATH), config, seed=3)
    assert [record.problem_id for record in got.records] == ["long", "short"]
    assert len(set(seeds)) == 2
    assert got.accuracy == 0.5
