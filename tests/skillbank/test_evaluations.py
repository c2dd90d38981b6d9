"""Evaluation problems: the registry of files, and finding their problems in what a bank holds."""

from __future__ import annotations

import copy
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsd.cli import main
from skillbank.errors import InvalidOption, RolloutsInvalid, RolloutsNotFound, SkillBankError
from skillbank.guard import Guard, forget, register, registered
from skillbank.guard.contamination import EvaluationIndex, EvaluationProblem
from skillbank.guard.evaluations import read_problems
from skillbank.index.embed import Embedder
from skillbank.records import Evidence, ProblemText, Skill
from skillbank.store import Bank

LANTERNS = (
    "Seven lanterns are hung on a rope with twelve hooks so that no two lanterns hang on neighbouring hooks. "
    "In how many ways can this be done if $m$ and $n$ are relatively prime positive integers?"
)
ZORP = "What is the zorp of five and seven modulo twenty-three?"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "finals.jsonl"
    records: list[Any] = [
        {"problem": LANTERNS, "answer": 0},
        {"question": ZORP, "final_answer": "17"},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": _wrapped(ZORP + " Why?")}]},
        {"title": "no problem"},
        ["no record"],
    ]
    path.write_text("\n".join([*map(json.dumps, records), "{broken", ""]), encoding="utf-8")
    return path


def _wrapped(problem: str) -> str:
    before = "Solve the following math problem step by step. The last line should be Answer: $Answer."
    return f'{before}\n\n{problem}\n\nRemember to put your answer on its own line after "Answer:".'


def test_register_list_and_forget(bank: Bank, file: Path) -> None:
    first = register(bank, file)
    assert (first.file, first.problems, first.new) == ("finals.jsonl", 3, True)
    assert first.rejected == {"no problem text": 1, "not a record": 2}
    rows = bank.db.rows("SELECT number, problem, answer FROM evaluations ORDER BY number")
    assert [tuple(row) for row in rows] == [(1, LANTERNS, "0"), (2, ZORP, "17"), (3, ZORP + " Why?", None)]
    again = register(bank, file)
    assert (again.new, bank.revision) == (False, 1)
    assert [(known.file, known.problems) for known in registered(bank)] == [("finals.jsonl", 3)]
    assert [gone.sha256 for gone in forget(bank, first.sha256[:12])] == [first.sha256]
    assert registered(bank) == []
    with pytest.raises(InvalidOption, match=r"no evaluation file 'finals\.jsonl' is registered: the bank has none"):
        forget(bank, "finals.jsonl")


def test_what_is_no_evaluation_file(bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(RolloutsNotFound, match="no evaluation file at"):
        register(bank, tmp_path / "none.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("{}\n", encoding="utf-8")
    with pytest.raises(RolloutsInvalid, match=r"holds no evaluation problem \(no problem text: 1\)"):
        register(bank, empty)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing more PAR1")
    with pytest.raises(RolloutsInvalid, match="damaged parquet file"):
        register(bank, broken)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("bytes") / "file"
    file.write_bytes(data)
    with suppress(SkillBankError):
        assert all(text.strip() for _, text, _ in read_problems(file, Counter()))


def test_the_schemas_of_published_evaluations(data_dir: Path) -> None:
    counts = {}
    for name in ("AIME24", "AMC23", "HMMT25"):
        problems = list(read_problems(data_dir / "math_eval" / f"{name}.parquet", Counter()))
        counts[name] = (len(problems), sum(answer is not None for *_, answer in problems))
    assert counts == {"AIME24": (30, 30), "AMC23": (40, 40), "HMMT25": (30, 30)}


# -------------------------------------------------------------------------------------------------------------- finding


def flags(bank: Bank, principle: str, evidence: tuple[Evidence, ...] = ()) -> list[str]:
    found = Guard(bank, rules=["evaluation"]).check(Skill(title="Count", principle=principle), evidence)
    return [flag.reason for flag in found]


@pytest.mark.parametrize(
    "principle",
    [
        LANTERNS,
        LANTERNS.upper(),
        "First: seven lanterns are hung, on a rope, with twelve hooks - so that no two lanterns hang apart",
        LANTERNS.replace(" ", "\n"),
        LANTERNS.replace("e", "e\u200b"),
        LANTERNS.replace("a", "\u0430"),
    ],
)
def test_thirteen_words_in_a_row(bank: Bank, file: Path, principle: str) -> None:
    register(bank, file)
    (reason,) = flags(bank, principle)
    assert reason.startswith(
        "the entry shares words with problem 1 of finals.jsonl: 'seven lanterns are hung on a rope"
    )


def test_twelve_words_and_the_phrases_of_exams_tell_nothing(bank: Bank, file: Path) -> None:
    register(bank, file)
    assert flags(bank, "Seven lanterns are hung on a rope with twelve hooks so that") == []
    phrase = (
        "Find $m+n$ if the value can be written as $m/n$, where $m$ and $n$ are relatively prime positive integers."
    )
    index = EvaluationIndex([EvaluationProblem("exam", 1, phrase, None, "0")])
    assert list(index.shared(f"How tall is it? {phrase}")) == []


def test_a_shorter_problem_counts_with_all_its_words(bank: Bank, file: Path) -> None:
    register(bank, file)
    assert len(flags(bank, f"For example: {ZORP}")) == 1
    assert flags(bank, "What is the zorp of five and seven?") == []


def test_a_source_problem_is_known_by_its_text_whatever_its_id(bank: Bank, file: Path) -> None:
    register(bank, file)
    spaced = ZORP.replace(" ", "  ")
    bank.record_problems([ProblemText(problem_id="p", problem=spaced), ProblemText(problem_id="q", problem="Else?")])
    place = Evidence(rollout_id="r", problem_id="p", outcome="correct", quote="done")
    assert flags(bank, "Look again.", (place,)) == ["mined from an evaluation problem: problem 2 of finals.jsonl"]
    assert flags(bank, "Look again.", (place.model_copy(update={"problem_id": "q"}),)) == []


@pytest.fixture
def model(embedder: Embedder) -> Embedder:
    """The made-up bank's embedder, as if it knew meaning."""
    model = copy.copy(embedder)
    model.lexical = False
    return model


def test_a_lexical_embedder_is_refused(bank: Bank, embedder: Embedder) -> None:
    with pytest.raises(InvalidOption, match="cannot find reworded evaluation problems"):
        Guard(bank, embedder=embedder)


def test_a_near_problem_is_found_by_an_embedder(bank: Bank, file: Path, model: Embedder) -> None:
    register(bank, file)
    reworded = Skill(title="Zorp", principle="zorp, what is the zorp of five, seven, modulo twenty-three")
    assert Guard(bank, rules=["evaluation_near"]).check(reworded) == ()
    guard = Guard(bank, rules=["evaluation_near"], embedder=model)
    (flag,) = guard.check(reworded)
    assert flag.reason.startswith("entry is near an evaluation problem: problem 2 of finals.jsonl (cosine 0.")
    assert guard.check(Skill(title="Lamps", principle="quite another thing altogether")) == ()
    assert guard.scan(bank, actor="me", preview=True).embedder == model.describe()


def test_command_line(bank: Bank, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank.close()
    command = ["bank", "evaluations", "--bank", str(bank.path)]
    assert main([*command, "--add", str(file)]) == 0
    assert "finals.jsonl: 3 problems, registered; no problem in 1 no problem text, 2 not a record" in (
        capsys.readouterr().out
    )
    assert main([*command, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [known["file"] for known in listed["files"]] == ["finals.jsonl"]
    assert main([*command, "--forget", "finals.jsonl"]) == 0
    assert "no longer registered" in capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == "no evaluation file is registered (--add FILE)\n"
