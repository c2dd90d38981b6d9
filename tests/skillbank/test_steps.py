"""Steps: where they stand in the completion, and that the quick ways to words and numbers are those of any text."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from skillbank.mine.steps import NUMBER, normal_number, numbers_in, split_steps, words_in

lines = st.lists(st.sampled_from(["so 3 + 4 = <<3+4=7>>7 eggs.", "  Go on. Then stop!", "", "...", "A: 7", "Mr. Day."]))


@given(st.one_of(lines.map("\n".join), st.text(alphabet="ab1.! \n\r\x0b\u2028A", max_size=40)))
def test_a_step_is_quoted_from_its_place(completion: str) -> None:
    steps = split_steps(completion)
    assert [completion[step.start : step.end] for step in steps] == [step.quote for step in steps]
    assert all(one.end <= other.start for one, other in pairwise(steps))


def test_the_same_line_twice_is_two_steps() -> None:
    steps = split_steps("Add 2 and 3.\n\nAdd 2 and 3. Stop here.")
    assert [(step.quote, step.start, step.end) for step in steps] == [
        ("Add 2 and 3.", 0, 12),
        ("Add 2 and 3.", 14, 26),
        ("Stop here.", 27, 37),
    ]


@given(st.one_of(st.text(alphabet="0123456789,.-/$ x٣²", max_size=24), st.text(max_size=24)))
def test_numbers_are_found_as_the_plain_pattern_finds_them(text: str) -> None:
    assert list(numbers_in(text)) == [normal_number(number) for number in re.findall(NUMBER, text)]


@given(st.one_of(st.text(alphabet="abZ'’ _1-", max_size=24), st.text(max_size=24)))
def test_words_of_ascii_are_those_of_any_text(text: str) -> None:
    assert words_in(text) == re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text)
