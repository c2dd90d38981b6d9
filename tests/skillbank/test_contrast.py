"""The miner without a model: on an invented language of operations, and on word problems with calculations."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillbank.mine.contrast import mine_contrast
from skillbank.mine.steps import split_steps, terms
from skillbank.mine.wording import mistake_from_step, skill_from_step
from skillbank.records import MinedPair, Outcome, Rollout
from skillbank.rollouts import read_rollouts

ZORP = "What is 5 zorp 7 blick 3 modulo 23, from left to right?"
RIGHT = "zorp means doubled sum\n5 zorp 7 = 1\nblick means reversed difference\n1 blick 3 = 2\n\\boxed{2}"
WRONG = "zorp means sum\n5 zorp 7 = 12\nblick means reversed difference\n12 blick 3 = 14\n\\boxed{14}"


def rollouts(*attempts: tuple[str, Outcome], problem: str = ZORP, reference: str | None = None) -> list[Rollout]:
    return [
        Rollout(
            rollout_id=f"{problem}/{place}",
            problem_id=problem,
            problem=problem,
            completion=completion,
            outcome=outcome,
            reference=reference,
        )
        for place, (completion, outcome) in enumerate(attempts)
    ]


def mine_one(*attempts: tuple[str, Outcome], problem: str = ZORP, reference: str | None = None) -> MinedPair:
    pairs, _ = mine_contrast(rollouts(*attempts, problem=problem, reference=reference))
    (pair,) = pairs
    return pair


# --------------------------------------------------------------------------------------------------------------- rules


def test_the_rule_at_the_first_departure_and_where_it_stands() -> None:
    pair = mine_one((RIGHT, "correct"), (WRONG, "wrong"))
    assert pair.skill == skill_from_step("zorp means doubled sum", ["zorp"])
    assert pair.mistake == mistake_from_step("zorp means sum", "zorp means doubled sum")
    (right,), (wrong,) = pair.skill_evidence, pair.mistake_evidence
    assert (right.rollout_id, right.outcome, right.quote, right.span) == (
        f"{ZORP}/0",
        "correct",
        "zorp means doubled sum",
        (0, 22),
    )
    assert (wrong.rollout_id, wrong.outcome, wrong.quote, wrong.span) == (
        f"{ZORP}/1",
        "wrong",
        "zorp means sum",
        (0, 14),
    )


def test_a_later_rule_that_goes_wrong() -> None:
    wrong = "zorp means doubled sum\n5 zorp 7 = 1\nblick means difference\n1 blick 3 = 21\n\\boxed{21}"
    pair = mine_one((RIGHT, "correct"), (wrong, "wrong"))
    assert pair.skill == skill_from_step("blick means reversed difference", ["blick"])
    assert pair.mistake == mistake_from_step("blick means difference", "blick means reversed difference")
    assert pair.mistake_evidence[0].span == (36, 58)


def test_the_counterpart_speaks_of_the_same_operation() -> None:
    # "blick means sum" has more words in common with "zorp means sum" than the rule that belongs there.
    right = "zorp means product\n5 zorp 7 = 12\nblick means sum\n12 blick 3 = 15\n\\boxed{15}"
    wrong = "zorp means sum\n5 zorp 7 = 12\nblick means product\n12 blick 3 = 13\n\\boxed{13}"
    pair = mine_one((right, "correct"), (wrong, "wrong"))
    assert pair.skill.principle == "zorp means product"


def test_right_by_accident_is_outvoted_within_the_problem() -> None:
    accident = WRONG.replace("blick means reversed difference", "blick means product").replace("14", "2")
    pair = mine_one((RIGHT, "correct"), (RIGHT, "correct"), (accident, "correct"), (WRONG, "wrong"))
    assert pair.skill.principle == "zorp means doubled sum"
    assert [item.rollout_id for item in pair.skill_evidence] == [f"{ZORP}/0", f"{ZORP}/1"]


def test_a_tie_between_right_attempts_is_no_lesson() -> None:
    other = RIGHT.replace("doubled sum", "product")
    pairs, report = mine_contrast(rollouts((RIGHT, "correct"), (other, "correct"), (WRONG, "wrong")))
    assert pairs == []
    assert report.dropped == {"right attempts disagree": 1}


def test_right_by_accident_is_contradicted_by_other_problems() -> None:
    accident = rollouts((WRONG, "correct"), (RIGHT, "wrong"), problem="What is 0 zorp 0 blick 3?")
    honest = [
        rollouts((RIGHT, "correct"), (WRONG, "wrong"), problem=f"What is {n} zorp 7 blick 3 modulo 23?")
        for n in range(2)
    ]
    pairs, report = mine_contrast(itertools.chain(accident, *honest))
    assert {pair.skill.principle for pair in pairs} == {"zorp means doubled sum"}
    assert report.dropped == {"contradicted by other problems": 1}
    assert (report.problems, report.problems_with_both, report.contrasted, report.pairs) == (3, 3, 3, 2)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("zorp means doubled sum\n5 zorp 7 = 3\nblick means reversed difference", "steps differ in figures only"),
        (RIGHT, "no departure"),
        ("", "no departure"),
        ("blue", "no departure"),
    ],
)
def test_what_is_no_contrast_is_counted(wrong: str, reason: str) -> None:
    pairs, report = mine_contrast(rollouts((RIGHT, "correct"), (wrong, "wrong")))
    assert pairs == []
    assert report.dropped == {reason: 1}


def test_equal_pairs_of_one_problem_are_one_with_the_evidence_of_both() -> None:
    pairs, report = mine_contrast(rollouts((RIGHT, "correct"), (WRONG, "wrong"), (WRONG, "wrong")))
    (pair,) = pairs
    assert [item.rollout_id for item in pair.mistake_evidence] == [f"{ZORP}/1", f"{ZORP}/2"]
    assert report.dropped == {"repeated within the problem (evidence added)": 1}


def test_one_outcome_and_unverifiable_rollouts_are_counted() -> None:
    one = rollouts((RIGHT, "correct"), (RIGHT, "unverifiable"))
    other = rollouts((WRONG, "wrong"), (WRONG, "wrong"), problem="another")
    pairs, report = mine_contrast(one + other)
    assert pairs == []
    assert report.dropped == {"rollout unverifiable": 1, "rollout of a problem with one outcome only": 3}
    assert (report.rollouts, report.problems, report.problems_with_both) == (4, 2, 0)


# -------------------------------------------------------------------------------------------------------- calculations

EGGS = (
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast and bakes muffins with four. "
    "She sells the remainder for $2 per egg. How much does she make?"
)
EGGS_RIGHT = (
    "Janet eats 3 eggs for breakfast and bakes 4 into muffins so 3 + 4 = <<3+4=7>>7 eggs are used\n"
    "She has 16 - 7 = <<16-7=9>>9 eggs for sale\nSo she makes 2 * 9 = $<<2*9=18>>18 per day\nA: 18"
)


def test_a_step_left_out() -> None:
    wrong = (
        "Janet eats 3 eggs for breakfast so she has 16 - 3 = <<16-3=13>>13 eggs left\nSo she makes 13 * 2 = $26\nA: 26"
    )
    pair = mine_one((EGGS_RIGHT, "correct"), (wrong, "wrong"), problem=EGGS, reference="18")
    assert pair.skill.title == "Add to find how many eggs are used"
    assert pair.skill.principle == (
        "Add, as in: Janet eats 3 eggs for breakfast and bakes 4 into muffins so 3 + 4 = 7 eggs are used"
    )
    assert pair.skill.when_to_apply == "The problem mentions eats, eggs, breakfast."
    assert pair.mistake.description == "Janet eats 3 eggs for breakfast so she has 16 - 3 = 13 eggs left"
    assert pair.mistake.why_it_happens == "The attempt goes on without it; right attempts add here."
    assert pair.skill_evidence[0].quote == EGGS_RIGHT.split("\n")[0]


def test_another_operation_on_the_same_quantities() -> None:
    problem = "In 12 years, Charmaine will be 16 years old. How many years old is she now?"
    right = "If Charmaine will be 16 in 12 years, then she is 16 - 12 = <<16-12=4>>4 years old now\nA: 4"
    wrong = "In 12 years, Charmaine will be 16 + 12 = <<16+12=28>>28 years old\nA: 28"
    pair = mine_one((right, "correct"), (wrong, "wrong"), problem=problem, reference="4")
    assert pair.mistake.why_it_happens == "The attempt adds where right attempts subtract."
    assert pair.mistake.how_to_avoid.startswith("Instead, subtract: ")


def test_another_way_to_the_same_place_is_no_departure() -> None:
    wrong = (
        "After breakfast she has 16 - 3 = <<16-3=13>>13 eggs\nAfter the muffins she has 13 - 4 = <<13-4=9>>9 eggs\n"
        "She sells the eggs, so she makes 9 + 2 = $<<9+2=11>>11 per day\nA: 11"
    )
    pair = mine_one((EGGS_RIGHT, "correct"), (wrong, "wrong"), problem=EGGS, reference="18")
    assert pair.mistake.description == "She sells the eggs, so she makes 9 + 2 = $11 per day"
    assert pair.mistake_evidence[0].span == (wrong.index("She sells"), wrong.index("\nA:"))


def test_the_reference_answer_is_not_in_the_words() -> None:
    right = EGGS_RIGHT.replace("So she makes", "Selling the eggs, she makes")
    wrong = right.replace("2 * 9 = $<<2*9=18>>18", "9 - 2 = $<<9-2=7.0>>18.00").replace("<<9-2=7.0>>", "<<9-2=5>>")
    pair = mine_one((right, "correct"), (wrong, "wrong"), problem=EGGS, reference="$18.00")
    assert pair.skill.principle == "Multiply, as in: Selling the eggs, she makes 2 * 9 = the result per day"
    assert "18" not in pair.skill.text() + pair.mistake.text()
    assert "18" in pair.skill_evidence[0].quote  # evidence is the words as they are


def test_stopping_short() -> None:
    wrong = "\n".join(EGGS_RIGHT.split("\n")[:2]) + "\nA: 9"
    right = EGGS_RIGHT.replace("So she makes", "Selling the eggs, she makes")
    pair = mine_one((right, "correct"), (wrong, "wrong"), problem=EGGS, reference="18")
    assert pair.mistake.description == "Stops after: She has 16 - 7 = 9 eggs for sale"
    assert pair.mistake.how_to_avoid.startswith("Go on and multiply: Selling the eggs")


def test_a_slip_is_counted_not_taught() -> None:
    wrong = EGGS_RIGHT.replace("3 + 4 = <<3+4=7>>7", "3 + 4 = 8").replace(
        "16 - 7 = <<16-7=9>>9", "16 - 8 = <<16-8=8>>8"
    )
    pairs, report = mine_contrast(rollouts((EGGS_RIGHT, "correct"), (wrong, "wrong"), problem=EGGS))
    assert pairs == []
    assert report.dropped == {"slip in calculation": 1}


def test_a_false_calculation_of_a_right_attempt_teaches_nothing() -> None:
    problem = "A packet of milk costs $5 and a discount of $0.5 is given. What do you save on a packet of milk?"
    right = "The milk packet is $0.5 - $0.4 = $<<0.5-0.4=0.1>>0.5 cheaper now\nA: 0.5"
    wrong = "The milk packet costs $5 - $0.5 = $<<5-0.5=4.5>>4.5 altogether\nA: 4.5"
    pairs, report = mine_contrast(rollouts((right, "correct"), (wrong, "wrong"), problem=problem))
    assert pairs == []
    assert report.dropped == {"nothing in common among right attempts": 1}


# --------------------------------------------------------------------------------------------------------------- steps


def test_steps_are_lines_and_sentences_with_their_place() -> None:
    text = "- First, Mrs. Rylan sees 3 hens. Each lays 1.5 eggs.\n\n  So 3 * 1.5 = <<3*1.5=4.5>>4.5 eggs\n\\boxed{4.5}"
    steps = split_steps(text)
    assert [step.kind for step in steps] == ["figures", "figures", "calculation", "answer"]
    assert [step.text for step in steps[:3]] == [
        "First, Mrs. Rylan sees 3 hens",
        "Each lays 1.5 eggs",
        "So 3 * 1.5 = 4.5 eggs",
    ]
    assert all(text[step.start : step.end] == step.quote for step in steps)
    (calculation,) = steps[2].calculations
    assert (calculation.operands, calculation.operators, calculation.value) == (("3", "1.5"), ("*",), "4.5")


@pytest.mark.parametrize(
    ("text", "operands", "operators", "value", "sound"),
    [
        ("so 80,000*1.5 = $120,000", ("80000", "1.5"), "*", "120000", True),
        ("5 \\times 4 = 20 apples", ("5", "4"), "*", "20", True),
        ("it is 2 hours × 3 trips = 6 hours", ("2", "3"), "*", "6", True),
        ("54 / 8 = 6.75 packs", ("54", "8"), "/", "6.75", True),
        ("54 / 8 = 7 packs", ("54", "8"), "/", "7", True),
        ("(2 + 3) * 4 = 14", ("2", "3", "4"), "+*", "14", False),
        ("1/4*20 = 5 more", ("1", "4", "20"), "*", "5", True),
        ("so 4 / 0 = 3", ("4", "0"), "/", "3", True),
    ],
)
def test_calculations_are_read(text: str, operands: tuple[str, ...], operators: str, value: str, sound: bool) -> None:
    (calculation,) = split_steps(text)[0].calculations
    assert (calculation.operands, "".join(calculation.operators)) == (operands, operators)
    assert (calculation.value, calculation.sound) == (value, sound)


def test_terms_are_shared_content_words_in_the_order_of_the_step() -> None:
    assert terms("zorp means doubled sum", ZORP) == ["zorp"]
    problem = "Maria picks 3 red apples and a pear in Oslo."
    assert terms("In Oslo Maria has a pear, an apple and a red hat", problem) == ["pear", "apple", "red"]


LINES = st.lists(
    st.sampled_from([*RIGHT.split("\n"), *WRONG.split("\n"), *EGGS_RIGHT.split("\n"), "blick means product", "x", ""])
    | st.text(max_size=30),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LINES, st.sampled_from(["correct", "wrong", "unverifiable"])), max_size=6), st.randoms())
def test_any_text_is_mined_in_any_order_with_true_quotes(
    attempts: list[tuple[list[str], Outcome]], random: Random
) -> None:
    made = rollouts(*(("\n".join(lines), outcome) for lines, outcome in attempts), reference="18")
    pairs, report = mine_contrast(made)
    completions = {rollout.rollout_id: rollout for rollout in made}
    for pair in pairs:
        assert pair.skill_evidence
        assert pair.mistake_evidence
        for item in (*pair.skill_evidence, *pair.mistake_evidence):
            assert item.span is not None
            assert completions[item.rollout_id].completion[slice(*item.span)] == item.quote
    attempts_dropped = sum(count for reason, count in report.dropped.items() if not reason.startswith("rollout"))
    assert report.contrasted == report.pairs + attempts_dropped
    random.shuffle(made)
    assert mine_contrast(made) == (pairs, report)


@pytest.mark.skipif("SGSD_DATA" not in os.environ, reason="SGSD_DATA names no folder of public data files")
def test_real_model_solutions_give_many_pairs_that_hide_the_answer() -> None:
    file = Path(os.environ["SGSD_DATA"]) / "rollouts" / "gsm8k_model_solutions.jsonl"
    references = {rollout.problem_id: rollout for rollout in read_rollouts(file)}
    pairs, report = mine_contrast(read_rollouts(file))
    assert (report.rollouts, report.problems, report.problems_with_both, report.contrasted) == (3600, 900, 503, 1068)
    assert len(pairs) > 700
    for pair in pairs:
        rollout = references[pair.skill_evidence[0].problem_id]
        reference, given_by_problem = rollout.reference, rollout.problem
        assert reference is not None
        if len(reference) > 3 and reference not in given_by_problem:
            assert f" {reference} " not in f" {json.dumps(pair.skill.text() + pair.mistake.text())} "
