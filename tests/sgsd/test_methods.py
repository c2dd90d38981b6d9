"""The gated objective between trainer and tensors, and the bank behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.config import BankConfig, ObjectiveConfig
from sgsd.methods import GatedObjective, Window, open_bank, sgsd_method
from sgsd.records import Completion, Outcome, Problem, Rollout, TeacherPrompt, Verdict
from sgsd.score import ScoreRow, score
from sgsd.teachers import Example
from skillbank.retrieve.settings import Settings
from skillbank.store import Bank
from skillbank.store.query import Query

from .training import Pairs, make_bank, method, problems


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.open(make_bank(tmp_path / "bank")) as bank:
        yield bank


def example(
    ids: Sequence[int], teachers: int, outcome: Outcome = "correct", *, name: str = "p", placebo: bool = False
) -> Example:
    """Teacher k has prompt [3, 10 + k] and weight (k + 1) / 10; the student's prompt is [3, 4]."""
    completion = Completion(tuple(ids), "", truncated=False)
    rollout = Rollout(Problem(name, "?", "1"), (3, 4), completion, Verdict(outcome))
    labels = [{"skill_id": 2 * k + 1, "mistake_id": 2 * k + 2, "pair_id": None, "revision": 4} for k in range(teachers)]
    prompts = tuple(TeacherPrompt((3, 10 + k), (k + 1) / 10, label) for k, label in enumerate(labels))
    return Example(rollout, prompts, TeacherPrompt((3, 9), 0.0) if placebo else None)


def objective(tiny: Any, budget: int = 1000, **settings: Any) -> GatedObjective:
    return GatedObjective(ObjectiveConfig.model_validate(settings), tiny.tokenizer(), token_budget=budget)


def window(placebo: bool = False) -> list[Example]:
    return [
        example([7, 8, 9, 2], 2, placebo=placebo),
        example([6], 1, "wrong", placebo=placebo),
        example([7, 7], 3, "unverifiable", placebo=placebo),
        example([8, 9], 0, placebo=placebo),
        example([], 2, "wrong", placebo=placebo),
        example([9, 8, 7, 6, 5], 3, "wrong", placebo=placebo),
    ]


@pytest.mark.parametrize("budget", [1000, 12])
@pytest.mark.parametrize("placebo", [False, True])
def test_scores_belong_to_their_examples(tiny: Any, budget: int, placebo: bool) -> None:
    model = tiny.model().double()
    baseline = "placebo" if placebo else "none"
    scored = objective(tiny, budget, support_baseline=baseline).score_teachers(model, window(placebo))
    assert [e.scores.logp_KT is not None for e in scored] == [True, True, False, False, True, True]
    for found, given in zip(scored, window(placebo), strict=True):
        assert found.rollout == given.rollout
        if found.scores.logp_KT is None:
            continue
        ids = found.rollout.completion.token_ids
        assert found.scores.logp_KT.shape == (len(found.teachers), len(ids))
        for logp_T, teacher in zip(found.scores.logp_KT, found.teachers, strict=True):
            torch.testing.assert_close(logp_T, score(model, [ScoreRow(teacher.prompt_ids, ids)])[0], rtol=0, atol=1e-6)
        if placebo:
            assert found.scores.placebo_T is not None
            expected = score(model, [ScoreRow((3, 9), ids)])[0]
            torch.testing.assert_close(found.scores.placebo_T, expected, rtol=0, atol=1e-6)


def test_a_local_support_ends_with_the_sampled_token(tiny: Any) -> None:
    # the completion without a token comes first: what it is stacked into must hold ids all the same
    given = [example([], 1, "wrong"), *window()]
    scored = objective(tiny, support_top_k=4).score_teachers(tiny.model().double(), given)
    for found in scored:
        ids_KTS, logits_KTS = found.scores.support_ids_KTS, found.scores.support_logits_KTS
        if not found.teaches:
            assert ids_KTS is None
            continue
        assert ids_KTS is not None
        assert logits_KTS is not None
        assert ids_KTS.shape == logits_KTS.shape == (len(found.teachers), len(found), 5)
        assert ids_KTS.dtype == torch.int64
        for sampled in ids_KTS[:, :, -1].tolist():
            assert sampled == list(found.rollout.completion.token_ids)
        assert all(len(set(top)) == 4 for teacher in ids_KTS[:, :, :4].tolist() for top in teacher)


@pytest.mark.parametrize("settings", [{}, {"support_baseline": "placebo"}, {"support_top_k": 3}])
def test_a_loss_is_the_sum_of_its_parts(tiny: Any, settings: dict[str, Any]) -> None:
    model = tiny.model().double()
    gated = objective(tiny, **settings)
    scored = gated.score_teachers(model, window(placebo="support_baseline" in settings))
    whole = gated.loss(model, scored, Window(6, 1))
    parts = [gated.loss(model, [one], Window(6, 1)) for one in scored]
    assert abs(whole.loss.item()) > 1e-3
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item(), rel=1e-9)
    for key, value in whole.sums.items():
        assert sum(part.sums[key] for part in parts) == pytest.approx(value, rel=1e-6), key
    assert whole.sums["judged"] == 2 + 1 + 2 + 3
    assert whole.sums["teacher_tokens"] == 2 * 3 + 1 * 1 + 3 * 5  # end tokens do not count
    assert parts[2].loss.requires_grad
    assert parts[2].loss.item() == 0.0
    assert parts[3].judged[0].teachers == ()


def test_weights_are_exact_in_float64(tiny: Any) -> None:
    """0.1 and 0.2 are not rounded to float32 on their way into the loss."""
    model = tiny.model().double()
    gated = objective(tiny, polarity="off", gate="quadratic")
    result = gated.loss(model, gated.score_teachers(model, [example([7], 2)]), Window(1, 1))
    student = score(model, [ScoreRow((3, 4), (7,))]).item()
    deltas = [score(model, [ScoreRow((3, 10 + k), (7,))]).item() - student for k in range(2)]
    expected = 0.1 * deltas[0] ** 2 / 4 + 0.2 * deltas[1] ** 2 / 4
    assert result.loss.item() == pytest.approx(expected, rel=1e-12)


# ---- the bank behind it ----------------------------------------------------------------------------------------------


def test_open_bank_hands_the_configuration_on(tmp_path: Path) -> None:
    path = make_bank(tmp_path / "bank")
    for config, settings in (
        (BankConfig(), Settings(seed=11)),
        (
            BankConfig(mode="random", k=3, temperature=0.5, leave_one_problem_out=False, where="origin:mined"),
            Settings(3, 0.5, "random", where=Query(origin="mined"), leave_one_problem_out=False, seed=11),
        ),
        (
            BankConfig(pairing="match", diversity=0.25, min_cosine="auto"),
            Settings(pairing="match", diversity=0.25, min_cosine="auto", seed=11),
        ),
    ):
        retriever = open_bank(path, config, seed=11)
        assert retriever.settings == settings
        retriever.bank.close()


def test_sgsd_asks_for_placebos_when_the_baseline_does(tiny: Any, bank: Bank) -> None:
    for baseline, wanted in (("none", False), ("pool", False), ("placebo", True)):
        config = method(objective={"support_baseline": baseline}, teacher={"token_budget": 99})
        made = sgsd_method(config, Pairs(bank), tiny.tokenizer(), run="r")
        assert (made.pool(problems(1)).placebos[0] is not None) == wanted
        assert isinstance(made.objective, GatedObjective)
        assert made.objective.token_budget == 99


def test_shares_and_means_of_the_sums(tiny: Any) -> None:
    sums = {"teachers": 20, "judged": 16, "helpful": 8, "harmful": 4, "neutral": 4, "below_threshold": 5}
    sums |= {"teacher_tokens": 100, "clipped": 7, "gate_mass": 4.0, "support": -10.0}
    gated = objective(tiny)
    assert set(gated.counted) == set(sums)
    assert gated.metrics(sums) == {
        "helpful": 0.5,
        "harmful": 0.25,
        "neutral": 0.25,
        "below_threshold": 0.25,
        "clipped": 0.07,
        "gate_mass": 0.2,
        "support": -0.5,
    }
    assert set(gated.metrics(dict.fromkeys(sums, 0.0)).values()) == {0.0}
