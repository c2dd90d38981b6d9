"""What training saw, step by step: counted by hand; shares with the intervals of the estimates."""

from __future__ import annotations

import pytest

from skillbank import curate
from skillbank.look.training import Run, Span, runs, training
from skillbank.store import Bank, UsageRow
from skillbank.usage import estimates


def used(step: int, problem: str, polarity: int, skill_id: int, mistake_id: int, run: str = "a") -> UsageRow:
    return UsageRow(
        run=run, step=step, problem_id=problem, outcome="correct", skill_id=skill_id, mistake_id=mistake_id,
        support=0.1 * polarity, polarity=polarity, gate_mass=1.0, weight=0.5, revision=1, placebo=not skill_id,
    )  # fmt: skip


@pytest.fixture
def trained(bank: Bank) -> Bank:
    """Run `a` of steps 1 to 4, and run `b` of one use later on."""
    bank.record_usage(
        [
            used(1, "p", 1, 1, 2),
            used(1, "p", -1, 4, 5),
            used(1, "p", 0, 0, 0),
            used(2, "q", 1, 1, 5),
            used(2, "q", -1, 0, 0),
            used(4, "r", 0, 4, 5),
            used(4, "r", 1, 0, 0),
        ]
    )
    bank.record_usage([used(7, "p", 1, 1, 2, run="b")])
    return bank


def counts(helpful: int = 0, neutral: int = 0, harmful: int = 0) -> dict[str, int]:
    return {"helpful": helpful, "neutral": neutral, "harmful": harmful}


def test_runs_are_listed_the_last_one_first(trained: Bank, bank: Bank) -> None:
    assert runs(trained) == [
        Run(run="b", first=7, last=7, uses=1, placebos=0),
        Run(run="a", first=1, last=4, uses=4, placebos=3),
    ]


def test_uses_and_placebos_are_counted_by_step(trained: Bank) -> None:
    run = runs(trained)[1]
    assert training(trained, run, spans=4).spans == (
        Span(first=1, last=1, uses=counts(1, 0, 1), placebo=counts(0, 1, 0)),
        Span(first=2, last=2, uses=counts(1, 0, 0), placebo=counts(0, 0, 1)),
        Span(first=4, last=4, uses=counts(0, 1, 0), placebo=counts(1, 0, 0)),
    )
    assert [(span.first, span.last) for span in training(trained, run, spans=3).spans] == [(1, 2), (3, 4)]


def test_an_entry_has_its_own_uses_and_the_placebos_beside_them(trained: Bank) -> None:
    run = runs(trained)[1]
    seen = training(trained, run, 1, spans=4)
    assert [span.uses for span in seen.spans] == [counts(1), counts(1)]
    assert [span.placebo for span in seen.spans] == [counts(0, 1), counts(0, 0, 1)]
    assert [span.uses for span in training(trained, run, 5, spans=4).spans] == [
        counts(0, 0, 1), counts(1), counts(0, 1),
    ]  # fmt: skip
    assert [span.first for span in training(trained, run, 6, spans=4).spans] == [1, 4]  # the pair of 4 and 5
    curate.merge(trained, [4], 1, actor="ada")
    assert len(training(trained, run, 1, spans=4).spans) == 3
    assert training(trained, run, 7).shares == {}


def test_shares_are_those_of_the_rows_and_agree_with_the_estimates(trained: Bank) -> None:
    run = runs(trained)[1]
    seen = training(trained, run)
    assert {verdict: share.value for verdict, share in seen.shares.items()} == {
        "helpful": 0.5, "neutral": 0.25, "harmful": 0.25,
    }  # fmt: skip
    for share in [*seen.shares.values(), *seen.placebo.values()]:
        assert 0 <= share.low < share.value < share.high <= 1
    assert sum(share.value for share in seen.placebo.values()) == pytest.approx(1, abs=1e-5)
    # Of an entry whose uses all helped, +1 or -1 by "helpful" is its polarity: the same interval, on another scale.
    always = training(trained, run, 1).shares["helpful"]
    (known,) = [one for one in estimates(trained, run="a") if one.entry_id == 1]
    assert (2 * always.low - 1, 2 * always.high - 1) == pytest.approx((known.low, known.high), abs=1e-5)


def test_a_ledger_without_rows_and_a_run_without_a_placebo(bank: Bank, trained: Bank) -> None:
    assert training(trained, runs(trained)[0]).placebo == {}
