"""Which teachers are asked: by the ledger and by a prefix; what is not asked counts for nothing, and is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.config import ObjectiveConfig, SGSDConfig, TeacherConfig
from sgsd.methods import GatedObjective
from sgsd.methods.base import Window
from sgsd.objectives.gated import GatedSettings
from sgsd.records import Completion, Outcome, Problem, Rollout, TeacherPrompt, Verdict
from sgsd.screen import EXPLORED, by_ledger, by_prefix, useless_pairs
from sgsd.teachers import Example
from skillbank.store import Bank, Query
from skillbank.store.usage import UsageRow

from .training import Pairs, make_bank, make_trainer, method

ALL_COUNT = GatedSettings()


def example(
    pairs: Sequence[tuple[int, int]], ids: Sequence[int] = (7, 8, 9, 10), name: str = "p", outcome: Outcome = "wrong"
) -> Example:
    """The student's prompt is [3, 4], teacher k's [3, 10 + k]."""
    rollout = Rollout(Problem(name, "?", "1"), (3, 4), Completion(tuple(ids), "", truncated=False), Verdict(outcome))
    labels = [{"skill_id": skill, "mistake_id": mistake, "pair_id": None, "revision": 1} for skill, mistake in pairs]
    return Example(rollout, tuple(TeacherPrompt((3, 10 + k), 1 / len(pairs), label) for k, label in enumerate(labels)))


def of(found: Example) -> list[tuple[int, int]]:
    return [(teacher.label["skill_id"], teacher.label["mistake_id"]) for teacher in found.teachers]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.open(make_bank(tmp_path / "bank")) as opened:
        yield opened


def ids_of(bank: Bank) -> tuple[list[int], list[int]]:
    skills, mistakes = bank.entries(Query(kind="skill")), bank.entries(Query(kind="mistake"))
    return [entry.id for entry in skills], [entry.id for entry in mistakes]


def use(bank: Bank, pair: tuple[int, int], polarities: Sequence[int], *, step: int = 1) -> None:
    """Each on a problem of its own."""
    fixed = {"run": "r", "outcome": "correct", "support": 0.0, "gate_mass": 0.1, "weight": 0.1, "revision": 1}
    bank.record_usage(
        [
            UsageRow(**fixed, step=step, problem_id=f"{step}-{i}", polarity=rho, skill_id=pair[0], mistake_id=pair[1])  # type: ignore[arg-type]
            for i, rho in enumerate(polarities)
        ]
    )


def test_what_the_ledger_shows_to_be_silent_or_harmful_is_useless(bank: Bank) -> None:
    skills, mistakes = ids_of(bank)
    silent, harmful, helpful, young = list(zip(skills, mistakes, strict=True))[:4]
    other = (skills[0], mistakes[1])
    use(bank, silent, [0] * 40)
    use(bank, harmful, [-1] * 30 + [0] * 10)
    use(bank, helpful, [1] * 10 + [0] * 30)
    use(bank, young, [0] * 6)
    among = {silent, harmful, helpful, young, other}
    # Bonett and Price over n problems: all neutral is 0 +- 1.96 sqrt(2) / (n + 2), so 0.066 at 40 and 0.35 at 6.
    assert useless_pairs(bank, among, 0.1) == {silent, harmful}
    assert useless_pairs(bank, among, 0.06) == {harmful}
    assert useless_pairs(bank, among, 0.36) == {silent, harmful, young}
    assert useless_pairs(bank, {helpful, other}, 0.1) == set()
    use(bank, silent, [1] * 40, step=200)  # later uses weigh more
    assert useless_pairs(bank, among, 0.1) == {harmful}


def test_a_fixed_share_of_the_problems_explores(bank: Bank) -> None:
    skills, mistakes = ids_of(bank)
    useless, unknown = (skills[0], mistakes[0]), (skills[1], mistakes[1])
    use(bank, useless, [0] * 60)
    window = [example([useless, unknown], name=f"problem {i}") for i in range(2000)]
    found = by_ledger(bank, window, 0.1)
    assert all(unknown in of(one) for one in found)
    asked = sum(useless in of(one) for one in found)
    assert abs(asked / 2000 - EXPLORED) < 0.02
    assert all(one.skipped == (useless not in of(one)) for one in found)
    assert by_ledger(bank, window, 0.1) == found
    assert all(t.weight == 0.5 for one in found for t in one.teachers)  # nobody inherits a weight
    assert by_ledger(bank, window, -0.5) == window


def scripted(monkeypatch: pytest.MonkeyPatch, deltas: Sequence[Sequence[float]]) -> list[int]:
    """`score` answers -1 for the student and -1 + delta for the teachers; the lengths of what it was asked for."""
    asked: list[int] = []

    def score(model: Any, rows: Sequence[Any], **options: Any) -> torch.Tensor:
        asked.extend(map(len, rows))
        return torch.tensor([[-1.0 for _ in deltas[0]], *[[-1 + d for d in row] for row in deltas]])

    monkeypatch.setattr("sgsd.screen.score", score)
    return asked


def test_teachers_that_hardly_disagree_on_the_prefix_are_not_asked_further(monkeypatch: pytest.MonkeyPatch) -> None:
    deltas = [[0.04, -0.06], [0.05, -0.07], [0.0, 9.0], [0.2, -0.2], [0.0, 0.0]]
    asked = scripted(monkeypatch, deltas)
    given = example([(k, k) for k in range(5)], ids=[7, 8, 9, 10])
    (found,) = by_prefix(torch.nn.Identity(), [given], 2, ALL_COUNT, lambda ids: torch.ones(len(ids)).bool())
    # Means of |clipped delta|: 0.05, 0.06, 1.5, 0.2 and 0; eps is 0.05. In the fourth the support alone cancels.
    assert of(found) == [(1, 1), (2, 2), (3, 3)]
    assert found.skipped == 2
    assert asked == [4] * 6  # the student and five teachers, two tokens each
    assert found.read_tokens == 24


def test_tokens_that_do_not_count_do_not_count_on_the_prefix_either(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [[2.0, 0.0], [0.0, 2.0]])
    given = example([(1, 1), (2, 2)])
    (found,) = by_prefix(torch.nn.Identity(), [given], 2, ALL_COUNT, lambda ids: torch.tensor([False, True]))
    assert of(found) == [(2, 2)]
    same = by_prefix(torch.nn.Identity(), [given], 2, ALL_COUNT, lambda ids: torch.tensor([False, False]))
    assert same == [given]


def test_short_completions_and_empty_pools_are_left_alone() -> None:
    given = [example([(1, 1)], ids=[7, 8]), example([], ids=[7, 8, 9]), example([(1, 1)], ids=[])]
    assert by_prefix(torch.nn.Identity(), given, 2, ALL_COUNT, lambda ids: torch.ones(len(ids)).bool()) == given


def gated(tiny: Any, bank: Bank | None = None, top_k: int = 0, eps: float = 0.05, **teacher: Any) -> GatedObjective:
    settings = ObjectiveConfig(support_top_k=top_k, eps=eps)
    return GatedObjective(settings, tiny.tokenizer(), TeacherConfig(**teacher), bank)


def window() -> list[Example]:
    return [
        example([(1, 2), (3, 4), (5, 6)], ids=[7, 8, 9, 10, 11]),
        example([(1, 2), (3, 4)], ids=[9, 6, 8], outcome="correct", name="q"),
        example([(1, 2)], outcome="unverifiable"),
        example([], ids=[8, 9, 10]),
    ]


@pytest.mark.parametrize("top_k", [0, 3])
def test_a_screen_that_leaves_nobody_out_changes_nothing(tiny: Any, bank: Bank, top_k: int) -> None:
    model = tiny.model().double()
    free = gated(tiny, top_k=top_k, eps=0.0)
    screened = gated(tiny, bank, top_k, eps=0.0, min_usefulness=-0.9, screen_tokens=2)
    expected = free.loss(model, free.score_teachers(model, window()), Window(4, 1))
    found = screened.loss(model, screened.score_teachers(model, window()), Window(4, 1))
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-9)
    assert found.sums["teachers_skipped"] == expected.sums["teachers_skipped"] == 0
    # Teachers' rows of 2 + 5 and 2 + 3 tokens, twice for a local support; the prefix's 2 + 2, the student's among them.
    assert expected.sums["read_tokens"] == (3 * 7 + 2 * 5) * (2 if top_k else 1)
    assert found.sums["read_tokens"] == expected.sums["read_tokens"] + 4 * 4 + 3 * 4


def test_a_teacher_that_is_left_out_adds_exactly_nothing(tiny: Any, bank: Bank) -> None:
    skills, mistakes = ids_of(bank)
    useless = (skills[0], mistakes[0])
    use(bank, useless, [-1] * 60)
    others = [(skills[1], mistakes[1]), (skills[2], mistakes[2])]
    name = next(f"p{i}" for i in range(99) if by_ledger(bank, [example([useless], name=f"p{i}")], 0.0)[0].skipped)
    model = tiny.model().double()
    given = example([useless, *others], ids=[7, 8, 9, 10, 11], name=name)
    screening, free = gated(tiny, bank, min_usefulness=0.0), gated(tiny)
    found = screening.loss(model, screening.score_teachers(model, [given]), Window(1, 1))
    assert found.sums["teachers_skipped"] == 1
    assert found.sums["teachers"] == found.sums["judged"] == 2
    (asked,) = found.judged
    assert of(asked) == others  # and the ledger hears of nobody else
    silenced = replace(given, teachers=given.teachers[1:])
    expected = free.loss(model, free.score_teachers(model, [silenced]), Window(1, 1))
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
    assert abs(found.loss.item()) > 1e-3
    alone = example([useless], name=name)
    lonely = screening.loss(model, screening.score_teachers(model, [alone]), Window(1, 1))
    assert lonely.loss.item() == 0.0
    assert lonely.loss.requires_grad
    assert lonely.sums["teachers_skipped"] == 1


def test_the_screens_work_in_a_run_and_are_logged(tiny: Any, bank: Bank, tmp_path: Path) -> None:
    skills, mistakes = ids_of(bank)
    for pair in list(zip(skills, mistakes, strict=True))[:2]:
        use(bank, pair, [0] * 60)
    config = method(teacher={"min_usefulness": 0.5, "screen_tokens": 3})
    trainer, watch = make_trainer(tiny, Pairs(bank), tmp_path / "run", config=config)
    trainer.train()
    (log,) = watch.logs
    assert 0 < log["teachers_skipped"] < 3 * 4  # of three problems with an outcome
    assert log["read_tokens"] > 0


def test_what_a_screen_needs() -> None:
    with pytest.raises(ValueError, match="take weights live, not ema"):
        SGSDConfig.model_validate({"teacher": {"weights": "ema", "screen_tokens": 8}})
    with pytest.raises(ValueError, match="min_usefulness"):
        SGSDConfig.model_validate({"teacher": {"min_usefulness": 1.5}})


def test_usefulness_needs_a_bank(tiny: Any) -> None:
    with pytest.raises(ValueError, match=r"min_usefulness = 0\.1 needs a bank"):
        gated(tiny, min_usefulness=0.1)
