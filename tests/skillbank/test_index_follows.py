"""An index that follows its bank is what a new one would be: whatever is done to the bank, in whatever steps."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillbank.index import VectorIndex, generations
from skillbank.index.embed import Embedder
from skillbank.index.vectors import adopt, load_vectors
from skillbank.records import Mistake, Pair, Skill
from skillbank.store import Bank

from .made_up import OPERATIONS, evidence, mined

KINDS = ("skill", "mistake")


@pytest.fixture
def adopted(bank: Bank, embedder: Embedder) -> Bank:
    adopt(bank, embedder.name, device="cpu")
    return bank


def content(index: VectorIndex) -> dict[int, list[float]]:
    """Every entry of the index with its vector."""
    found = {}
    for kind in KINDS:
        ids_N = np.sort(index.of(kind).ids())
        assert len(set(ids_N.tolist())) == len(ids_N)
        found |= dict(zip(ids_N.tolist(), index.of(kind).vectors(ids_N).tolist(), strict=True))
    return found


def expected(bank: Bank, embedder: Embedder) -> dict[int, list[float]]:
    found = {}
    for kind in KINDS:
        ids = bank.retrievable(kind)
        ids_N, vectors_ND = load_vectors(bank, embedder.fingerprint, kind)
        assert ids_N.tolist() == ids
        found |= dict(zip(ids, vectors_ND.tolist(), strict=True))
    return found


def newest(bank: Bank) -> Path:
    root = bank.path / "index"
    return root / (root / "CURRENT").read_text().strip()


# ---- what changes ----------------------------------------------------------------------------------------------------

Step = Callable[[Bank, int], None]


def _status(status: str) -> Step:
    def step(bank: Bank, n: int) -> None:
        with bank.change(actor="me") as change:
            change.set_status([n % bank.count() + 1], status)  # type: ignore[arg-type]

    return step


def _pair_status(bank: Bank, n: int) -> None:
    with bank.change(actor="me") as change:
        change.set_status([3 + 3 * (n % 6)], "disabled" if n % 2 else "active")


def _edit(bank: Bank, n: int) -> None:
    entry = bank.get(n % bank.count() + 1)
    with bank.change(actor="me") as change:
        if isinstance(entry.content, Skill):
            change.edit(entry.id, Skill(title=f"reworded {n % 3}", principle=OPERATIONS[n % 6]))
        elif isinstance(entry.content, Mistake):
            change.edit(entry.id, Mistake(description=f"reworded {n % 3} {OPERATIONS[n % 6]}"))


def _add(bank: Bank, n: int) -> None:
    bank.add_mined([mined(f"{OPERATIONS[n % 6]} {n % 5}")], actor="miner")


def _join(bank: Bank, n: int) -> None:
    with bank.change(actor="me") as change:
        change.add(Pair(skill_id=1 + 3 * (n % 6), mistake_id=2 + 3 * (n // 6 % 6)), status="disabled")


def _merge(bank: Bank, n: int) -> None:
    standing = "kind = 'skill' AND status <> 'superseded' AND NOT withdrawn"
    skills = [row[0] for row in bank.db.rows(f"SELECT id FROM entries WHERE {standing} ORDER BY id")]
    if len(skills) > 1:
        with bank.change(actor="me") as change:
            change.merge([skills[n % len(skills)]], skills[(n + 1) % len(skills)])


def _undo(bank: Bank, n: int) -> None:
    bank.undo(actor="me")


STEPS: list[Step] = [_status("disabled"), _status("active"), _pair_status, _edit, _add, _join, _merge, _undo]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.sampled_from(range(len(STEPS))), st.integers(0, 200), st.booleans()), max_size=10),
    rebuild_share=st.sampled_from([0.0, 0.5, 100.0]),
)
def test_following_equals_building_anew(
    tmp_path_factory: pytest.TempPathFactory,
    embedder: Embedder,
    steps: list[tuple[int, int, bool]],
    rebuild_share: float,
) -> None:
    folder = tmp_path_factory.mktemp("bank") / "bank"
    with Bank.create(folder) as bank, pytest.MonkeyPatch.context() as patch:
        patch.setattr("skillbank.index.bank_index.REBUILD_SHARE", rebuild_share)
        patch.setattr("skillbank.index.bank_index.WRITE_SHARE", 1.0)  # so that reopening has something to catch up with
        bank.add_mined([mined(operation) for operation in OPERATIONS], actor="miner")
        adopt(bank, embedder.name, device="cpu")
        index = VectorIndex.open(bank, embedder)
        for step, n, follow in steps:
            STEPS[step](bank, n)
            if follow:
                index.refresh()
        index.refresh()
        assert index.revision == bank.revision
        reopened = VectorIndex.open(bank, embedder)
        assert content(index) == expected(bank, embedder)
        assert content(reopened) == content(index)


def test_an_update_touches_and_embeds_only_what_changed(
    adopted: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = VectorIndex.open(adopted, embedder)
    embedded: list[str] = []
    encode = embedder.encode_documents
    monkeypatch.setattr(embedder, "encode_documents", lambda texts: embedded.extend(texts) or encode(texts))
    assert index.refresh() == 0
    with adopted.change(actor="me") as change:
        change.edit(1, Skill(title="gnarl", principle="gnarl"))
        change.set_status([5], "disabled")
        change.add_evidence(8, [evidence("p-other", "wrong")])  # nothing that its vector depends on
    assert index.refresh() == 2
    assert embedded == ["gnarl\ngnarl"]
    assert (index.count("skill"), index.count("mistake")) == (6, 5)
    with adopted.change(actor="me") as change:  # takes skill 7 and mistake 8 out of retrieval, and is neither of them
        change.set_status([9], "disabled")
    assert index.refresh() == 2
    adopted.undo(actor="me")
    assert index.refresh() == 2
    assert embedded == ["gnarl\ngnarl"]


def test_files_are_written_when_much_has_changed(
    adopted: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillbank.index.bank_index.WRITE_SHARE", 0.25)  # 3 of 12
    index = VectorIndex.open(adopted, embedder)
    assert newest(adopted).name == "gen-1"
    for n, written in ((1, "gen-1"), (4, "gen-1"), (7, "gen-2"), (10, "gen-2")):  # counted from the files on
        with adopted.change(actor="me") as change:
            change.edit(n, Skill(title=f"gnarl {n}", principle="gnarl"))
        index.refresh()
        assert newest(adopted).name == written
    assert index.write()  # on demand
    assert newest(adopted).name == "gen-3"
    monkeypatch.setattr("skillbank.index.bank_index.load_vectors", None)  # catching up or building would call it
    assert content(VectorIndex.open(adopted, embedder)) == content(index)


def test_an_index_that_outgrows_exact_search_is_built_anew(
    adopted: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillbank.index.nearest.APPROXIMATE_FROM", 8)
    index = VectorIndex.open(adopted, embedder)
    assert not index.of("skill").approximate
    adopted.add_mined([mined("gnarl")], actor="miner")
    index.refresh()
    assert not index.of("skill").approximate
    adopted.add_mined([mined("plonk")], actor="miner")
    index.refresh()
    for following in (index, VectorIndex.open(adopted, embedder)):  # and so it is written and read
        assert following.of("skill").approximate
        assert content(following) == expected(adopted, embedder)


def test_a_bank_of_another_history_is_not_caught_up_with(adopted: Bank, embedder: Embedder, tmp_path: Path) -> None:
    """A restored copy reaches the same revision by another way: its index must not be the old one plus the rest."""
    adopted.db.run("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = shutil.copytree(adopted.path, tmp_path / "copy")
    with adopted.change(actor="me") as change:
        change.edit(1, Skill(title="gnarl", principle="gnarl"))
    VectorIndex.open(adopted, embedder)  # files of revision 2
    shutil.copytree(adopted.path / "index", copy / "index")
    time.sleep(0.002)  # revisions are told apart by their time, in milliseconds
    with Bank.open(copy) as restored:
        with restored.change(actor="me") as change:
            change.set_status([4], "disabled")
        with restored.change(actor="me") as change:
            change.set_status([7], "disabled")
        assert content(VectorIndex.open(restored, embedder)) == expected(restored, embedder)


def test_a_bank_that_cannot_be_written_is_embedded_in_memory(adopted: Bank, embedder: Embedder) -> None:
    with Bank.open(adopted.path, readonly=True) as reader:
        index = VectorIndex.open(reader, embedder)
        assert (index.count("skill"), index.count("mistake")) == (6, 6)
        assert adopted.db.value("SELECT count(*) FROM vectors") == 0
        with adopted.change(actor="me") as change:
            change.edit(1, Skill(title="gnarl", principle="gnarl"))
        assert index.refresh() == 1
    assert content(index) == content(VectorIndex.open(adopted, embedder))


def test_a_reader_does_not_wait_for_a_writer(
    adopted: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillbank.store.database.BUSY_TIMEOUT_S", 0.01)
    with Bank.open(adopted.path) as reader, adopted.db.transaction():
        assert VectorIndex.open(reader, embedder).count("skill") == 6


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", ["count", "dim", "huge", "kind", "checksum"])
def test_a_manifest_that_lies_is_not_believed(
    adopted: Bank, embedder: Embedder, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(VectorIndex.open(adopted, embedder))
    file = newest(adopted) / "manifest.json"
    manifest = json.loads(file.read_text())
    match lie:
        case "count":
            manifest["counts"]["skill"] = 600
        case "dim":
            manifest["fingerprint"]["dim"] = 4
        case "huge":
            manifest["counts"]["skill"] = 2**50
        case "kind":
            del manifest["counts"]["mistake"]
        case "checksum":
            manifest["checksum"]["skill.faiss"] = "0" * 64
    file.write_text(json.dumps(manifest))
    parsed = generations.Manifest.model_validate(manifest)
    faults = generations.check(newest(adopted), parsed)
    assert faults
    assert all("skill.faiss" in fault or "mistake" in fault for fault in faults)
    with monkeypatch.context() as patch:
        patch.setattr("skillbank.index.nearest.Nearest.read", None)  # FAISS must not see such a file
        assert content(VectorIndex.open(adopted, embedder)) == before


def test_a_pointer_out_of_the_folder_is_not_followed(adopted: Bank, embedder: Embedder, tmp_path: Path) -> None:
    before = content(VectorIndex.open(adopted, embedder))
    shutil.copytree(newest(adopted), tmp_path / "elsewhere")
    shutil.rmtree(newest(adopted))
    (adopted.path / "index" / "CURRENT").write_text(os.path.relpath(tmp_path / "elsewhere", adopted.path / "index"))
    assert content(VectorIndex.open(adopted, embedder)) == before
    assert newest(adopted).name == "gen-1"


def test_an_older_state_does_not_replace_a_newer_one(adopted: Bank, embedder: Embedder) -> None:
    old = VectorIndex.open(adopted, embedder)
    with adopted.change(actor="me") as change:
        change.set_status([1, 2, 4, 5], "disabled")
    VectorIndex.open(adopted, embedder).write()
    current = newest(adopted)
    old.write()
    assert newest(adopted) == current
    assert not list(current.parent.glob(".building-*"))


def test_what_a_killed_writer_left_is_swept_and_a_living_ones_is_not(adopted: Bank, embedder: Embedder) -> None:
    root = adopted.path / "index"
    dead, alive = root / ".building-dead", root / ".building-alive"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / "skill.faiss").write_bytes(b"half")
    with generations._held(alive):
        VectorIndex.open(adopted, embedder)
        assert not dead.exists()
        assert alive.exists()


def _write_for_ever(path: Path, embedder_name: str) -> None:
    embedder = Embedder.load(embedder_name, device="cpu")
    with Bank.open(path) as bank:
        index = VectorIndex.open(bank, embedder)
        while True:
            index.write()


@pytest.mark.slow
def test_a_swap_that_is_killed_leaves_one_whole_generation(adopted: Bank, embedder: Embedder) -> None:
    before = content(VectorIndex.open(adopted, embedder))
    context = multiprocessing.get_context("spawn")
    rng = np.random.default_rng(0)
    for _ in range(3):
        writer = context.Process(target=_write_for_ever, args=(adopted.path, embedder.name))
        first = newest(adopted)
        writer.start()
        while newest(adopted) == first:
            time.sleep(0.01)
        time.sleep(float(rng.random()) / 10)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        folder = newest(adopted)
        manifest = generations.Manifest.model_validate_json((folder / "manifest.json").read_bytes())
        assert generations.check(folder, manifest) == []
        assert content(VectorIndex.open(adopted, embedder)) == before
    VectorIndex.open(adopted, embedder).write()
    assert len(list((adopted.path / "index").iterdir())) == 2  # CURRENT and its generation: nothing is left over
