"""`sgsd bank import` and `export`: what people see, what scripts read, what is left behind when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sgsd.cli import app
from skillbank.store import Bank
from skillbank.store.query import Query

SKILLS = {
    "general_skills": [{"skill_id": "gen_001", "title": "Add", "principle": "Addition joins amounts."}],
    "common_mistakes": [
        {"mistake_id": "err_001", "description": "Working in haste and skipping the check"},
        {"why_it_happens": "no words"},
    ],
}


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    path = tmp_path / "skills.json"
    path.write_text(json.dumps(SKILLS))
    return path


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["bank", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else str(result.exception)


def test_a_bank_is_made_of_a_file_and_quarantined(tmp_path: Path, skills: Path) -> None:
    bank = tmp_path / "bank"
    said = run("import", skills, "--bank", bank, "--dry-run")
    assert "1 skill, 1 mistake would come into" in said
    assert not bank.exists()
    said = run("import", skills, "--bank", bank)
    assert "1 skill, 1 mistake came into" in said
    assert "quarantined: 2 (flags: imported 2)" in said
    with Bank.open(bank) as opened:
        assert opened.stats().by_status == {"quarantined": 2}
        assert opened.revisions()[0].reason == "import of skills.json"
    kept = [json.loads(line) for line in (bank / "import-rejected.jsonl").read_text().splitlines()]
    assert [(item["line"], item["reason"]) for item in kept] == [(3, "incomplete entry")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "skills.json"]


def test_json_reports_what_became_of_every_record(tmp_path: Path, skills: Path) -> None:
    bank = tmp_path / "bank"
    report = json.loads(run("import", skills, "--bank", bank, "--trust", "--reason", "theirs", "--json"))
    assert report["added"] == {"skill": 1, "mistake": 1}
    assert report["rejected"] == {"incomplete entry": 1}
    assert (report["trusted"], report["revision"], report["quarantined"]) == (True, 1, 0)
    again = json.loads(run("import", skills, "--bank", bank, "--trust", "--json"))
    assert (again["added"], again["known"], again["revision"]) == ({}, {"skill": 1, "mistake": 1}, None)
    out = tmp_path / "bank.parquet"
    report = json.loads(run("export", out, "--bank", bank, "--where", "kind:skill", "--json"))
    assert report == {"file": str(out), "format": "parquet", "entries": {"skill": 1}, "left_out": {}}


def test_the_bank_on_stdout_is_the_file(tmp_path: Path, skills: Path) -> None:
    bank = tmp_path / "bank"
    run("import", skills, "--bank", bank, "--trust")
    for suffix in ("jsonl", "json"):
        file = tmp_path / f"out.{suffix}"
        run("export", file, "--bank", bank)
        shown = run("export", "-", "--bank", bank, *(["--format", "sgsd"] if suffix == "json" else []))
        assert shown == file.read_text()
    assert json.loads((tmp_path / "out.json").read_text())["general_skills"] == [
        {**SKILLS["general_skills"][0], "when_to_apply": ""}
    ]


def test_what_is_wrong_is_said_and_leaves_nothing_behind(tmp_path: Path, skills: Path) -> None:
    bank = tmp_path / "bank"
    (tmp_path / "rollouts.jsonl").write_text('{"prompt": "1 + 1?", "completion": "2", "reward": 1}\n')
    said = run("import", tmp_path / "rollouts.jsonl", "--bank", bank, code=1)
    assert "holds no entry (1 records rejected" in said
    assert "no file at" in run("import", tmp_path / "none.json", "--bank", bank, code=1)
    assert "exists and is no bank" in run("import", skills, "--bank", tmp_path, code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rollouts.jsonl", "skills.json"]
    run("import", skills, "--bank", bank)
    assert "tells no format: name it with --format" in run("export", tmp_path / "out", "--bank", bank, code=1)
    assert "is none of" in run("export", tmp_path / "out.jsonl", "--where", "status:good", "--bank", bank, code=1)
    run("export", "-", "--json", "--bank", bank, code=2)
    assert not (tmp_path / "out.jsonl").exists()
    with Bank.open(bank) as opened:
        assert opened.count(Query(status="quarantined")) == 2
