"""Verdicts: pitfalls 4 and 5 of docs/method.md, and the ways a verifier can fail without flipping an outcome."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsd.config import VerifierConfig
from sgsd.errors import VerifierError
from sgsd.records import Completion, Outcome, Problem, Verdict
from sgsd.verify import Verifier, apply_truncation, grade, load_verifier
from sgsd.verify.answers import final_text, last_boxed
from sgsd.verify.choice import choice_letter
from sgsd.verify.math import MathVerifier, as_one_expression, compare, compare_at_once
from sgsd.verify.process import WorkerProcess


def problem(answer: str) -> Problem:
    return Problem(problem_id="p", problem="?", answer=answer)


def verdict(verifier: Verifier, completion: str, reference: str) -> Verdict:
    return verifier.verify_many([completion], [problem(reference)])[0]


@pytest.fixture(scope="module")
def math() -> Iterator[Verifier]:
    verifier = load_verifier(VerifierConfig(name="math", timeout_s=30.0))
    yield verifier
    verifier.close()


@pytest.mark.parametrize(
    ("answer", "reference", "outcome"),
    [
        # docs/method.md, pitfall 5
        (r"10\sqrt{2}", "10", "wrong"),
        (r"2^{10}", "2", "wrong"),
        (r"2^{10}", "1024", "correct"),
        (r"12\pi", "12", "wrong"),
        (r"12\pi", r"12\pi", "correct"),
        (r"12\pi", r"\pi \cdot 12", "correct"),
        # equal as mathematics
        (r"\frac12", "0.5", "correct"),
        (r"\dfrac{3}{6}", r"\frac{1}{2}", "correct"),
        (r"x = 5", "5", "correct"),
        ("1,234", "1234", "correct"),
        (r"1\,000", "1000", "correct"),
        ("1 000 000", "1000000", "correct"),
        ("3 1/2", "2", "wrong"),
        ("3 1/2", r"\frac{7}{2}", "correct"),
        ("5.", "5", "correct"),
        ("18.0", "18", "correct"),
        ("007", "7", "correct"),
        ("2,1", r"\{1,2\}", "correct"),
        (r"90^\circ", "90", "correct"),
        (r"\text{Evelyn}", r"\text{Evelyn}", "correct"),
        ("12345678901234567891", "12345678901234567890", "wrong"),
        # numbers side by side are no sum
        ("12 34", "46", "wrong"),
        # not readable as mathematics
        (r"\frac{1}{", "5", "wrong"),
        ("", "5", "wrong"),
        ("5", r"\frac{1}{", "unverifiable"),
        (r"\frac{1}{ }", r"\frac{1}{ }", "correct"),
    ],
)
def test_math_compares_the_whole_answer(math: Verifier, answer: str, reference: str, outcome: Outcome) -> None:
    assert (compare_at_once(answer, reference) or compare(answer, reference)).outcome == outcome
    if answer.count("{") == answer.count("}"):
        got = verdict(math, f"So it is \\boxed{{{answer}}}.", reference)
        assert got.outcome == outcome
        assert got.answer == answer


@pytest.mark.parametrize(
    ("completion", "answer", "outcome"),
    [
        (r"First \boxed{7}, no: \boxed{5}", "5", "correct"),
        (r"First \boxed{5}, no: \boxed{7}", "7", "wrong"),
        (r"\boxed{5} and then " + "words " * 500, "5", "correct"),
        (r"\boxed{\boxed{5}}", "5", "correct"),
        (r"\boxed {5}", "5", "correct"),
        (r"\boxed{5} and \boxed{6", "5", "correct"),
        (r"<think>maybe \boxed{7}</think> it is \boxed{5}", "5", "correct"),
        (r"<think>\boxed{5}</think> it is \boxed{7}", "7", "wrong"),
        (r"so \boxed{5}</think> hence five", None, "wrong"),
        (r"<think>surely \boxed{5}", None, "wrong"),
        ("the answer is 5", None, "wrong"),
        ("", None, "wrong"),
    ],
)
def test_the_last_box_after_the_thinking_block_counts(
    math: Verifier, completion: str, answer: str | None, outcome: Outcome
) -> None:
    got = verdict(math, completion, "5")
    assert (got.answer, got.outcome) == (answer, outcome)


def test_reasons_say_why_there_is_no_answer(math: Verifier) -> None:
    assert verdict(math, "five", "5").reason == r"no \boxed{} answer"
    assert "not closed" in verdict(math, r"<think>\boxed{5}", "5").reason


@given(st.integers(-(10**15) + 1, 10**15 - 1), st.integers(-30, 30), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_integers_get_the_verdict_of_math_verify_at_once(number: int, apart: int, zeros: int) -> None:
    sign, digits = ("-", str(-number)) if number < 0 else ("", str(number))
    answer = (sign + "0" * zeros + digits)[:16]
    for reference in (str(number), str(number + apart)):
        at_once = compare_at_once(answer, reference)
        if at_once is not None:
            assert at_once == compare(answer, reference)


@given(st.text("{}\\boxed5 \n", max_size=60))
def test_reading_a_box_never_fails_and_gives_balanced_text(text: str) -> None:
    content = last_boxed(text)
    if content is not None:
        plain = content.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        assert plain.count("{") == plain.count("}")
        assert content in text


@given(
    st.recursive(
        st.sampled_from(["x", "\\{", "\\}", "\\\\", " 1"]),
        lambda inner: inner.map("{{{}}}".format) | (st.lists(inner, max_size=4).map("".join)),
    )
)
def test_a_balanced_box_is_read_back(inner: str) -> None:
    assert last_boxed(f"a \\boxed{{{inner}}} b") == inner.strip()


def test_final_text_without_tags_is_everything() -> None:
    assert final_text("abc") == "abc"
    assert final_text("a</think>b</think>c") == "c"
    assert final_text("<think>a") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 000", "1000"),
        (r"12{,}345{,}678", "12345678"),
        ("1234 567", None),
        ("2 3/4", r"2\frac{3}{4}"),
        (r"\frac{1}{2}\,\text{cm}", r"\frac{1}{2}\,\text{cm}"),
        ("(1, 2)", "(1, 2)"),
        ("5 + 6", "5 + 6"),
    ],
)
def test_numbers_that_math_verify_misreads_are_spelled_out(text: str, expected: str | None) -> None:
    assert as_one_expression(text) == expected


def test_an_endless_computation_is_unverifiable_and_the_next_item_is_verified() -> None:
    verifier = MathVerifier(timeout_s=1.0)
    bomb, fine = verifier.verify_many([r"\boxed{9^{9^{9^{9}}}}", r"\boxed{2^{3}}"], [problem("8"), problem("8")])
    assert bomb == Verdict("unverifiable", "9^{9^{9^{9}}}", "no verdict within 1 s")
    assert fine == Verdict("correct", "2^{3}")
    verifier.close()
    assert verdict(verifier, r"\boxed{\frac{16}{2}}", "8").outcome == "correct"
    verifier.close()


def test_one_process_serves_many_items_and_ends_on_close() -> None:
    worker = WorkerProcess("math", 30.0)
    worker.ask({"answer": "2^3", "reference": "8"})
    first = worker._process
    worker.ask({"answer": "2^4", "reference": "8"})
    assert first is not None
    assert worker._process is first
    worker.close()
    assert first.poll() is not None


OWN = """
import os, sys, time
from sgsd.records import Verdict
calls = 0
def check(completion, problem):
    print("noise that must not break the protocol")
    match completion:
        case "die": os._exit(3)
        case "kill": os.kill(os.getpid(), 9)
        case "hang": time.sleep(60)
        case "raise": raise RuntimeError("boom")
        case "none": return None
        case "verdict": return Verdict("wrong", "w", "mine")
        case "odd": return 0.7
    return completion == problem.answer
constant = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_verifier.py").write_text(OWN)
    (tmp_path / "broken_verifier.py").write_text("raise ValueError('at import')")
    monkeypatch.chdir(tmp_path)
    return "own_verifier:check"


def test_own_function_and_all_its_ways_to_fail(own_module: str) -> None:
    verifier = load_verifier(VerifierConfig(name=own_module, timeout_s=1.0))
    said = ["5", "6", "none", "verdict", "raise", "die", "kill", "5", "hang", "5"]
    got = verifier.verify_many(said, [problem("5")] * len(said))
    assert [v.outcome for v in got] == [
        *("correct", "wrong", "unverifiable", "wrong", "unverifiable", "unverifiable", "unverifiable"),
        *("correct", "unverifiable", "correct"),
    ]
    assert got[3] == Verdict("wrong", "w", "mine")
    assert got[4].reason == "own_verifier:check raised RuntimeError: boom"
    assert got[5].reason == "the verifier's process ended with exit code 3"
    assert got[6].reason == "the verifier's process was killed by SIGKILL"
    assert got[8].reason == "no verdict within 1 s"
    with pytest.raises(VerifierError, match=r"returned 0\.7"):
        verdict(verifier, "odd", "5")
    verifier.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_verifier:missing", "has no function 'missing'"),
        ("own_verifier:constant", "has no function 'constant'"),
        ("no_such_module:check", "cannot import 'no_such_module'"),
        ("broken_verifier:check", "at import"),
        ("mathematics", "take math, exact, choice"),
        (":check", "take math, exact, choice"),
    ],
)
def test_a_verifier_that_cannot_be_built_is_one_line(own_module: str, name: str, message: str) -> None:
    with pytest.raises(VerifierError, match=message) as caught:
        load_verifier(VerifierConfig(name=name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("completion", "reference", "outcome"),
    [
        (r"\boxed{New  York}", "New York", "correct"),
        (r"\boxed{new york}", "New York", "wrong"),
        ("thinking\n  New York \n\n", "New York", "correct"),
        ("New York\nor not", "New York", "wrong"),
        ("<think>New York", "New York", "wrong"),
        ("", "New York", "wrong"),
    ],
)
def test_exact(completion: str, reference: str, outcome: Outcome) -> None:
    assert verdict(load_verifier(VerifierConfig(name="exact")), completion, reference).outcome == outcome


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        (r"\boxed{B}", "correct"),
        (r"\boxed{\text{(B)}}", "correct"),
        (r"\boxed{\textbf{(B) }12}", "correct"),
        (r"\boxed{(B)\ 12}", "correct"),
        (r"\boxed{b}", "correct"),
        (r"\boxed{A}", "wrong"),
        (r"\boxed{12}", "wrong"),
        (r"\boxed{A + B}", "wrong"),
        ("The answer is (B).", "correct"),
        ("The answer is **B**", "correct"),
        ("Answer: B", "correct"),
        (r"so \text{(B)}", "correct"),
        ("The answer is (A). No, the answer is (B).", "correct"),
        ("The answer is a number", "wrong"),
        ("The answer is Both", "wrong"),
        ("<think>The answer is (B)", "wrong"),
    ],
)
def test_choice(completion: str, outcome: Outcome) -> None:
    assert verdict(load_verifier(VerifierConfig(name="choice")), completion, "(B)").outcome == outcome


def test_choice_with_a_reference_that_is_no_letter_is_unverifiable() -> None:
    got = verdict(load_verifier(VerifierConfig(name="choice")), r"\boxed{B}", "12")
    assert got.outcome == "unverifiable"
    assert "'12'" in got.reason
    assert choice_letter("F") is None


def test_truncation_policy() -> None:
    right = Verdict("correct", "5")
    assert apply_truncation(right, True, "grade") == right
    assert apply_truncation(right, False, "wrong") == right
    assert apply_truncation(right, True, "wrong").outcome == "wrong"
    assert apply_truncation(right, True, "ignore").outcome == "unverifiable"
    cut, whole = Completion((1,), r"\boxed{5}", True), Completion((1,), r"\boxed{5}", False)
    exact = load_verifier(VerifierConfig(name="exact"))
    assert [v.outcome for v in grade(exact, [cut, whole], [problem("5")] * 2, "ignore")] == ["unverifiable", "correct"]


def test_verifying_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from sgsd.config import VerifierConfig\n"
        "from sgsd.records import Problem\n"
        "from sgsd.verify import load_verifier\n"
        "v = load_verifier(VerifierConfig())\n"  # and no `__main__` guard either
        "print(v.verify_many([r'\\boxed{2^3}'], [Problem('p', '?', '8')])[0].outcome, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["correct", "False"]
