"""What a calculation finds, read from real and made-up steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillbank.mine.purpose import MAX_PURPOSE_WORDS, purpose
from skillbank.mine.steps import split_steps


@pytest.mark.parametrize(
    ("step", "words"),
    [
        # named by the step
        ("Find the total cost of the plane and fuel by adding: $2 + $3 = $5", "the total cost of the plane and fuel"),
        ("The total number of puppies is 8 + 12 = 20", "the total number of puppies"),
        (
            "So the total cost of the shirt and shorts comes to $20 + $10 = $30",
            "the total cost of the shirt and shorts",
        ),
        (
            "The total age of Dora, her father, and her mother is 34+38 = 72",
            "the total age of Dora, her father, and her mother",
        ),
        # the unit and the clause
        ("Sam sold 20 + 15 = 35 crates on the weekend", "how many crates Sam sold on the weekend"),
        ("Together, the three have 46+36 = the result crabs", "how many crabs the three have"),
        ("The farmer produces 5*3=15 liters of milk a day", "how many liters of milk the farmer produces a day"),
        ("This means Roy has saved $40.00 + $10.00 = $50.00", "how much Roy has saved"),
        ("She spent $300/15=$20 per book", "how much she spent per book"),
        ("Alice is 35 years old + 7 years = 42 years old", "how many years old Alice is"),
        ("40 x 2 = 80 hotdogs were eaten", "how many hotdogs were eaten"),
        ("She needs $40 / $4 = the result times", "how many times she needs"),
        ("So, she bought 12 - 8 = 4 more boxes this week", "how many more boxes she bought this week"),
        ("She gets 3 more bags, which totals 3 * 4 = 12 apples", "how many apples it totals"),
        # what the problem gives is not what is found
        ("Tara spent 8 packs of 5 bags * $4/pack = the result", "how much Tara spent"),
        ("She has 18 new plants, for a total of 80+18 = 98 potted plants", "the total number of potted plants"),
        ("30 fairies flew away, leaving 75-30= the result fairies", "how many fairies are left"),
        ("100% - 80% = 20% of the river", "what percentage of the river"),
    ],
)
def test_purpose(step: str, words: str) -> None:
    assert purpose(step) == words


@given(st.text(alphabet=st.sampled_from("1 2x+*=$%,.()/-abTheof is"), max_size=120))
def test_any_text_gives_few_words(text: str) -> None:
    assert len(purpose(text).split()) <= MAX_PURPOSE_WORDS


@pytest.mark.parametrize("piece", ["1", "2 x ", "1 cars + ", "$1 ", "(1", "1, ", "x x ", "the ", ", and x"])
@pytest.mark.parametrize("end", ["= 5 apples", " zz qq ww. = 5", "!"])
def test_long_runs_are_read_in_one_way_only(piece: str, end: str) -> None:
    """Expressions whose parts can be cut in many ways; tried in all of them these took minutes."""
    text = piece * 50 + end
    assert len(purpose(text).split()) <= MAX_PURPOSE_WORDS
    assert "".join(step.quote for step in split_steps(text)).replace(" ", "") == text.replace(" ", "")
