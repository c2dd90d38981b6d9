"""Reading and writing of past rollouts: formats, what is rejected, and that no bytes break it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from skillbank.errors import RolloutsInvalid, RolloutsNotFound, SkillBankError
from skillbank.records import Rollout, problem_hash
from skillbank.rollouts import Rejected, RejectLog, read_rollouts, write_rollouts

ROLLOUTS = [
    Rollout(
        rollout_id=f"r{n}",
        problem_id="p",
        problem="Wie viel ist 2 + 2?\nÜberlege.",
        completion=f"So 2 + 2 = {n}\n\\boxed{{{n}}}",
        outcome="correct" if n == 4 else "wrong",
        answer=str(n),
        reference="4",
        sampling={"temperature": 0.5 + n, "stop": ["</s>"]} if n == 4 else None,
        source="test",
        split="train" if n else "test",
    )
    for n in range(6)
]
GSM8K = {
    "question": "How many eggs are 3 and 4?",
    "ground_truth": "3 + 4 = <<3+4=7>>7\nA: 7",
    "small": {"is_correct": False, "solution": "3 * 4 = <<3*4=12>>12\nA: 12"},
    "large": {"is_correct": True, "solution": "3 + 4 = <<3+4=7>>7\nA: 7"},
}


def lines(path: Path, *records: object) -> Path:
    path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in records))
    return path


def read(path: Path) -> tuple[list[Rollout], list[Rejected]]:
    rejected: list[Rejected] = []
    return list(read_rollouts(path, on_reject=rejected.append)), rejected


@pytest.mark.parametrize("name", ["rollouts.jsonl", "rollouts.parquet"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / name
    assert write_rollouts(path, iter(ROLLOUTS)) == 6
    assert read(path) == (ROLLOUTS, [])
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write_rollouts(path, ROLLOUTS[:1])
    with pytest.raises(ZeroDivisionError):
        write_rollouts(path, (ROLLOUTS[1 // n] for n in (1, 0)))
    assert read(path) == (ROLLOUTS[:1], [])
    assert [file.name for file in tmp_path.iterdir()] == ["rollouts.jsonl"]


def test_gsm8k_model_solutions_give_one_rollout_an_attempt(tmp_path: Path) -> None:
    rollouts, rejected = read(lines(tmp_path / "gsm8k.jsonl", GSM8K))
    assert rejected == []
    problem_id = problem_hash("How many eggs are 3 and 4?")
    assert [(r.rollout_id, r.model, r.outcome, r.answer) for r in rollouts] == [
        (f"gsm8k-{problem_id}-small", "small", "wrong", "12"),
        (f"gsm8k-{problem_id}-large", "large", "correct", "7"),
    ]
    assert {(r.problem_id, r.reference, r.split) for r in rollouts} == {(problem_id, "7", "train")}


def test_bad_lines_are_kept_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = [rollout.model_dump() for rollout in ROLLOUTS[:2]]
    bad = {**good[0], "outcome": "maybe"}
    surrogate = {**good[0], "completion": "\ud800"}
    path = lines(
        tmp_path / "mixed.jsonl",
        b'{"rollout_id": "r0", "prob',
        b"[1, 2]",
        b"",
        b'{"a": 1}',
        good[0],
        bad,
        b"\xff\xfe",
        surrogate,
        b'{"a": NaN}',
        b"[" * 100_000,
        GSM8K,
        good[1],
    )
    rollouts, rejected = read(path)
    assert rollouts == ROLLOUTS[:2]
    assert [(item.line, item.reason) for item in rejected] == [
        (1, "not JSON"),
        (2, "not a record"),
        (4, "unknown format"),
        (6, "not a rollout"),
        (7, "not UTF-8"),
        (8, "not UTF-8"),
        (9, "not a rollout"),  # NaN is read as null
        (10, "not JSON"),
        (11, "not a rollout"),
    ]
    assert rejected[0].raw == '{"rollout_id": "r0", "prob'
    assert rejected[3].detail.startswith("outcome: ")
    assert rejected[4].raw == "\\xff\\xfe"


def test_rejected_lines_are_kept_in_a_file(tmp_path: Path) -> None:
    path = lines(tmp_path / "rollouts.jsonl", b"{", ROLLOUTS[0].model_dump(), b"}", b"3")
    with RejectLog(tmp_path / "rejected.jsonl") as log:
        assert list(read_rollouts(path, on_reject=log)) == ROLLOUTS[:1]
    assert log.counts == {"not JSON": 2, "not a record": 1}
    kept = [Rejected.model_validate_json(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(item.line, item.raw) for item in kept] == [(1, "{"), (3, "}"), (4, "3")]
    with RejectLog(tmp_path / "rejected.jsonl"):
        pass
    assert not (tmp_path / "rejected.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, RolloutsNotFound, "no rollout file at"),
        (b"", RolloutsInvalid, "is empty"),
        (b" \n\n", RolloutsInvalid, "no usable rollout"),
        (b'{"a": 1}\n{', RolloutsInvalid, "2 lines rejected, the first: line 1 is unknown format"),
        (b"PAR1 rubbish PAR1", RolloutsInvalid, "damaged parquet"),
    ],
)
def test_unusable_files_say_so_in_one_line(
    tmp_path: Path, content: bytes | None, error: type[Exception], words: str
) -> None:
    path = tmp_path / "rollouts.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=words) as caught:
        list(read_rollouts(path))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SkillBankError)


def test_missing_files_and_folders_are_found_out_before_reading(tmp_path: Path) -> None:
    with pytest.raises(RolloutsNotFound):
        read_rollouts(tmp_path / "none.jsonl")
    with pytest.raises(RolloutsInvalid, match="is a folder"):
        read_rollouts(tmp_path)


def test_a_null_in_a_parquet_column_takes_the_default(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {**ROLLOUTS[4].model_dump(), "split": None, "answer": None}
    bad = {**row, "outcome": "maybe"}
    pq.write_table(pa.Table.from_pylist([row, bad]), tmp_path / "rollouts.parquet")
    rollouts, rejected = read(tmp_path / "rollouts.parquet")
    assert rollouts == [ROLLOUTS[4].model_copy(update={"answer": None})]  # sampling as a struct, split by default
    assert [(item.line, item.reason) for item in rejected] == [(2, "not a rollout")]


NATIVE_LINE = st.sampled_from([rollout.model_dump_json().encode() for rollout in ROLLOUTS])
LINE = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b" ")) | NATIVE_LINE
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from([*Rollout.model_fields, *GSM8K, "is_correct", "solution"])
RECORD = st.dictionaries(FIELDS, JSON | st.sampled_from([*ROLLOUTS[0].model_dump().values(), GSM8K["small"]]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE | NATIVE_LINE.map(lambda line: line[:-3]) | RECORD.map(lambda r: json.dumps(r).encode())))
def test_every_line_is_yielded_or_rejected(tmp_path: Path, content: list[bytes]) -> None:
    path = tmp_path / "any.jsonl"
    data = b"\n".join(content)
    assume(not (data.startswith(b"PAR1") and data.endswith(b"PAR1")))  # that is a (damaged) parquet file,
    assume(not data.startswith(b"\x1f\x8b") and not data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["))
    # those a packed one and an array, of which not each line is a record
    path.write_bytes(data)
    rejected: list[Rejected] = []
    rollouts: list[Rollout] = []
    try:
        rollouts.extend(read_rollouts(path, format="native", on_reject=rejected.append))
    except SkillBankError:
        assert rollouts == []
    present = [n for n, line in enumerate(content, start=1) if line.removeprefix(b"\xef\xbb\xbf" * (n == 1)).strip()]
    assert len(rollouts) + len(rejected) == len(present)
    assert set(present) >= {item.line for item in rejected}
    for item in rejected:
        assert Rejected.model_validate_json(item.model_dump_json()) == item


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary() | st.binary().map(lambda data: b"PAR1" + data + b"PAR1") | RECORD.map(lambda r: json.dumps(r).encode())
)
def test_any_bytes_raise_nothing_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    message = ""
    try:
        for rollout in read_rollouts(path):
            rollout.model_dump_json().encode("utf-8")
    except SkillBankError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.skipif("SGSD_DATA" not in os.environ, reason="SGSD_DATA names no folder of public data files")
def test_the_published_model_solutions_are_read_as_they_are() -> None:
    path = Path(os.environ["SGSD_DATA"]) / "rollouts" / "gsm8k_model_solutions.jsonl"
    rollouts, rejected = read(path)
    assert (len(rollouts), len({r.problem_id for r in rollouts}), rejected) == (3600, 900, [])
    assert sum(r.outcome == "correct" for r in rollouts) == 200 + 2 * 165 + 3 * 138 + 4 * 112
