"""Certificates: they say what was checked, and whoever holds one can check again."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsd.cli import main
from skillbank.errors import BankCorrupt, BankNotFound, SkillBankError
from skillbank.guard import RULES, Guard, certificate, certify, register, verify
from skillbank.index.embed import Embedder
from skillbank.records import Skill
from skillbank.store import Bank

BAD = Skill(title="Zorp", principle="See www.bad.org for the rule of zorp.")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "finals.jsonl"
    path.write_text(json.dumps({"problem": "What is five zorp seven, modulo the number twenty-three?"}) + "\n")
    return path


def test_what_a_certificate_says(bank: Bank, file: Path) -> None:
    register(bank, file)
    written = certify(bank)
    assert (written.revision, written.bank_id) == (1, bank.meta("bank_id"))
    assert written.retrievable == {"skill": 6, "mistake": 6}
    assert written.rules == {name: rule.version for name, rule in RULES.items()}
    assert [(known.file, known.problems, known.sha256) for known in written.evaluations] == [
        ("finals.jsonl", 1, hashlib.sha256(file.read_bytes()).hexdigest())
    ]
    lines = [f"{e.id} {e.kind} {h}\n" for e in bank.entries() if e.kind != "pair" for h in [_hash(bank, e.id)]]
    assert written.content == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert (written.clean, written.findings, written.embedder) == (True, (), None)
    assert bank.revision == 1


def _hash(bank: Bank, entry_id: int) -> str:
    return str(bank.db.value("SELECT content_hash FROM entries WHERE id = ?", (entry_id,)))


def test_findings_that_nobody_released_make_it_unclean(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.edit(1, BAD)
    unclean = certify(bank)
    assert (unclean.clean, [(hit.entry, hit.rule) for hit in unclean.findings]) == (False, [(1, "url")])
    Guard(bank).scan(bank, actor="me")
    held = certify(bank)
    assert (held.clean, held.flagged, held.retrievable) == (True, {"url": 1}, {"skill": 5, "mistake": 6})
    with bank.change(actor="me") as change:
        change.release([1])
    let = certify(bank)
    assert (let.clean, let.flagged, let.released, let.retrievable["skill"]) == (True, {}, {"url": 1}, 6)


def test_a_certificate_holds_until_the_bank_or_the_registry_changes(bank: Bank, file: Path, tmp_path: Path) -> None:
    certificate.write(certify(bank), tmp_path / "c.json")
    read = certificate.read(tmp_path / "c.json")
    assert verify(bank, read).holds
    register(bank, file)
    assert verify(bank, read).differences == ("evaluation file finals.jsonl was not registered then",)
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
    found = verify(bank, read)
    assert (found.holds, found.clean) == (False, True)
    assert [line for line in found.differences if line.startswith("revi")] == ["revision was 1, is 2"]
    assert any(line.startswith("content was ") for line in found.differences)
    older = read.model_copy(update={"rules": {**read.rules, "url": 0}})
    assert "rule url was version 0, is 1" in verify(bank, older).differences


def test_the_embedder_that_looked_is_part_of_it(bank: Bank, file: Path, embedder: Embedder) -> None:
    register(bank, file)
    embedder = copy.copy(embedder)
    embedder.lexical = False  # as if it knew meaning
    near = certify(bank, embedder=embedder)
    assert near.embedder == embedder.fingerprint.digest
    assert verify(bank, near, embedder=embedder).holds
    assert any(line.startswith("embedder was ") for line in verify(bank, near).differences)


def test_a_changed_file_is_no_certificate(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(BankNotFound, match="no certificate at"):
        certificate.read(path)
    certificate.write(certify(bank), path)
    path.write_text(path.read_text(encoding="utf-8").replace('"skill": 6', '"skill": 7'), encoding="utf-8")
    with pytest.raises(BankCorrupt, match="was changed after it was written"):
        certificate.read(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(BankCorrupt, match=r"is no certificate \(at: Field required\)"):
        certificate.read(path)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "c.json"
    path.write_bytes(data)
    with pytest.raises(SkillBankError):
        certificate.read(path)


def test_command_line(bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with bank.change(actor="me") as change:
        change.edit(1, BAD)
    out = tmp_path / "c.json"
    command = ["bank", "certify", "--bank", str(bank.path)]
    assert main([*command, "--out", str(out)]) == 1
    assert "not clean     1 finding in what is retrieved" in capsys.readouterr().out
    Guard(bank).scan(bank, actor="me")
    assert main([*command, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text(encoding="utf-8"))
    assert main([*command, "--verify", str(out)]) == 0
    assert f"{out}: holds, says clean" in capsys.readouterr().out
    bank.undo(actor="me")
    assert main([*command, "--verify", str(out), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["holds"] is False
    assert main([*command, "--verify", str(out), "--out", str(out)]) == 2
