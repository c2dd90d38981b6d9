"""What a bank knows of an entry or a rollout, put together; what its problems are covered by."""

from __future__ import annotations

import pytest

from skillbank import curate
from skillbank.look.coverage import coverage, covers, problems
from skillbank.look.view import utilities, view_entry, view_rollout, with_context
from skillbank.records import Evidence, Flag, ProblemText, RolloutFate, rollout_hash
from skillbank.records import Rollout as PastRollout
from skillbank.store import Bank, UsageRow

from .made_up import OPERATIONS

COMPLETION = "Let me add them, so it is 3 and that is all."


def fate(rollout_id: str, completion: str | None = None, miner: str = "contrast", reason: str = "") -> RolloutFate:
    problem_id, outcome = rollout_id.rsplit("-", 1)
    rollout = PastRollout(
        rollout_id=rollout_id, problem_id=problem_id, problem="?", completion=completion or "", outcome="wrong"
    )
    return RolloutFate(
        rollout_id=rollout_id, problem_id=problem_id, content_hash=rollout_hash(rollout),
        outcome="correct" if outcome == "correct" else "wrong", miner=miner,
        fate="rejected" if reason else "accepted", reason=reason, completion=completion, file="old.jsonl",
    )  # fmt: skip


def use(bank: Bank, skill_id: int, mistake_id: int, *polarities: int) -> None:
    bank.record_usage(
        UsageRow(
            run="r", step=n, problem_id="p", outcome="correct", skill_id=skill_id, mistake_id=mistake_id,
            support=0.5, polarity=polarity, gate_mass=0.2, weight=0.5, revision=1,
        )
        for n, polarity in enumerate(polarities)
    )  # fmt: skip


def test_a_quote_stands_in_the_words_around_it(bank: Bank) -> None:
    bank.record_rollouts([fate("p-zorp-correct", f"....{COMPLETION}")])
    bank.record_problems([ProblemText(problem_id="p-zorp", problem="What is 1 zorp 1?")])
    view = view_entry(bank, 3)
    place, other = view.evidence
    assert (place.before, place.quote, place.after) == ("....Let me add them, ", "so it is 3", " and that is all.")
    assert (other.before, other.after) == ("", "")  # of this rollout no completion was kept
    assert view.problems == {"p-zorp": "What is 1 zorp 1?"}
    assert [side.id for side in view.sides] == [1, 2]
    assert (view.retrieved, view.utility, [event.op for event in view.history]) == (True, None, ["add"])


def test_a_span_that_fits_is_believed_before_the_first_occurrence(bank: Bank) -> None:
    bank.record_rollouts([fate("r-wrong", "so so so"), fate("s-wrong", "nothing like it")])
    places = [
        Evidence(rollout_id=rollout_id, problem_id="p", outcome="wrong", quote="so", span=span)
        for rollout_id, span in (("r-wrong", (3, 5)), ("r-wrong", (0, 1)), ("r-wrong", None), ("s-wrong", (0, 2)))
    ]
    assert [(p.before, p.after) for p in with_context(bank, places)] == [
        ("so ", " so"),
        ("", " so so"),
        ("", " so so"),
        ("", ""),
    ]


def test_a_view_says_what_was_merged_and_what_keeps_it_from_retrieval(bank: Bank) -> None:
    curate.merge(bank, [4], 1, actor="ada")
    view = view_entry(bank, 1)
    assert [entry.id for entry in view.stands_for] == [4]
    assert [place.problem_id for place in view.evidence] == ["p-zorp", "p-blen"]
    assert [pair.id for pair in view.pairs] == [3, 19]
    assert [event.op for event in view.history] == ["add"]
    curate.disable(bank, [8], actor="ada")
    assert (view_entry(bank, 9).entry.status, view_entry(bank, 9).retrieved) == ("active", False)
    assert view_entry(bank, 7).retrieved


def test_a_rollouts_fate_and_what_rests_on_it(bank: Bank) -> None:
    bank.record_rollouts([fate("p-zorp-wrong", COMPLETION), fate("p-zorp-wrong", miner="model", reason="no mistake")])
    bank.record_problems([ProblemText(problem_id="p-zorp", problem="What is 1 zorp 1?")])
    view = view_rollout(bank, "p-zorp-wrong")
    assert view is not None
    assert [(f.miner, f.fate, f.reason) for f in view.fates] == [
        ("contrast", "accepted", ""),
        ("model", "rejected", "no mistake"),
    ]
    assert ([entry.id for entry in view.entries], view.problem) == ([2, 3], "What is 1 zorp 1?")
    unread = view_rollout(bank, "p-blen-wrong")  # entries rest on it, though no miner's record is kept
    assert unread is not None
    assert ([entry.id for entry in unread.entries], unread.fates) == ([5, 6], ())
    assert view_rollout(bank, "nowhere") is None


def test_coverage_of_problems(bank: Bank) -> None:
    bank.record_problems(ProblemText(problem_id=f"p-{name}", problem=name) for name in (*OPERATIONS, "other"))
    use(bank, 1, 2, 1, 1, -1)
    use(bank, 4, 5, -1, 0)
    curate.disable(bank, [9], actor="ada")
    curate.disable(bank, [11], actor="ada")
    assert covers(bank) == {"useful": 1, "untried": 2, "unhelpful": 1, "uncovered": 3}
    assert [(p.problem_id, p.pairs) for p in problems(bank, "uncovered")] == [
        ("p-framp", 0),
        ("p-other", 0),
        ("p-quix", 0),
    ]
    assert [p.problem_id for p in problems(bank, "useful")] == ["p-zorp"]
    assert [p.problem_id for p in problems(bank, limit=2, offset=1)] == ["p-drell", "p-framp"]
    curate.merge(bank, [7], 1, actor="ada")  # skill 7 of p-quix: its problem is served by what stands for it
    assert [p.problem_id for p in problems(bank, "useful")] == ["p-quix", "p-zorp"]


def test_coverage_in_numbers(bank: Bank) -> None:
    use(bank, 1, 2, 1, 1, 1)
    use(bank, 4, 5, -1)
    bank.record_rollouts([fate("a-wrong"), fate("b-wrong", reason="no departure"), fate("c-wrong", reason="trivial")])
    bank.record_rollouts([fate("d-wrong", reason="no departure")])
    with bank.change(actor="guard") as change:
        change.flag(7, [Flag(rule="answer", reason="says 1"), Flag(rule="url", reason="x")])
        change.flag(8, [Flag(rule="answer", reason="says 2")])
    numbers = coverage(bank)
    assert (numbers.pairs_in_use, numbers.pairs_never_retrieved, numbers.usage) == (5, 3, 4)
    assert [(b.low, b.high, b.entries) for b in numbers.utility if b.entries] == [
        (-1.0, -0.6, {"skill": 1, "mistake": 1, "pair": 1}),
        (0.6, 1.0, {"skill": 1, "mistake": 1, "pair": 1}),
    ]
    assert (numbers.flags, numbers.rollouts) == ({"answer": 2, "url": 1}, {"accepted": 1, "rejected": 3})
    assert numbers.rejected == {"no departure": 2, "trivial": 1}
    assert utilities(bank, [1, 4, 7]) == {1: pytest.approx(1.0), 4: pytest.approx(-1.0)}
