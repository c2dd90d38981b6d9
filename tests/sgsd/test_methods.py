"""The gated objective between trainer and tensors, and the bank behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.config import BankConfig, ObjectiveConfig, TeacherConfig
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
    teacher = TeacherConfig(token_budget=budget)
    return GatedObjective(ObjectiveConfig.model_validate(settings), tiny.tokenizer(), teacher)


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


# ---- placebos --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"support_baseline": "pool"}, {"support_top_k": 3}], ids=str)
def test_a_placebo_changes_no_loss(tiny: Any, settings: dict[str, Any]) -> None:
    model, gated, some = tiny.model().double(), objective(tiny, **settings), Window(6, 1)
    found, gradients = [], []
    for drawn in ((), (0, 4), range(6)):
        examples = [e if n in drawn else replace(e, placebo=None) for n, e in enumerate(window(placebo=True))]
        model.zero_grad()
        result = gated.loss(model, gated.score_teachers(model, examples), some)
        result.loss.backward()
        found.append(result)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert found[0].placebo is None
    for result, gradient in zip(found[1:], gradients[1:], strict=True):
        assert result.placebo is not None
        assert result.loss.item() == pytest.approx(found[0].loss.item(), abs=1e-14)
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=1e-14)
        assert result.diagnostics is not None
        assert found[0].diagnostics is not None
        torch.testing.assert_close(result.diagnostics.support_BK, found[0].diagnostics.support_BK)
        assert result.sums.pop("read_tokens") >= found[0].sums["read_tokens"]  # a placebo reads too
        assert result.sums == pytest.approx({k: v for k, v in found[0].sums.items() if k != "read_tokens"})


@pytest.mark.parametrize("settings", [{}, {"support_top_k": 3}], ids=str)
def test_a_placebo_is_judged_as_a_teacher_is(tiny: Any, settings: dict[str, Any]) -> None:
    """What is said of it is what would be said of a lone teacher with its prompt."""
    model, gated = tiny.model().double(), objective(tiny, **settings)
    examples = [e for e in window(placebo=True) if e.teaches]
    examples[1] = replace(examples[1], placebo=None)
    seen = gated.loss(model, gated.score_teachers(model, examples), Window(4, 1)).placebo
    assert seen is not None
    for n, one in enumerate(examples):
        if one.placebo is None:
            assert (seen.support_BK[n].item(), seen.polarity_BK[n].item()) == (0, 0)
            continue
        alone = replace(one, teachers=(replace(one.placebo, weight=1.0),), placebo=None)
        expected = gated.loss(model, gated.score_teachers(model, [alone]), Window(1, 1)).diagnostics
        assert expected is not None
        for name in ("support_BK", "polarity_BK", "gate_mass_BK"):
            torch.testing.assert_close(getattr(seen, name)[n], getattr(expected, name)[0])
    assert seen.support_BK.abs().max() > 0.01


def test_a_placebo_stands_on_the_teachers_baseline(tiny: Any) -> None:
    """Against the mean of the pool; against itself it has no opinion."""
    model = tiny.model().double()
    examples = [example([7, 8, 9], 3, placebo=True)]
    pool = objective(tiny, support_baseline="pool")
    (scored,) = pool.score_teachers(model, examples)
    assert scored.scores.logp_KT is not None
    assert scored.scores.placebo_T is not None
    above = (scored.scores.placebo_T - scored.scores.logp_KT.mean(dim=0)).clamp(-3, 3).mean()
    seen = pool.loss(model, [scored], Window(1, 1)).placebo
    assert seen is not None
    assert seen.support_BK.item() == pytest.approx(above.item())
    itself = objective(tiny, support_baseline="placebo")
    nothing = itself.loss(model, itself.score_teachers(model, examples), Window(1, 1)).placebo
    assert nothing is not None
    assert (nothing.support_BK.item(), nothing.polarity_BK.item()) == (0, 0)


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


def test_sgsd_draws_a_share_of_placebos_and_all_when_they_are_the_baseline(tiny: Any, bank: Bank) -> None:
    for baseline, share, wanted in (("none", 0.0, 0), ("pool", 1.0, 8), ("none", 0.5, 4), ("placebo", 0.0, 8)):
        config = method(
            objective={"support_baseline": baseline}, teacher={"token_budget": 99}, ledger={"placebo_share": share}
        )
        made = sgsd_method(config, Pairs(bank), tiny.tokenizer(), run="r", seed=3)
        counts = [sum(p is not None for p in made.pool(problems(8), step).placebos) for step in range(20)]
        assert sum(counts) / 20 == pytest.approx(wanted, abs=1)
        assert isinstance(made.objective, GatedObjective)
        assert made.objective.teacher.token_budget == 99


def test_shares_and_means_of_the_sums(tiny: Any) -> None:
    sums = {"teachers": 20, "judged": 16, "helpful": 8, "harmful": 4, "neutral": 4, "below_threshold": 5}
    sums |= {"teacher_tokens": 100, "clipped": 7, "gate_mass": 4.0, "support": -10.0}
    sums |= {"teachers_skipped": 3, "read_tokens": 400}
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
        "teachers_skipped": 3,
        "read_tokens": 400,
    }
    assert set(gated.metrics(dict.fromkeys(sums, 0.0)).values()) == {0.0}
