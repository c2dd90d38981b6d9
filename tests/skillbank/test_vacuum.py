"""`vacuum`, and the two commands that look after a bank's files."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from sgsd.cli import app
from skillbank.doctor import doctor, vacuum
from skillbank.errors import BankBusy, ForeignFingerprint
from skillbank.index.vectors import bank_embedder
from skillbank.store import Bank


def entries_and_history(bank: Bank) -> list[object]:
    return [bank.entries(), bank.revisions(), [bank.history(entry.id) for entry in bank.entries()]]


def test_vacuum_gives_back_room_and_changes_nothing(bank: Bank) -> None:
    bank_embedder(bank)
    bank.db.run("INSERT INTO vectors VALUES ('other', 'x', zeroblob(1000000))")
    before = entries_and_history(bank)
    (noted,) = (finding for finding in doctor(bank.path).findings if finding.check == "other-vectors")
    assert (noted.count, noted.where) == (1, ("fingerprint other",))
    kept = vacuum(bank.path)
    assert (kept.vectors_dropped, kept.bytes_after > 1_000_000) == (0, True)
    dropped = vacuum(bank.path, drop_other_vectors=True)
    assert dropped.vectors_dropped == 1
    assert dropped.bytes_after < dropped.bytes_before - 900_000
    assert entries_and_history(bank) == before
    assert doctor(bank.path).sound


def test_vacuum_refuses_where_it_would_disturb_or_could_not_tell(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ForeignFingerprint, match="no embedder yet"):
        vacuum(bank.path, drop_other_vectors=True)
    monkeypatch.setattr("skillbank.store.database.BUSY_TIMEOUT_S", 0.1)
    with bank.db.transaction(), pytest.raises(BankBusy, match="being written"):
        vacuum(bank.path)


def test_the_command_exits_with_one_and_names_what_is_wrong(bank: Bank) -> None:
    run, where = CliRunner().invoke, ["--bank", str(bank.path)]
    sound = run(app, ["bank", "doctor", *where])
    assert sound.exit_code == 0, sound.output
    assert "18 entries at revision 1, sound" in sound.stdout
    bank.db.run("UPDATE entries SET evidence_count = 9 WHERE id = 2")
    found = run(app, ["bank", "doctor", *where, "--json"])
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert report["sound"] is False
    error = next(finding for finding in report["findings"] if finding["severity"] == "error")
    assert (error["check"], error["where"], error["repair"]) == ("evidence-count", ["entry 2", "entry 3"], "counts")
    mended = run(app, ["bank", "doctor", *where, "--fix"])
    assert mended.exit_code == 0
    assert "mended: 2 times: entries rest on another number of places" in mended.stdout
    assert bank.get(2).evidence_count == 1
    rewritten = run(app, ["bank", "vacuum", *where])
    assert rewritten.exit_code == 0
    assert "bytes before" in rewritten.stdout
