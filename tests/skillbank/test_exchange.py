"""Banks out and in: nothing is lost on the way, nothing untrusted is believed, nothing is dropped without a count."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from skillbank.errors import BankNotFound, InvalidEntry, InvalidOption, SkillBankError
from skillbank.exchange import FORMATS, ImportReport, export_file, import_file, reading
from skillbank.exchange.items import item_of
from skillbank.exchange.links import deepest_first
from skillbank.guard import Guard
from skillbank.records import Evidence, Flag, MinedEntry, Mistake, Pair, ProblemText, Provenance, Skill
from skillbank.rollouts import Rejected, lines
from skillbank.store import Bank
from skillbank.store.query import Query

from .made_up import OPERATIONS, evidence, mined


@pytest.fixture
def rich(tmp_path: Path) -> Bank:
    """A bank in which everything has happened that can happen to an entry."""
    bank = Bank.create(tmp_path / "rich")
    bank.record_problems([ProblemText(problem_id="p-zorp", problem="3 zorp 4?", reference="10")])
    bank.add_mined([mined(operation) for operation in OPERATIONS], actor="miner", reason="rollouts.jsonl")
    known = MinedEntry(content=mined("zorp").skill, evidence=(evidence("p-blen", "correct", "zorp once more"),))
    bank.add_mined([known], actor="miner")
    with bank.change(actor="me") as change:
        change.tag([1, 4], add=["task:sums", "häufig, und\nlang"])
        change.flag(2, [Flag(rule="answer", reason="says 3")])
        change.flag(5, [Flag(rule="url", reason="a link")])
        change.release([5])
        change.set_status([8], "disabled")
        change.merge([4], into=1)
        change.split(7, [Skill(title="Quix, first", principle="double"), Skill(title="Quix, then", principle="add")])
        change.add(mined("framp").skill, origin="online")  # the words of entry 10 a second time
        change.add(Skill(title="Ω ‮ \x00 \u2028", principle="\r\n\t'\"\\"), pinned=True)
        change.set_status([11], "retired")
        change.add(Mistake(description="Haste"), provenance=Provenance(miner="model", model="m", prompt="0f"))
    with bank.change(actor="me") as change:
        change.add(Skill(title="taken back", principle="at once"))
    bank.undo(actor="me")
    with bank.change(actor="me") as change:
        change.merge([1], into=13)
        change.pin([1])
    return bank


def take(bank: Bank, path: Path, **options: Any) -> tuple[ImportReport, list[Rejected]]:
    rejected: list[Rejected] = []
    return import_file(bank, path, actor="me", on_reject=rejected.append, **options), rejected


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def state(bank: Bank) -> list[tuple[object, ...]]:
    """What the entries of a bank are, without what a bank alone knows of them."""
    entries = bank.entries()
    words = {entry.id: str(entry.content) for entry in entries}
    for entry in entries:
        if isinstance(entry.content, Pair):
            words[entry.id] = f"{words[entry.content.skill_id]} | {words[entry.content.mistake_id]}"
    found = []
    for entry in entries:
        above = None if entry.superseded_by is None else words[entry.superseded_by]
        flags = tuple((flag.rule, flag.reason, flag.released) for flag in entry.flags)
        rests = tuple(sorted(str(place) for place in bank.evidence(entry.id)))
        found.append((words[entry.id], entry.status, entry.origin, entry.pinned, entry.tags, flags, above, rests))
    return sorted(found, key=str)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_bank_comes_back_whole_and_to_the_byte(rich: Bank, tmp_path: Path, format: Any) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    out = export_file(rich, first, format=format)
    # six pairs as mined, one and then two that merging made, two that splitting made
    assert out.entries == {"skill": 10, "mistake": 7, "pair": 11, "problem": 1}
    with Bank.create(tmp_path / "copy") as copy:
        report, rejected = take(copy, first, trust=True)
        assert (report.added, report.known, rejected) == (out.entries, {}, [])
        assert report.revision == copy.revision == 1
        assert report.evidence == 15  # 12 as mined, one found later, and each part of the split has its own
        export_file(copy, second, format=format)
        withdrawn = "SELECT id FROM entries WHERE withdrawn"
        taken_back = [rich.get(row[0]) for row in rich.db.rows(withdrawn)]
        assert [entry.content for entry in taken_back] == [Skill(title="taken back", principle="at once")]
        assert len(state(copy)) == len(state(rich)) - 1
        assert set(state(copy)) <= set(state(rich))
        assert copy.stats().retrievable == rich.stats().retrievable
    assert first.read_bytes() == second.read_bytes()


def test_the_lines_are_sorted_and_speak_for_themselves(rich: Bank, tmp_path: Path) -> None:
    export_file(rich, tmp_path / "bank.jsonl", format="jsonl")
    found = records(tmp_path / "bank.jsonl")
    kinds = ["skill", "mistake", "pair", "problem"]
    assert [kinds.index(record["kind"]) for record in found] == sorted(kinds.index(r["kind"]) for r in found)
    titles = [record["title"] for record in found if record["kind"] == "skill"]
    assert titles == sorted(titles)
    blen = next(record for record in found if record.get("title") == "Step on blen")
    zorp = next(record for record in found if record.get("title") == "Step on zorp")
    assert (blen["status"], blen["superseded_by"]) == ("superseded", zorp["ref"])
    assert zorp["tags"] == ["häufig, und\nlang", "task:sums"]
    assert zorp["evidence"][0]["rollout_id"] == "p-blen-correct"
    assert len(zorp["evidence"]) == 2  # those of the entry that was merged into it stay with that one
    parts = [record for record in found if record.get("title", "").startswith("Quix")]
    assert {part["split_from"] for part in parts} == {r["ref"] for r in found if r.get("title") == "Step on quix"}
    twice = [record["ref"] for record in found if record.get("title") == "Step on framp"]
    assert twice[1] == f"{twice[0]}-2"
    assert found[-1] == {"kind": "problem", "problem_id": "p-zorp", "problem": "3 zorp 4?", "reference": "10"}


def test_what_is_not_trusted_is_quarantined_and_told_why(rich: Bank, tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    export_file(rich, path, format="jsonl")
    with Bank.create(tmp_path / "copy") as copy:
        report, rejected = take(copy, path)
        assert rejected == []
        assert copy.count(Query(status="active")) == 0
        assert copy.stats().retrievable == {"skill": 0, "mistake": 0}
        assert report.quarantined == copy.count(Query(status="quarantined"))
        entries = copy.entries()
        assert all(entry.flags[-1].rule == "imported" for entry in entries)
        assert report.flags == {"imported": len(entries), "answer": 1, "url": 1}  # nobody here released the link
        assert {entry.status for entry in entries} == {"quarantined", "disabled", "superseded", "retired"}
        with copy.change(actor="me") as change:
            change.release(copy.ids(Query(status="quarantined")))
        assert copy.stats().retrievable["skill"] == rich.stats().retrievable["skill"]
        copy.undo(1, actor="me", skip_changed=True)


def test_a_known_entry_gains_evidence_from_a_trusted_file_alone(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    export_file(bank, path, format="jsonl")
    found = records(path)
    more = evidence("p-new", "correct", "seen elsewhere").model_dump(mode="json")
    found[0]["evidence"].append(more)
    path.write_text("\n".join(json.dumps(record) for record in found))
    before = state(bank)
    report, _ = take(bank, path)
    assert (report.added, report.known, report.revision) == ({}, {"skill": 6, "mistake": 6, "pair": 6}, None)
    assert (state(bank), bank.revision) == (before, 1)
    report, _ = take(bank, path, trust=True)
    assert (report.added, report.evidence, report.revision) == ({}, 1, 2)
    assert sum(entry.evidence_count for entry in bank.entries(Query(kind="skill"))) == 7


def test_an_untrusted_file_cannot_reach_what_is_there(bank: Bank, tmp_path: Path) -> None:
    export_file(bank, tmp_path / "bank.jsonl", format="jsonl")
    found = records(tmp_path / "bank.jsonl")
    skill, mistake = (next(record for record in found if record["kind"] == kind) for kind in ("skill", "mistake"))
    new = {"kind": "skill", "ref": "x", "title": "New", "principle": "words", "status": "active", "origin": "mined"}
    gift = {**new, "ref": "y", "title": "Gift", "status": "superseded", "superseded_by": skill["ref"]}
    gift["evidence"] = [evidence("p-evil", "correct").model_dump(mode="json")]
    pair = {"kind": "pair", "ref": "z", "skill": "x", "mistake": mistake["ref"], "status": "active", "origin": "mined"}
    path = tmp_path / "evil.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in (skill, mistake, new, gift, pair)))
    before, retrievable = state(bank), bank.stats().retrievable
    report, rejected = take(bank, path)
    assert set(before) <= set(state(bank))
    assert bank.stats().retrievable == retrievable
    assert report.added == {"skill": 2}
    assert [(item.line, item.reason) for item in rejected] == [
        (5, "pair with a known entry"),
        (4, "superseded by no entry"),
    ]


def test_the_guard_looks_at_trusted_files_too(bank: Bank, tmp_path: Path) -> None:
    def check(content: Skill | Mistake, _: Any) -> tuple[Flag, ...]:
        return (Flag(rule="url", reason="a link"),) if "zorp" in content.text() else ()

    export_file(bank, tmp_path / "bank.jsonl", format="jsonl")
    with Bank.create(tmp_path / "copy") as copy:
        report, _ = take(copy, tmp_path / "bank.jsonl", trust=True, check=check)
        assert (report.quarantined, report.flags) == (2, {"url": 2})
        assert copy.count(Query(status="quarantined", flag="url")) == 2


def test_a_dry_run_counts_and_writes_nothing(rich: Bank, tmp_path: Path) -> None:
    export_file(rich, tmp_path / "bank.jsonl", format="jsonl")
    with Bank.create(tmp_path / "copy") as copy:
        dry, _ = take(copy, tmp_path / "bank.jsonl", dry_run=True, trust=True)
        assert (dry.revision, copy.revision, copy.count(), copy.problem("p-zorp")) == (None, 0, 0, None)
        wet, _ = take(copy, tmp_path / "bank.jsonl", trust=True)
    assert dry == wet.model_copy(update={"revision": None})


def test_a_selection_brings_what_it_cannot_be_read_without(rich: Bank, tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    report = export_file(rich, path, format="jsonl", where=Query(text="blen", kind="pair", status="superseded"))
    # blen was merged into zorp and zorp into drell: its pair became one with zorp, and that one with drell
    assert report.entries == {"skill": 3, "mistake": 1, "pair": 3, "problem": 1}
    titles = {record.get("title") for record in records(path)} - {None}
    assert titles == {"Step on blen", "Step on zorp", "Step on drell"}
    with Bank.create(tmp_path / "copy") as copy:
        assert take(copy, path, trust=True)[1] == []
    report = export_file(rich, path, format="jsonl", where=Query(text="taken back"))
    assert (report.entries, report.left_out) == ({}, {"entry whose addition was undone": 1})


def test_a_file_of_hugging_face_datasets(rich: Bank, tmp_path: Path) -> None:
    from datasets import load_dataset

    export_file(rich, tmp_path / "bank.parquet", format="parquet")
    export_file(rich, tmp_path / "bank.jsonl", format="jsonl")
    cache = str(tmp_path / "cache")
    table = load_dataset("parquet", data_files=str(tmp_path / "bank.parquet"), split="train", cache_dir=cache)
    expected = records(tmp_path / "bank.jsonl")
    assert [row["ref"] for row in table] == [record.get("ref") for record in expected]
    assert [len(row["evidence"]) for row in table] == [len(record.get("evidence", [])) for record in expected]


# ---------------------------------------------------------------------------------------------------------------- sgsd


def test_the_published_banks_come_in_whole(data_dir: Path, tmp_path: Path) -> None:
    counts = {
        "sgsd_qwen3_1.7b": (28, 98),
        "sgsd_qwen3_4b": (24, 15),
        "sgsd_qwen3_1.7b_candidates": (350, 110),
        "skillrl_alfworld": (44, 11),
    }
    for name, (skills, mistakes) in counts.items():
        with Bank.create(tmp_path / name) as bank:
            report, rejected = take(bank, data_dir / "banks" / f"{name}.json")
            assert (report.format, report.added) == ("sgsd", {"skill": skills, "mistake": mistakes})
            assert (report.quarantined, report.revision, rejected) == (skills + mistakes, 1, [])
            assert (report.ignored, bank.entries(limit=1)[0].origin) == ({}, "imported")


@pytest.mark.parametrize("name", ["sgsd_qwen3_1.7b", "sgsd_qwen3_4b", "sgsd_qwen3_1.7b_candidates", "skillrl_alfworld"])
def test_the_published_banks_are_written_as_they_were(data_dir: Path, tmp_path: Path, name: str) -> None:
    published = data_dir / "banks" / f"{name}.json"
    with Bank.create(tmp_path / "bank") as bank:
        take(bank, published, trust=True)
        export_file(bank, tmp_path / "out.json", format="sgsd")
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(published.read_text())
    if name != "skillrl_alfworld":  # whose tasks stand in another order, and which is written in ASCII
        assert (tmp_path / "out.json").read_bytes() == published.read_bytes()


def test_the_answers_in_a_published_bank_are_found_on_the_way_in(data_dir: Path, tmp_path: Path) -> None:
    with Bank.create(tmp_path / "bank") as bank:
        take(bank, data_dir / "banks" / "sgsd_qwen3_4b.json", trust=True, check=Guard(bank).check)
        flagged = {e.provenance.detail for e in bank.entries(Query(status="quarantined")) if e.provenance}
    assert {"err_011", "err_015"} <= flagged


SKILLRL: dict[str, Any] = {
    "general_skills": [
        {"skill_id": "gen_10", "title": "Ten", "principle": "ten"},
        {"skill_id": "gen_9", "title": "Nine", "principle": "nine", "when_to_apply": "late", "score": 3},
    ],
    "task_specific_skills": {
        "heat": [{"skill_id": "hea_001", "title": "Heat", "principle": "warm it"}],
        "cool": [
            {"skill_id": "hea_001", "title": "Heat", "principle": "warm it"},
            {"title": "Cool", "principle": "chill it"},
        ],
    },
    "common_mistakes": [{"mistake_id": "err_1", "description": "Haste", "how_to_avoid": "slow down"}],
    "metadata": {"source": "me", "numbers": [1, 2.5, None]},
    "version": 2,
}


def test_skills_of_tasks_carry_their_tasks(tmp_path: Path) -> None:
    (tmp_path / "bank.json").write_text(json.dumps(SKILLRL))
    with Bank.create(tmp_path / "one") as one:
        report, _ = take(one, tmp_path / "bank.json", trust=True)
        assert (report.added, report.known) == ({"skill": 4, "mistake": 1}, {"skill": 1})
        assert report.ignored == {"version": 1, "score": 1}
        heat = one.entries(Query(tag="task:heat"))
        assert [(entry.content.title, entry.tags) for entry in heat if isinstance(entry.content, Skill)] == [
            ("Heat", ("task:cool", "task:heat"))
        ]
        assert heat[0].provenance == Provenance(miner="import", file="bank.json", detail="hea_001")
        with one.change(actor="me") as change:
            change.add(Mistake(description="New"))
        out = export_file(one, tmp_path / "out.json", format="sgsd")
        assert (out.entries, out.left_out) == ({"skill": 4, "mistake": 2}, {})
    written = json.loads((tmp_path / "out.json").read_text())
    assert [skill["skill_id"] for skill in written["general_skills"]] == ["gen_9", "gen_10"]
    assert list(written["task_specific_skills"]) == ["cool", "heat"]
    assert [skill["skill_id"] for skill in written["task_specific_skills"]["cool"]] == ["coo_001", "hea_001"]
    assert [mistake["mistake_id"] for mistake in written["common_mistakes"]] == ["err_001", "err_1"]
    assert written["metadata"] == SKILLRL["metadata"]
    with Bank.create(tmp_path / "two") as two:
        take(two, tmp_path / "out.json", trust=True)
        export_file(two, tmp_path / "again.json", format="sgsd")
        (tmp_path / "other.json").write_text(json.dumps({"general_skills": [], "metadata": {"source": "other"}}))
        assert take(two, tmp_path / "other.json")[0].revision is None
        export_file(two, tmp_path / "both.json", format="sgsd")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "out.json").read_bytes()
    both = json.loads((tmp_path / "both.json").read_text())["metadata"]
    assert both == {"sources": [SKILLRL["metadata"], {"source": "other"}]}


def test_a_json_bank_holds_active_wordings_alone_and_says_what_it_left_out(rich: Bank, tmp_path: Path) -> None:
    report = export_file(rich, tmp_path / "bank.json", format="sgsd")
    assert report.entries == {"skill": 6, "mistake": 4}
    assert report.left_out == {
        "disabled entry": 1,
        "quarantined entry": 1,
        "superseded entry": 2,
        "retired entry": 2,
        "pair": 7,
        "evidence": 11,
        "entry that says the same": 1,
        "tag": 1,
    }


def test_entries_of_a_json_bank_that_are_none_are_rejected_one_by_one(tmp_path: Path) -> None:
    broken = {
        "general_skills": [
            {"title": "No principle"},
            5,
            {"title": "", "principle": "x"},
            {"title": "A", "principle": "b"},
        ],
        "task_specific_skills": [],
        "common_mistakes": {"a": 1},
    }
    (tmp_path / "bank.json").write_text(json.dumps(broken))
    with Bank.create(tmp_path / "bank") as bank:
        report, rejected = take(bank, tmp_path / "bank.json")
    assert report.added == {"skill": 1}
    assert [(item.line, item.reason, item.detail) for item in rejected] == [
        (1, "incomplete entry", "general_skills[0]: a skill needs principle"),
        (2, "not a record", "general_skills[1]: a JSON int"),
        (3, "incomplete entry", "general_skills[2]: a skill needs title"),
        (5, "not a list", "common_mistakes: common_mistakes: a list of entries is wanted"),
    ]


# -------------------------------------------------------------------------------------------------------- wrong input

GOOD = {"kind": "skill", "ref": "a", "title": "T", "principle": "p", "status": "active", "origin": "mined"}


PAIR = {"kind": "pair", "ref": "b", "skill": "a", "mistake": "a", "status": "active", "origin": "x"}
FAR = {**evidence("p", "wrong").model_dump(), "span": [0, 2**70]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"{", "not JSON"),
        (b"7", "not a record"),
        ({"a": 1}, "no entry"),
        ({**GOOD, "kind": ["skill"]}, "no entry"),
        ({**GOOD, "ref": "a"}, "reference given twice"),
        ({**GOOD, "ref": "b", "title": None}, "incomplete entry"),
        ({**GOOD, "ref": "b", "status": "great"}, "not an entry"),
        ({**GOOD, "ref": "b", "colour": "red"}, "not an entry"),
        ({**GOOD, "ref": "b", "tags": [" x"]}, "not an entry"),
        ({**GOOD, "ref": "b", "title": "x" * 2**20}, "too long"),
        ({**GOOD, "ref": "b", "provenance": {"miner": "x", "parent": 3}}, "not an entry"),
        ({**GOOD, "ref": "b", "evidence": [FAR]}, "not an entry"),
        ({**GOOD, "ref": "b", "title": "\ud800"}, "not UTF-8"),
        (PAIR, "pair without its sides"),
        ({**PAIR, "mistake": "q"}, "pair without its sides"),
        ({**GOOD, "ref": "b", "title": "B", "status": "superseded", "superseded_by": "b"}, "superseded by no entry"),
        ({**GOOD, "ref": "b", "title": "B", "status": "superseded"}, "superseded by no entry"),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_a_line_that_is_no_entry_is_rejected_with_its_number(
    tmp_path: Path, record: object, reason: str, trust: bool
) -> None:
    lines = [json.dumps(GOOD).encode(), record if isinstance(record, bytes) else json.dumps(record).encode()]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    with Bank.create(tmp_path / "bank") as bank:
        report, rejected = take(bank, tmp_path / "a.jsonl", trust=trust)
        assert (report.rejected, [(item.line, item.reason) for item in rejected]) == ({reason: 1}, [(2, reason)])
        assert report.added == {"skill": 2 if reason == "superseded by no entry" else 1}


def test_entries_that_stand_for_each_other_stand_for_none(tmp_path: Path) -> None:
    ring = [
        {**GOOD, "ref": name, "title": name, "status": "superseded", "superseded_by": by}
        for name, by in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "c"))
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ring)))
    with Bank.create(tmp_path / "bank") as bank:
        report, _ = take(bank, tmp_path / "a.jsonl", trust=True)
        assert report.added == {"skill": 4}
        assert report.rejected["superseded by no entry"] >= 1
        assert bank.count(Query(status="superseded")) + report.rejected["superseded by no entry"] == 4
    assert deepest_first({"a": "b", "b": "c", "c": "d"}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, BankNotFound, "no file at"),
        (b"", InvalidEntry, "is empty"),
        (b" \n", InvalidEntry, "is empty"),
        (b'{"a": 1}', InvalidEntry, "holds no entry .1 records rejected, the first: 1 is no entry, kind must be"),
        (b"SQLite format 3\x00" + b"\x00" * 100, InvalidEntry, "those of others are not opened"),
        (b"PAR1 rubbish PAR1", InvalidEntry, "damaged parquet"),
        (gzip.compress(json.dumps(GOOD).encode() * 1000)[:-20], InvalidEntry, "damaged gzip|cannot be read"),
        (b'{"general_skills": [}', InvalidEntry, "is no JSON bank: it is not JSON"),
        (b'{"general_skills":\n[1, 2', InvalidEntry, "is no JSON bank: it is not JSON"),
    ],
)
def test_files_that_are_no_bank_say_so_in_one_line(
    bank: Bank, tmp_path: Path, content: bytes | None, error: type[Exception], words: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=words) as caught:
        take(bank, path)
    assert isinstance(caught.value, SkillBankError)
    assert "\n" not in str(caught.value)
    assert bank.revision == 1


def test_folders_and_unknown_formats_are_refused(bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(InvalidEntry, match=r"is a bank, and .* not opened: `sgsd bank export bank.jsonl --bank"):
        take(bank, bank.path)
    with pytest.raises(InvalidEntry, match="is a folder: name a file in it"):
        take(bank, tmp_path)
    (tmp_path / "a").write_text(json.dumps(GOOD))
    with pytest.raises(InvalidEntry, match="has none of general_skills"):
        take(bank, tmp_path / "a", format="sgsd")
    csv: Any = "csv"
    with pytest.raises(InvalidOption, match="format is 'csv': choose one of jsonl, parquet, sgsd"):
        take(bank, tmp_path / "a", format=csv)
    with pytest.raises(InvalidOption, match="format is 'csv': choose one of jsonl, parquet, sgsd"):
        export_file(bank, tmp_path / "b", format=csv)
    assert FORMATS == ("jsonl", "parquet", "sgsd")


def test_an_export_that_fails_leaves_the_old_file(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bank.jsonl").write_text("old")
    monkeypatch.setattr("skillbank.exchange.items.Item.line", lambda item: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_file(bank, tmp_path / "bank.jsonl", format="jsonl")
    assert (tmp_path / "bank.jsonl").read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bank", "bank.jsonl"]


# --------------------------------------------------------------------------------------------- any text, any field

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
MAYBE = TEXT | st.just("")
TAG = TEXT.filter(lambda tag: tag.strip() == tag)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    skills=st.lists(st.builds(Skill, title=TEXT, principle=TEXT, when_to_apply=MAYBE), max_size=3),
    mistakes=st.lists(st.builds(Mistake, description=TEXT, why_it_happens=MAYBE, how_to_avoid=MAYBE), max_size=3),
    places=st.lists(
        st.builds(
            Evidence,
            rollout_id=TEXT,
            problem_id=TEXT,
            outcome=st.sampled_from(["correct", "wrong"]),
            quote=MAYBE,
            span=st.none() | st.just((0, 3)),
            source=MAYBE,
        ),
        max_size=3,
    ),
    tags=st.lists(TAG, max_size=2),
    origin=TEXT,
    flags=st.lists(st.builds(Flag, rule=TEXT, reason=MAYBE, released=st.booleans()), max_size=2),
    provenance=st.none() | st.builds(Provenance, miner=TEXT, model=st.none() | MAYBE, detail=st.none() | MAYBE),
    problem=st.builds(ProblemText, problem_id=TEXT, problem=TEXT, reference=st.none() | MAYBE),
)
def test_any_text_in_any_field_comes_back(tmp_path_factory: pytest.TempPathFactory, **drawn: Any) -> None:
    assume(drawn["skills"] or drawn["mistakes"])
    folder = tmp_path_factory.mktemp("any")
    with Bank.create(folder / "one") as one:
        one.record_problems([drawn["problem"]])
        with one.change(actor="me") as change:
            ids = [
                change.add(
                    content,
                    origin=drawn["origin"],
                    evidence=drawn["places"],
                    flags=drawn["flags"],
                    tags=drawn["tags"],
                    provenance=drawn["provenance"],
                )
                for content in (*drawn["skills"], *drawn["mistakes"])
            ]
            if drawn["skills"] and drawn["mistakes"]:
                change.add(Pair(skill_id=ids[0], mistake_id=ids[-1]))
        for format in FORMATS:
            export_file(one, folder / f"one.{format}", format=format)
            with Bank.create(folder / format) as two:
                assert take(two, folder / f"one.{format}", trust=True)[1] == []
                export_file(two, folder / f"two.{format}", format=format)
                if format != "sgsd":
                    assert state(two) == state(one)
            assert (folder / f"one.{format}").read_bytes() == (folder / f"two.{format}").read_bytes()
    for line in (folder / "one.jsonl").read_bytes().splitlines():
        assert item_of(json.loads(line)).line().encode() == line


def test_files_over_the_limits_are_refused(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_file(bank, tmp_path / "bank.jsonl", format="jsonl")
    export_file(bank, tmp_path / "bank.json", format="sgsd")
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"\n" * 10 + json.dumps(GOOD).encode() + b" " * 50_000))
    monkeypatch.setattr(reading, "MAX_JSON_BYTES", 1000)
    monkeypatch.setattr(reading, "MAX_BYTES", 2000)
    monkeypatch.setattr(lines, "MAX_BYTES", 5000)
    with pytest.raises(InvalidEntry, match="larger than a JSON bank may be, 1,000 bytes: split it"):
        take(bank, tmp_path / "bank.json")
    with pytest.raises(InvalidEntry, match="holds more than 2,000 bytes of records: split it"):
        take(bank, tmp_path / "bank.jsonl")
    with pytest.raises(InvalidEntry, match="1 records rejected, the first: 11 is too long"):
        take(bank, tmp_path / "bomb.gz")
    assert bank.revision == 1


def test_places_in_retracted_rollouts_stay_out(bank: Bank, tmp_path: Path) -> None:
    with bank.change(actor="me") as change:
        change.retract(["p-zorp-correct"])
    with Bank.create(tmp_path / "other") as other:
        other.add_mined([mined("zorp")], actor="miner")
        export_file(other, tmp_path / "other.jsonl", format="jsonl")
    report, _ = take(bank, tmp_path / "other.jsonl", trust=True)
    assert report.rejected == {"evidence in a retracted rollout": 1}
    assert bank.evidence(1) == []
