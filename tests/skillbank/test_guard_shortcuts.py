"""What the guard looks for first, because it is quick, never hides what its patterns would find."""

from __future__ import annotations

import re
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from skillbank.guard import encodings, foreign, leaks, outside, phrases, signals
from skillbank.guard.context import Context
from skillbank.guard.echoes import _grams
from skillbank.guard.numbers import NUMBER, find_numbers, normal_number, numbers_of
from skillbank.guard.text import squeezed, undisguised, words_of
from skillbank.records import Skill

PLAINLY = re.compile(rf"(?<![\w.\\])-?(?:{NUMBER})(?![\w]|\.\d)|(?<=[$£€])(?:{NUMBER})")
"""A number as one would write it down, without a thought for speed."""

PIECES = [
    *("ignore", "disregard", "all", "your", "previous", "instructions", "rules", "the", "system prompt", "void", "new"),
    *("correct answer", "final result", "actual value", "answer", "answer (i.e. x", "instead of", "boxed", "is", "="),
    *(
        "gold",
        "truth",
        "number",
        "true one",
        "\\boxed{7}",
        "12",
        "1,600",
        "$5",
        "3/4",
        "0.50",
        "-7",
        "US$5",
        "x5",
        "5x",
    ),
    *("jailbreaking", "developer mode", "rm -rf", "sudo x", "cat /etc/", "os.system", "child_process", "drop table"),
    *("send_mail tool", "curl a/", "llms", "language model", "user only", "system messages", "policies", "checks"),
    *("+49 170 1234567", "(555) 123-4567", "call me 555 1234 567", "x at y dot com", "a@b.com"),
    *("01000001" * 4, "48 65 6c 6c 6f 20 77 6f", "deadbeefdeadbeef", "aa bb cc dd ee", "11110000,"),
    *("é", "ſ", "\u200b", "ﬁ", "ο", "_", "\t", "\x1c"),
]
texts = st.lists(
    st.tuples(st.sampled_from(PIECES), st.sampled_from([" ", " ", " ", "", ". ", ", ", "\n", ": ", "-"])),
    min_size=1,
    max_size=8,
).map(lambda parts: "".join(piece + gap for piece, gap in parts))
figures = st.text(alphabet="0123456789,.-/$€ x\\_٣²=", max_size=24)


def context_of(text: str) -> Context:
    return Context(Skill(title=text, principle="p"))


@given(st.one_of(figures, texts, st.text()))
def test_numbers_are_found_as_the_plain_pattern_finds_them(text: str) -> None:
    expected = [(normal_number(hit.group().lstrip("-")), *hit.span()) for hit in PLAINLY.finditer(text)]
    assert find_numbers(text) == expected
    assert numbers_of(text) == {value for value, _, _ in expected}


def test_numbers_of_a_sentence() -> None:
    assert find_numbers("-7 of 1,600.0, US$05 and v2") == [("7", 0, 2), ("1600", 6, 13), ("5", 18, 20)]


@given(st.one_of(texts, st.text(), st.text(alphabet=st.characters(max_codepoint=127))))
def test_words_and_letters_of_ascii_are_those_of_any_text(text: str) -> None:
    view = " ".join(undisguised(text).split())
    assert words_of(view) == re.findall(r"[^\W\d_]+", view)
    assert squeezed(view) == re.sub(r"[^a-z]+", "", view.translate(str.maketrans("013457@$!", "oieastasi")))


@given(texts)
def test_words_that_speak_to_a_model_are_missed_by_no_shortcut(text: str) -> None:
    context = context_of(text)
    if signals._WANTED.search(context.plain):
        assert context.words & signals._WANTED_WORDS
    if signals._ALONE.search(context.plain):
        assert "jail" in context.plain or context.words & signals._ALONE_WORDS


@given(texts)
def test_orders_are_looked_for_where_their_words_are(text: str) -> None:
    words = context_of(text).words
    bits = [phrases.OVERRIDE_WORDS.get(word, 0) for word in words]
    found = [all(any(word in words for word in one) for one in wanted) for wanted, _ in phrases.OVERRIDES]
    assert [
        all(any(1 << n & bit for bit in bits) for n in range(64) if wanted >> n & 1)
        for wanted, _ in phrases.OVERRIDE_PATTERNS
    ] == found


@given(texts)
def test_stated_answers_are_missed_by_no_shortcut(text: str) -> None:
    context = context_of(text)
    stated = any(pattern.search(context.text) for _, _, pattern in leaks._STATED)
    flagged = any(flag.reason.startswith("states") for flag in leaks.answer_phrase(context.content, context))
    assert flagged == stated or not text.isascii()


@given(texts)
def test_numbers_to_call_and_encodings_are_missed_by_no_shortcut(text: str) -> None:
    context = context_of(text)
    if outside._PHONE.search(context.plain):
        assert outside._DIALLED.search(context.plain) or context.words & outside._CALLING
    if encodings._HEX.search(text):
        assert encodings._EIGHT_PAIRS.search(text)
    if encodings._BINARY.search(text):
        assert encodings._EIGHT_BITS.search(text)
    five_pairs = re.search(r"(?:[0-9a-fA-F]{2}[ :]){5}|[01]{8}[ ,]", text)
    assert (encodings._PAIRS.search(text) is None) == (five_pairs is None)
    ordered = foreign.FOREIGN.search(context.plain)
    assert not ordered or any(stem in context.plain for stem in foreign.STEMS)


def spellings(pattern: str) -> set[str]:
    """All texts that a pattern of letters, choices and optional parts matches."""

    def expand(parsed: Any) -> set[str]:
        found = {""}
        for op, value in parsed:
            if op is _constants.LITERAL:
                more = {chr(value)}
            elif op is _constants.IN:
                more = {chr(letter) for _, letter in value}
            elif op is _constants.BRANCH:
                more = set().union(*map(expand, value[1]))
            elif op is _constants.SUBPATTERN:
                more = expand(value[3])
            else:
                assert (op, value[1]) == (_constants.MAX_REPEAT, 1), f"{op} in {pattern}"
                more = expand(value[2]) | ({""} if value[0] == 0 else set())
            found = {head + tail for head in found for tail in more}
        return found

    return expand(_parser.parse(pattern))


def test_every_word_that_speaks_of_orders_is_looked_for() -> None:
    spelt = set().union(*(spellings(signals._KINDS[kind]) for kind in signals._ABOUT))
    assert {words.split()[0] for words in spelt} == signals._WANTED_WORDS


def test_a_quote_is_known_by_four_tokens_in_a_row_and_a_short_one_by_all_of_it() -> None:
    assert _grams(frozenset({"so 3 + 4 = 7", "3 + 4"})) == {
        ("so", "3", "+", "4"),
        ("3", "+", "4", "="),
        ("+", "4", "=", "7"),
        ("3", "+", "4"),
    }
