"""Any bytes, as past rollouts and as a bank of others: records, counted rejections, or one clear error."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillbank.errors import SkillBankError
from skillbank.exchange import import_file
from skillbank.exchange.items import Item
from skillbank.guard import Guard
from skillbank.rollouts import Rejected, lines, read_rollouts, write_rollouts
from skillbank.store import Bank

any_file = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    """scripts/fuzz_bank.py: its examples and its damage."""
    path = Path(__file__).resolve().parent.parent.parent / "scripts" / "fuzz_bank.py"
    spec = importlib.util.spec_from_file_location("fuzz_bank", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(fuzz: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[bytes], Bank, Path]]:
    """A valid file of every format, a bank that knows some of their entries, and a file to write to."""
    folder = tmp_path_factory.mktemp("fuzz")
    files = fuzz.examples(folder)
    with Bank.open(folder / "bank") as bank:
        yield files, bank, folder / "file"


@contextmanager
def one_clear_error() -> Iterator[None]:
    """An error of ours may stop the work, if it is one line."""
    message = ""
    try:
        yield
    except SkillBankError as error:
        message = str(error)
    assert "\n" not in message


def swallow(path: Path, bank: Bank, *, trust: bool = False) -> None:
    """Reads and imports a file; raises what must not be raised."""
    rejected: list[Rejected] = []
    with one_clear_error():
        for rollout in read_rollouts(path, on_reject=rejected.append):
            rollout.model_dump_json().encode("utf-8")
    for item in rejected:
        assert Rejected.model_validate_json(item.model_dump_json()) == item
    before, revision = bank.count(), bank.revision
    refused: list[Rejected] = []
    with one_clear_error():
        report = import_file(
            bank, path, actor="x", trust=trust, dry_run=True, check=Guard(bank).check, on_reject=refused.append
        )
        assert sum(report.rejected.values()) == len(refused)
    assert (bank.count(), bank.revision) == (before, revision)


@any_file
@given(data=st.binary(max_size=300), mark=st.sampled_from([b"", b"PAR1", b"\x1f\x8b\x08", b"[", b"[{", b'{"a":']))
def test_any_bytes(made: tuple[list[bytes], Bank, Path], data: bytes, mark: bytes) -> None:
    _, bank, path = made
    path.write_bytes(mark + data + (b"PAR1" if mark == b"PAR1" else b""))
    swallow(path, bank)


@any_file
@given(seed=st.integers(0, 2**32), trust=st.booleans())
def test_any_damage_to_a_valid_file(
    fuzz: ModuleType, made: tuple[list[bytes], Bank, Path], seed: int, trust: bool
) -> None:
    files, bank, path = made
    path.write_bytes(fuzz.changed(random.Random(seed), files))
    swallow(path, bank, trust=trust)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@any_file
@given(data=st.data())
def test_any_value_in_any_field(made: tuple[list[bytes], Bank, Path], data: st.DataObject) -> None:
    """One field, at any depth, of one record holds something else."""
    files, bank, path = made
    records = [record for file in files for record in _records(file)]
    record = data.draw(st.sampled_from(records))
    at: Any = record
    while True:
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(VALUE)
    others = data.draw(st.lists(st.sampled_from(records), max_size=2))
    path.write_text("\n".join(json.dumps(item) for item in (record, *others)))
    swallow(path, bank, trust=data.draw(st.booleans()))


def _records(file: bytes) -> Iterator[dict[str, Any]]:
    texts = [file.replace(b"\n", b"")] if file.startswith((b"[", b"{\n")) else file.split(b"\n")
    for text in texts:
        with suppress(ValueError):
            found = json.loads(text)
            yield from (item for item in (found if isinstance(found, list) else [found]) if isinstance(item, dict))


@any_file
@given(
    elements=st.lists(st.binary(max_size=8) | st.sampled_from([b'{"a": "]"}', b"[1, {}]", b'"\\""', b"{", b'"'])),
    chunk=st.integers(1, 9),
)
def test_an_array_is_cut_where_json_cuts_it(elements: list[bytes], chunk: int) -> None:
    """However the bytes come, and whatever they are: a valid array gives the elements that a JSON parser gives."""
    text = b"[" + b",".join(elements) + b"]"
    array = lines._Array()
    found = [data for start in range(0, len(text), chunk) for _, data in array.feed(text[start : start + chunk])]
    with suppress(ValueError, RecursionError):
        expected = json.loads(text)
        assert [json.loads(data) for data in found] == expected
        assert list(array.complaints()) == []


def test_memory_does_not_grow_with_the_file(tmp_path: Path, fuzz: ModuleType) -> None:
    import tracemalloc

    file = fuzz.examples(tmp_path)[5]
    (rollout, *_) = [*read_rollouts(_written(tmp_path / "one", file))]
    rollout = rollout.model_copy(update={"completion": "word " * 2000})
    peaks = {}
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        for count in (500, 2000):
            path = tmp_path / f"{count}-{name}"
            write_rollouts(path, (rollout.model_copy(update={"rollout_id": str(n)}) for n in range(count)))
            tracemalloc.start()
            assert sum(1 for _ in read_rollouts(path)) == count
            peaks[name, count] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peaks[name, 2000] < 1.3 * peaks[name, 500] < 10e6


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_the_fields_of_an_item_are_those_that_a_line_has() -> None:
    item = Item(kind="problem", problem_id="p", problem="3\u200b zorp \U000e0041 4?")
    assert item.line() == r'{"kind": "problem", "problem_id": "p", "problem": "3\u200b zorp \udb40\udc41 4?"}'
    assert Item.model_validate(json.loads(item.line())) == item


@pytest.mark.slow
def test_the_script_finds_nothing(root: Path) -> None:
    command = [sys.executable, str(root / "scripts" / "fuzz_bank.py"), "--files", "300", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["failures"], report["files"]) == (0, 300)
    assert report["rollouts"] > 30
    assert report["entries"] > 100
