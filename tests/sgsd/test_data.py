"""Every schema, and everything that can be wrong with a file of problems."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from sgsd.data import (
    DAPO_CHINESE_SUFFIX,
    DAPO_PREFIX,
    DAPO_SUFFIX,
    load_problems,
    problem_from_row,
    problem_hash,
    strip_boilerplate,
)
from sgsd.errors import DataInvalid, DataNotFound, SGSDError
from sgsd.records import Problem
from skillbank.records import problem_hash as bank_problem_hash


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def verl(text: str, answer: str, **extra: str) -> dict[str, Any]:
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": extra or {"index": "u-1"},
    }


def test_verl_rows_lose_their_boilerplate(tmp_path: Path) -> None:
    rows = [
        verl(f"{DAPO_PREFIX}\n\nWhat is $1+1$?\n\n{DAPO_SUFFIX}", "2", index="u-1"),
        verl(
            f"{DAPO_PREFIX}\n\n求值.\n{DAPO_CHINESE_SUFFIX}\n\n{DAPO_SUFFIX}", "\\boxed{34}", index="u-2", split="test"
        ),
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "dapo.parquet")
    found = load_problems(tmp_path / "dapo.parquet")
    assert list(found) == [
        Problem("u-1", "What is $1+1$?", "2", source="math_dapo", split="train"),
        Problem("u-2", "求值.", "34", source="math_dapo", split="test"),
    ]
    assert found.left_out == 0


def test_boilerplate_is_stripped_at_the_ends_only() -> None:
    quoted = f"Why does a prompt say {DAPO_SUFFIX} in its middle?"
    assert strip_boilerplate(quoted) == quoted


def test_plain_rows_under_all_their_names(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.jsonl",
        {"problem": "one", "answer": 1, "problem_id": "p-1", "source": "s", "split": "train", "solution": "because"},
        {"question": " two ", "answer": "2", "id": "7"},
        {"problem": "three", "answer": "3.5", "level": "hard"},
    )
    assert list(load_problems(str(file))) == [
        Problem("p-1", "one", "1", source="s", split="train", solution="because"),
        Problem("mine-7", "two", "2", source="mine", split="train"),
        Problem(bank_problem_hash("three"), "three", "3.5", source="mine", split="train"),
    ]


def test_gsm8k_answers_are_split_into_solution_and_answer(tmp_path: Path) -> None:
    file = write(tmp_path / "gsm8k.jsonl", {"question": "Eggs?", "answer": "9 * 2 = <<9*2=18>>18\n#### 1,018"})
    (problem,) = load_problems(file, split="test")
    assert (problem.answer, problem.solution, problem.split) == ("1018", "9 * 2 = <<9*2=18>>18", "test")


def test_a_single_row() -> None:
    assert problem_from_row({"problem": "one", "answer": "1"}) == Problem(
        problem_hash("one"), "one", "1", source="unknown"
    )
    with pytest.raises(DataInvalid, match="no usable problem in a row: no answer"):
        problem_from_row({"problem": "one", "answer": ""})


def test_duplicates_go_and_contradictions_go_altogether(tmp_path: Path) -> None:
    file = write(
        tmp_path / "p.jsonl",
        {"problem": "a  b", "answer": "1"},
        {"problem": "a b ", "answer": "1"},
        {"problem": "c", "answer": "1"},
        {"problem": "c", "answer": "2"},
        {"problem": "c", "answer": "1"},
        {"problem": "d", "answer": "4", "problem_id": "x"},
        {"problem": "e", "answer": "5", "problem_id": "x"},
    )
    found = load_problems(file)
    assert [p.problem for p in found] == ["a  b", "d"]
    # A third row repeats the first's answer: it is counted as a duplicate, whichever of the two is right.
    assert (found.rows, found.duplicates, found.contradictory, len(found.rejected)) == (7, 2, 2, 1)
    assert found.rows == len(found) + found.left_out
    assert "1 unusable (the id of another problem; first in row 7)" in found.describe()


def test_bad_lines_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    good = json.dumps({"problem": "a", "answer": "1"})
    file.write_bytes(
        f'{good}\n\n[1]\n{{"problem": "b"}}\n{{"problem": "", "answer": "1"}}\n'.encode()
        + b'{"problem": "c", "answer": true}\n'
        + b'{"problem": "\xff", "answer": "1"}\n'
        + good[:-9].encode()
    )
    found = load_problems(file)
    assert [p.problem for p in found] == ["a"]
    assert [(r.row, r.reason) for r in found.rejected] == [
        (3, "not a whole JSON object"),
        (4, "columns problem, not `problem` (or `question`) and `answer`, or `prompt` and `reward_model`"),
        (5, "no problem text"),
        (6, "no answer"),
        (7, "not a whole JSON object"),
        (8, "not a whole JSON object"),
    ]
    assert found.describe().startswith(
        f"1 problem from {file}; left out: 3 unusable (not a whole JSON object; first in row 3)"
    )


def test_split_limit_and_seed(tmp_path: Path) -> None:
    file = write(
        tmp_path / "p.jsonl",
        *({"problem": f"t{i}", "answer": "1", "split": "train"} for i in range(20)),
        *({"problem": f"e{i}", "answer": "1", "split": "test"} for i in range(3)),
    )
    assert len(load_problems(file)) == 23
    held_out = load_problems(file, split="test")
    assert [p.problem for p in held_out] == ["e0", "e1", "e2"]
    assert held_out.other_splits == 20
    assert [p.problem for p in load_problems(file, split="train", limit=2)] == ["t0", "t1"]
    sample = [p.problem for p in load_problems(file, split="train", limit=5, seed=1)]
    assert sample == [p.problem for p in load_problems(file, split="train", limit=5, seed=1)]
    assert sample != [p.problem for p in load_problems(file, split="train", limit=5, seed=2)]
    assert len(set(sample)) == 5
    with pytest.raises(DataInvalid, match=r"no row of split 'dev': it holds test \(3\), train \(20\)"):
        load_problems(file, split="dev")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("blank.jsonl", b"\n\n", "is empty"),
        ("empty.parquet", b"", "is empty"),
        ("fake.parquet", b"hello", "is not a parquet file"),
        ("cut.parquet", b"PAR1\x00\x01", "cannot be read as parquet"),
        ("other.jsonl", b'{"text": "x"}\n', "columns text, not `problem`"),
        ("array.json", b'[{"problem": "a", "answer": "1"}]', "not a whole JSON object"),
    ],
)
def test_files_without_a_problem_are_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataInvalid, match=message) as caught:
        load_problems(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "./missing", "/no/such/file", "two words", "a/b/c"])
def test_a_missing_file_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(DataNotFound, match="no file"):
        load_problems(name)


def test_other_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataInvalid, match="folder"):
        load_problems(tmp_path)
    with pytest.raises(DataInvalid, match="made, not read"):
        load_problems("arena:easy")

    import datasets

    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, configuration: str | None, *, split: str) -> list[dict[str, Any]]:
        asked.append((name, configuration, split))
        if name == "no/such":
            raise FileNotFoundError("cannot reach\nthe hub")
        return [{"question": "q", "answer": "so\n#### 3"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (problem,) = load_problems("openai/gsm8k:main", split="test")
    assert problem == Problem(problem_hash("q"), "q", "3", source="openai/gsm8k:main", split="test", solution="so")
    with pytest.raises(DataNotFound, match="cannot reach the hub"):
        load_problems("no/such")
    assert asked == [("openai/gsm8k", "main", "test"), ("no/such", None, "train")]


@given(st.text(max_size=40))
def test_the_id_of_a_text_is_the_banks(text: str) -> None:
    assert problem_hash(text) == bank_problem_hash(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["problem", "question", "answer", "prompt", "reward_model", "extra_info", "id", "split", "solution"]
)


@given(st.lists(st.dictionaries(KEYS, JSON_VALUES, max_size=6).map(json.dumps) | st.text(max_size=10), max_size=6))
@settings(max_examples=60)
def test_any_file_gives_problems_or_one_line(lines: list[str]) -> None:
    with tempfile.NamedTemporaryFile("wb", suffix=".jsonl") as file:
        file.write("\n".join(lines).encode("utf-8", "surrogatepass"))
        file.flush()
        try:
            found = load_problems(file.name)
        except SGSDError as error:
            complaint = str(error)
        else:
            complaint = found.describe()
            assert found.rows == len(found) + found.left_out
            assert all(p.problem and p.answer and p.problem_id for p in found)
        assert len(complaint.splitlines()) == 1


def test_dapo_as_published(data_dir: Path) -> None:
    found = load_problems(data_dir / "dapo" / "dapo-math-17k.parquet")
    assert (found.rows, len(found), found.duplicates, found.contradictory) == (17_917, 17_176, 717, 24)
    assert not any(text in p.problem for p in found for text in ("Answer:", "Remember to put", "step by step"))
    assert not any(p.problem != p.problem.strip() for p in found)
    assert found[0].problem.startswith("In triangle $ABC$, $\\sin \\angle A = \\frac{4}{5}$")
    assert found[0].answer == "34"
    assert len({p.problem_id for p in found}) == len(found)


def test_evaluation_files_as_published(data_dir: Path) -> None:
    aime = load_problems(data_dir / "math_eval" / "AIME24.parquet", split="test")
    assert (len(aime), aime[0].answer, aime[0].problem_id) == (30, "204", "AIME24-0")
    hmmt = load_problems(data_dir / "math_eval" / "HMMT25.parquet", split="test")
    assert (len(hmmt), hmmt[2].answer, hmmt[0].problem_id) == (30, "\\frac{1}{576}", "HMMT25-1")
    assert len(load_problems(data_dir / "math_eval" / "AMC23.parquet")) == 40
