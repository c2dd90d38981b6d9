"""A sound bank is found sound; whatever is planted is found, named, and mended where it can be computed again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.doctor import Report, doctor
from skillbank.errors import BankBusy, BankNotFound
from skillbank.index import VectorIndex
from skillbank.index.embed import Embedder
from skillbank.index.vectors import bank_embedder
from skillbank.records import Flag, RolloutFate, Skill
from skillbank.store import FILE, Bank, Query, UsageRow

from .made_up import OPERATIONS, mined


def usage(skill_id: int, mistake_id: int, polarity: int) -> UsageRow:
    return UsageRow(
        run="run", step=1, problem_id="p", outcome="correct", skill_id=skill_id, mistake_id=mistake_id,
        support=0.3 * polarity, polarity=polarity, gate_mass=0.1, weight=0.5, revision=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with a bit of everything: merged, split, flagged, retracted, undone; vectors, an index, usage."""
    path = tmp_path_factory.mktemp("rich") / "bank"
    with Bank.create(path) as bank:
        bank.add_mined([mined(operation) for operation in OPERATIONS], actor="miner")
        bank.add_mined([mined("zorp", "p-other")], actor="miner")
        with bank.change(actor="me") as change:
            change.merge([1], into=4)
        with bank.change(actor="me") as change:
            change.merge([4], into=7)
            change.tag([7, 8], add=["good"])
        with bank.change(actor="me") as change:
            change.split(10, [Skill(title="One", principle="part"), Skill(title="Other", principle="part")])
            change.flag(13, [Flag(rule="leak", reason="17")])
            change.edit(16, Skill(title="Reworded", principle="by hand"))
        with bank.change(actor="me") as change:
            change.retract(["p-drell-wrong"])
        bank.undo(actor="me")
        bank.record_usage([usage(7, 8, 1), usage(7, 8, -1), usage(1, 2, 0)])
        fate = RolloutFate(
            rollout_id="p-zorp-correct", problem_id="p-zorp", content_hash="h", outcome="correct", miner="contrast",
            fate="accepted", completion="so it is 3",
        )  # fmt: skip
        bank.record_rollouts([fate])
        VectorIndex.open(bank, bank_embedder(bank))
    return path


@pytest.fixture
def planted(rich: Path, tmp_path: Path) -> Path:
    shutil.copytree(rich, tmp_path / "bank")
    return tmp_path / "bank"


def checks(report: Report) -> set[str]:
    return {finding.check for finding in report.errors}


def notes(report: Report) -> dict[str, int]:
    return {finding.check: finding.count for finding in report.findings if finding.severity == "note"}


def test_a_sound_bank_is_found_sound(planted: Path) -> None:
    report = doctor(planted)
    assert report.errors == ()
    assert report.sound
    assert (report.revision, report.entries) == (7, 25)
    assert notes(report) == {"rollout": 15}  # of 16 places; one rollout was recorded
    with Bank.open(planted) as bank:
        embedder = bank_embedder(bank)
    assert doctor(planted, embedder=embedder).sound


def test_looking_changes_nothing(planted: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(planted.rglob("*")) if path.is_file()}
    doctor(planted)
    assert {path: path.read_bytes() for path in sorted(planted.rglob("*")) if path.is_file()} == before


def test_an_empty_bank_is_sound(tmp_path: Path) -> None:
    Bank.create(tmp_path / "bank").close()
    report = doctor(tmp_path / "bank")
    assert (report.findings, report.revision, report.entries) == ((), 0, 0)
    with pytest.raises(BankNotFound, match="no bank at"):
        doctor(tmp_path / "none")


# What is planted in the rows: SQL, the checks that must tell, and whether it can be mended.
ROWS: dict[str, tuple[str, set[str], bool]] = {
    "evidence count": ("UPDATE entries SET evidence_count = 9 WHERE id = 2", {"evidence-count"}, True),
    "evidence count between merged ones": (
        "UPDATE entries SET evidence_count = evidence_count - 1 WHERE id = 4",
        {"evidence-count"},
        True,
    ),
    "head": ("UPDATE entries SET head = 4 WHERE id = 1", {"head"}, True),
    "head of none": ("UPDATE entries SET head = 2 WHERE id = 8", {"head"}, True),
    "retrievable": ("UPDATE entries SET retrievable = 0 WHERE id = 7", {"retrievable", "index-content"}, True),
    "not retrievable": ("UPDATE entries SET retrievable = 1 WHERE id = 13", {"retrievable"}, True),
    "content": (
        "UPDATE entries SET content = replace(content, 'doubles', 'triples') WHERE id = 8",
        {"state"},
        True,
    ),
    "content hash": ("UPDATE entries SET content_hash = 'abc' WHERE id = 8", {"content-hash"}, True),
    "content and hash": (
        "UPDATE entries SET content_hash = 'abc', content = replace(content, 'doubles', 'triples') WHERE id = 8",
        {"events"},
        False,
    ),
    "no content": ("UPDATE entries SET content = '{' WHERE id = 8", {"state"}, True),
    "text": ("UPDATE entries SET text = 'something else' WHERE id = 8", {"text"}, True),
    "status": ("UPDATE entries SET status = 'disabled' WHERE id = 9", {"state"}, True),
    "superseded by none": (
        "UPDATE entries SET superseded_by = NULL WHERE id = 1", {"state", "superseded", "head"}, True
    ),
    "circle": ("UPDATE entries SET superseded_by = 1, status = 'superseded' WHERE id = 7", {"state", "cycle"}, True),
    "flag": ("UPDATE entries SET status = 'active' WHERE id = 13", {"flagged", "state"}, True),
    "flags": ("UPDATE entries SET flags = '[]' WHERE id = 13", {"state"}, True),
    "tags": ("UPDATE entries SET tags = 'x' WHERE id = 7", {"state"}, True),
    "pin": ("UPDATE entries SET pinned = 1 WHERE id = 7", {"state"}, True),
    "version": ("UPDATE entries SET version = 5 WHERE id = 7", {"state"}, True),
    "side": ("UPDATE entries SET skill_id = 2 WHERE id = 15", {"pair"}, False),
    "entry of nobody": (
        "INSERT INTO entries (kind, status, origin, content, content_hash, revision)"
        " VALUES ('skill', 'retired', 'x', '{}', 'x', 1)",
        {"eventless"},
        False,
    ),
    "evidence use": ("UPDATE evidence SET active = 0 WHERE id = 1", {"evidence-use"}, True),
    "quote": ("UPDATE evidence SET quote = 'so it is 4' WHERE id = 1", {"quote"}, False),
    "evidence of nobody": (
        "INSERT INTO evidence VALUES (99, 999, 'r', 'p', 'wrong', 'q', NULL, NULL, 's', x'00', 1)",
        {"foreign-key"},
        False,
    ),
    "wording lost": ("DELETE FROM wordings WHERE entry_id = 16", {"wordings"}, True),
    "wording too many": ("INSERT INTO wordings VALUES ('skill', 'abc', 16)", {"wordings"}, True),
    "retraction": ("UPDATE retractions SET active = 1", {"retractions", "retracted"}, True),
    "revision": ("INSERT INTO revisions VALUES (9, 'now', 'me', '', NULL, 0)", {"revisions"}, False),
    "usage sums": ("UPDATE usage_totals SET helpful = 5 WHERE skill_id = 7", {"usage"}, True),
    "usage sums lost": ("DELETE FROM usage_totals WHERE skill_id = 7", {"usage"}, True),
    "completion": ("UPDATE rollouts SET completion = x'00'", {"completion"}, False),
    "bank id": ("DELETE FROM meta WHERE key = 'bank_id'", {"bank-id", "index"}, False),
    "fingerprint": ("UPDATE meta SET value = '{' WHERE key = 'fingerprint'", {"fingerprint"}, False),
    "vector size": ("UPDATE vectors SET vector = x'0000' WHERE rowid = 3", {"vector"}, True),
    "vector": ("UPDATE vectors SET vector = zeroblob(length(vector) - 4) || x'00000040'", {"vector"}, True),
    "search index": ("INSERT INTO entry_text (entry_text, rowid, text) VALUES ('delete', 7, 'quix')", {"search"}, True),
    "index gone": ("DROP INDEX entries_tagged", {"schema"}, True),
    "view gone": ("DROP VIEW entry_usage", {"schema"}, True),
    "trigger gone": ("DROP TRIGGER events_hold", {"schema"}, True),
    "table gone": ("DROP TABLE calls", {"table"}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_is_changed_behind_the_bank_s_back_is_found_and_mended(planted: Path, name: str) -> None:
    sql, expected, mends = ROWS[name]
    with Bank.open(planted) as bank:
        before = everything(bank)
        bank.db.run("PRAGMA foreign_keys = OFF")
        bank.db.run(sql)
    found = doctor(planted)
    assert expected <= checks(found), found.findings
    assert not found.sound
    assert all(finding.remedy for finding in found.findings)
    mended = doctor(planted, fix=True)
    assert mended.sound == mends, mended.findings
    if mends:
        assert expected <= {finding.check for finding in mended.fixed}
        with Bank.open(planted) as bank:
            assert everything(bank) == before
        assert doctor(planted).sound
    else:
        assert expected & checks(mended)


def everything(bank: Bank) -> list[object]:
    """All that is not computed again by an embedder."""
    tables = (
        "entries",
        "events",
        "evidence",
        "revisions",
        "wordings",
        "retractions",
        "usage",
        "usage_totals",
        "rollouts",
    )
    schema = bank.db.rows("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
    found = [tuple(row) for row in bank.entries(Query(text="quix"))]
    return [
        [sorted(map(repr, map(tuple, bank.db.rows(f"SELECT * FROM {table}")))) for table in tables],
        found,
        [*map(tuple, schema)],
    ]


def test_events_that_do_not_follow_from_one_another_are_told_and_left(planted: Path) -> None:
    with Bank.open(planted) as bank:
        bank.db.run("DROP TRIGGER events_hold")
        bank.db.run(
            "UPDATE events SET before = replace(before, 'active', 'retired') WHERE op = 'split' AND entry_id = 10"
        )
    report = doctor(planted, fix=True)
    assert checks(report) == {"events"}
    assert "entry 10" in str(report.errors[0])
    assert "restore the bank from a copy" in report.errors[0].remedy


def damage(file: Path, start: int, data: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(data)


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "header": (lambda bank: damage(bank / FILE, 0, b"x" * 100), "unreadable"),
    "page": (lambda bank: damage(bank / FILE, 4096 * 3, b"\xff" * 4096), "damaged"),
    "cut in half": (lambda bank: os.truncate(bank / FILE, (bank / FILE).stat().st_size // 2), "damaged"),
    "cut to nothing": (lambda bank: os.truncate(bank / FILE, 0), "unreadable"),
    "another database": (lambda bank: damage(bank / FILE, 68, b"\0\0\0\0"), "unreadable"),
    "a later format": (lambda bank: damage(bank / FILE, 60, b"\0\0\0\x63"), "unreadable"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_told(planted: Path, name: str) -> None:
    act, check = FILES[name]
    act(planted)
    report = doctor(planted)
    assert checks(report) & {check, "unreadable"}
    assert "restore" in report.errors[0].remedy
    assert not doctor(planted, fix=True).sound


def generation(bank: Path) -> Path:
    return bank / "index" / (bank / "index/CURRENT").read_text().strip()


def spoil_vectors(bank: Path) -> None:
    """The same file with one vector changed, and its checksum too."""
    import hashlib

    import faiss

    file = generation(bank) / "skill.faiss"
    index = faiss.read_index(str(file))
    vector = index.reconstruct(7)
    index.remove_ids(faiss.IDSelectorArray(1, faiss.swig_ptr(__import__("numpy").array([7]))))
    vector[:2] = vector[:2][::-1] + 0.25
    index.add_with_ids(vector[None], __import__("numpy").array([7]))
    faiss.write_index(index, str(file))
    manifest = generation(bank) / "manifest.json"
    values = json.loads(manifest.read_text())
    values["checksum"]["skill.faiss"] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(values))


INDEX: dict[str, tuple[Callable[[Path], None], str]] = {
    "CURRENT": (lambda bank: (bank / "index/CURRENT").write_text("gen-99\n") and None, "index"),
    "CURRENT leads out": (lambda bank: (bank / "index/CURRENT").write_text("../../elsewhere") and None, "index"),
    "CURRENT is no text": (lambda bank: (bank / "index/CURRENT").write_bytes(b"\xff\xfe") and None, "index"),
    "manifest": (lambda bank: damage(generation(bank) / "manifest.json", 1, b"\0"), "index"),
    "manifest of another bank": (
        lambda bank: (generation(bank) / "manifest.json").write_text(
            (generation(bank) / "manifest.json").read_text().replace('"bank_id": "', '"bank_id": "x')
        ) and None,
        "index",
    ),
    "bytes": (lambda bank: damage(generation(bank) / "skill.faiss", 400, b"\xff\xff"), "index"),
    "cut off": (lambda bank: os.truncate(generation(bank) / "mistake.faiss", 100), "index"),
    "gone": (lambda bank: (generation(bank) / "mistake.faiss").unlink(), "index"),
    "another vector": (spoil_vectors, "index-content"),
}  # fmt: skip


@pytest.mark.parametrize("name", INDEX)
def test_a_damaged_index_is_told_and_taken_away_or_built_again(planted: Path, name: str) -> None:
    act, check = INDEX[name]
    act(planted)
    assert checks(doctor(planted)) == {check}
    copy = planted.parent / "copy"
    shutil.copytree(planted, copy)
    mended = doctor(planted, fix=True)
    assert mended.sound
    assert check in {finding.check for finding in mended.fixed}
    assert not (planted / "index/CURRENT").exists()
    with Bank.open(copy) as bank:
        embedder = bank_embedder(bank)
    assert doctor(copy, fix=True, embedder=embedder).sound
    assert (copy / "index/CURRENT").exists()


def test_an_index_that_is_behind_is_sound(planted: Path) -> None:
    with Bank.open(planted) as bank, bank.change(actor="me") as change:
        change.set_status([8], "disabled")
        change.edit(17, mined("other").mistake)
    report = doctor(planted)
    assert report.sound
    assert notes(report)["no-vector"] == 1


def test_vectors_of_other_words_are_found_by_embedding_again(planted: Path) -> None:
    with Bank.open(planted) as bank:
        embedder = bank_embedder(bank)
        one, other = (bank.db.value("SELECT content_hash FROM entries WHERE id = ?", (i,)) for i in (7, 16))
        bank.db.run(
            "UPDATE vectors SET vector = (SELECT vector FROM vectors WHERE content_hash = ?) WHERE content_hash = ?",
            (other, one),
        )
    assert "vector-words" in checks(doctor(planted, embedder=embedder))
    assert doctor(planted, embedder=embedder, fix=True).sound
    assert doctor(planted, embedder=embedder).sound


def test_an_embedder_that_changed_or_is_gone_is_told(planted: Path, embedder: Embedder) -> None:
    assert checks(doctor(planted, embedder=embedder)) == {"embedder"}
    next((planted / "embedder").rglob("*.safetensors")).write_bytes(b"other")
    assert checks(doctor(planted)) == {"embedder"}
    shutil.rmtree(planted / "embedder")
    report = doctor(planted, fix=True)
    assert checks(report) == {"embedder"}
    assert "restore the folder" in report.errors[0].remedy


def test_leftovers_are_noted_and_removed_and_what_is_at_work_is_left(planted: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    (planted / f".{FILE}.tmp-{dead.pid}").touch()
    (planted / f".{FILE}.tmp-{os.getpid()}").touch()
    (planted / "index/.building-x").mkdir()
    (planted / "index/gen-77").mkdir()
    (planted / ".embedder-old").mkdir()
    os.utime(planted / ".embedder-old", (0, 0))
    (planted / ".embedder-new").mkdir()
    building = planted.parent / f".{planted.name}.building"
    building.mkdir()
    report = doctor(planted)
    assert report.sound
    assert (notes(report)["leftover"], notes(report)["building"]) == (4, 1)
    mended = doctor(planted, fix=True)
    assert "leftover" in {finding.check for finding in mended.fixed}
    assert not (planted / "index/.building-x").exists()
    assert not (planted / "index/gen-77").exists()
    assert not (planted / ".embedder-old").exists()
    assert (planted / ".embedder-new").exists()
    assert (planted / f".{FILE}.tmp-{os.getpid()}").exists()
    assert building.exists()
    assert generation(planted).exists()


def test_usage_of_entries_that_the_bank_does_not_have_is_noted(planted: Path) -> None:
    with Bank.open(planted) as bank:
        bank.record_usage([usage(99, 8, 1), usage(2, 8, 1)])
    report = doctor(planted)
    assert report.sound
    assert notes(report)["usage-entry"] == 2


def test_mending_waits_for_nobody_s_half_change(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skillbank.store.database.BUSY_TIMEOUT_S", 0.1)
    with Bank.open(planted) as bank:
        bank.db.run("UPDATE entries SET evidence_count = 9 WHERE id = 2")
        with bank.change(actor="me") as change:
            change.tag([8], add=["half"])
            report = doctor(planted)
            assert checks(report) == {"evidence-count"}
            assert notes(report)["search"] == 1  # which cannot be looked at while another writes
            with pytest.raises(BankBusy):
                doctor(planted, fix=True)
    assert doctor(planted, fix=True).sound
