from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillbank.errors import (
    BankCorrupt,
    BankExists,
    BankNotFound,
    EntryNotFound,
    InvalidEntry,
    InvalidOption,
    SkillBankError,
)
from skillbank.records import Flag, Mistake, Pair, Skill
from skillbank.store import Bank, Query, UsageRow

from .made_up import OPERATIONS, evidence, mined


def state(bank: Bank) -> list[tuple[object, ...]]:
    """All that curation can change, without the version and revision numbers that only ever grow."""
    return [
        (e.id, e.content, e.status, e.superseded_by, e.evidence_count, tuple(bank.evidence(e.id)))
        for e in bank.entries()
    ]


def test_mined_pairs_become_three_entries_each(bank: Bank) -> None:
    skill, mistake, pair = bank.get(1), bank.get(2), bank.get(3)
    assert isinstance(skill.content, Skill)
    assert skill.content.title == "Step on zorp"
    assert isinstance(mistake.content, Mistake)
    assert pair.content == Pair(skill_id=1, mistake_id=2)
    assert [e.outcome for e in bank.evidence(3)] == ["correct", "wrong"]
    assert (skill.evidence_count, mistake.evidence_count, pair.evidence_count) == (1, 1, 2)
    assert bank.revision == 1


def test_stats_count_all_statuses(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([3], "disabled")
    stats = bank.stats()
    assert stats.entries == {"skill": 6, "mistake": 6, "pair": 6}
    assert stats.by_status == {"active": 17, "disabled": 1}
    assert stats.retrievable == {"skill": 5, "mistake": 5}
    assert (stats.evidence, stats.revision, stats.usage, stats.embedder) == (12, 2, 0, None)


def test_same_words_are_stored_once_and_gain_evidence(bank: Bank) -> None:
    again = bank.add_mined([mined("zorp", "p-other")], actor="miner")
    assert again == [3]
    assert bank.stats().entries == {"skill": 6, "mistake": 6, "pair": 6}
    assert [e.problem_id for e in bank.evidence(1)] == ["p-zorp", "p-other"]
    assert bank.get(1).evidence_count == 2


def test_mining_the_same_rollouts_again_changes_nothing(bank: Bank) -> None:
    before = state(bank)
    assert bank.add_mined([mined(operation) for operation in OPERATIONS], actor="miner") == [3, 6, 9, 12, 15, 18]
    assert state(bank) == before
    assert bank.revision == 1


def test_mining_again_does_not_enable_what_was_disabled(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
    bank.add_mined([mined("zorp", "p-other")], actor="miner")
    assert bank.get(1).status == "disabled"


def test_a_new_skill_joins_a_known_mistake(bank: Bank) -> None:
    pair = mined("zorp").model_copy(update={"skill": Skill(title="Another", principle="way")})
    (pair_id,) = bank.add_mined([pair], actor="miner")
    content = bank.get(pair_id).content
    assert isinstance(content, Pair)
    assert content.mistake_id == 2
    assert content.skill_id == 19
    assert [p.id for p in bank.pairs_with(2)] == [3, pair_id]


def test_what_is_mined_in_the_words_of_a_superseded_entry_goes_to_its_successor(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.supersede(1, by=4)
    bank.add_mined([mined("zorp", "p-other")], actor="miner")
    assert [e.problem_id for e in bank.evidence(4)] == ["p-zorp", "p-blen", "p-other"]
    assert bank.get(4).evidence_count == 3
    assert bank.get(1).superseded_by == 4
    bank.undo(2, actor="me")  # each has again what was found for it
    assert [e.problem_id for e in bank.evidence(4)] == ["p-blen"]
    assert [e.problem_id for e in bank.evidence(1)] == ["p-zorp", "p-other"]
    assert (bank.get(4).evidence_count, bank.get(1).evidence_count) == (1, 2)


def test_an_exception_inside_a_change_leaves_nothing_behind(bank: Bank) -> None:
    before = state(bank)

    def half_done() -> None:
        with bank.change(actor="me") as change:
            change.add(Skill(title="new", principle="new"))
            change.set_status([1, 2], "retired")
            change.add_evidence(4, [evidence("p-new", "correct")])
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        half_done()
    assert state(bank) == before
    assert bank.revision == 1
    assert bank.entries(Query(text="new")) == []
    with bank.change(actor="me") as change:  # and the next change works
        assert change.add(Skill(title="new", principle="new")) == 19


def test_changing_nothing_makes_no_revision(bank: Bank) -> None:
    skill = bank.get(1).content
    assert isinstance(skill, Skill)
    with bank.change(actor="me") as change:
        change.edit(1, skill)
        change.set_status([1], "active")
        change.add_evidence(1, [evidence("p-zorp", "correct")])
    assert bank.revision == 1
    assert len(bank.history(1)) == 1


def everything(bank: Bank) -> None:
    with bank.change(actor="me", reason="all at once") as change:
        change.edit(1, Skill(title="t", principle="p"))
        change.edit(1, Skill(title="t2", principle="p2"))
        change.set_status([1, 2, 5], "quarantined")
        change.set_status([5], "disabled")
        change.supersede(7, by=4)
        change.add_evidence(8, [evidence("p-x", "wrong"), evidence("p-y", "wrong")])
        new = change.add(Skill(title="extra", principle="extra"), evidence=[evidence("p-z", "correct")])
        change.add(Pair(skill_id=new, mistake_id=2))


def test_undo_restores_exactly_and_undoing_the_undo_brings_it_back(bank: Bank) -> None:
    before = state(bank)
    everything(bank)
    changed = state(bank)
    assert changed != before
    assert bank.undo(actor="me") == 3
    assert state(bank)[:18] == before
    assert [bank.get(i).status for i in (19, 20)] == ["retired", "retired"]  # nothing is deleted
    assert bank.undo(actor="me") == 4
    assert state(bank) == changed
    assert bank.undo(actor="me") == 5
    assert state(bank)[:18] == before


def test_versions_only_grow(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.edit(1, Skill(title="t", principle="p"))
    bank.undo(actor="me")
    assert bank.get(1).version == 3
    rows = bank.db.rows("SELECT version, revision FROM versions WHERE entry_id = 1 ORDER BY version")
    assert [tuple(row) for row in rows] == [(1, 1), (2, 2), (3, 3)]


def test_undo_of_an_earlier_revision_is_refused_when_a_later_one_stands_on_it(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.edit(1, Skill(title="one", principle="p"))
    with bank.change(actor="me") as change:
        change.edit(1, Skill(title="two", principle="p"))
    with pytest.raises(InvalidEntry, match="entry 1 was changed again in revision 3; undo that one first"):
        bank.undo(2, actor="me")
    assert bank.revision == 3
    with pytest.raises(InvalidEntry, match="no revision 9 to undo: the bank is at revision 3"):
        bank.undo(9, actor="me")


def test_undo_of_an_earlier_revision_leaves_later_changes_of_other_fields(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.edit(1, Skill(title="one", principle="p"))
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
    bank.undo(2, actor="me")
    entry = bank.get(1)
    assert isinstance(entry.content, Skill)
    assert (entry.content.title, entry.status) == ("Step on zorp", "disabled")


def test_what_was_mined_and_undone_can_be_mined_again(bank: Bank) -> None:
    bank.undo(1, actor="me")
    assert bank.retrievable("skill") == []
    with pytest.raises(InvalidEntry, match="was changed again in revision 2"):
        bank.undo(1, actor="me")
    assert bank.add_mined([mined("zorp")], actor="miner") == [3]  # it comes back as itself
    assert bank.retrievable("skill") == [1]
    with pytest.raises(InvalidEntry, match="was changed again in revision 3"):
        bank.undo(2, actor="me")
    bank.undo(2, actor="me", skip_changed=True)
    assert bank.retrievable("skill") == [1, 4, 7, 10, 13, 16]
    assert bank.stats().entries == {"skill": 6, "mistake": 6, "pair": 6}


def test_an_undo_that_leaves_everything_alone_makes_no_revision(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
    with bank.change(actor="me") as change:
        change.set_status([1], "retired")
    assert bank.undo(2, actor="me", skip_changed=True) is None
    assert bank.revision == 3
    assert bank.undo(3, actor="me", skip_changed=True) == bank.revision == 4


def test_a_reader_who_may_not_write_there_sees_what_a_writer_commits(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
    assert (bank.path / "bank.sqlite-wal").stat().st_size  # nothing was brought in yet
    with Bank.open(bank.path, readonly=True) as reader:
        assert reader.get(1).status == "disabled"


def test_a_bank_where_one_may_not_write_is_read_as_it_stands(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
    left = tmp_path / "left"  # as by a writer that was killed
    left.mkdir()
    for name in ("bank.sqlite", "bank.sqlite-wal"):
        shutil.copy(bank.path / name, left / name)
    bank.close()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with Bank.open(bank.path, readonly=True) as reader:
        assert reader.get(1).status == "disabled"
        assert [file.name for file in bank.path.glob("bank.sqlite*")] == ["bank.sqlite"]
    with pytest.raises(SkillBankError, match=r"only somebody who may write in .*left can bring in"):
        Bank.open(left, readonly=True)


def test_history_tells_who_and_why(bank: Bank) -> None:
    with bank.change(actor="ada", reason="misleads") as change:
        change.set_status([1], "disabled")
    added, disabled = bank.history(1)
    assert (added.op, added.actor, added.reason, added.revision, added.before) == (
        "add",
        "miner",
        "rollouts.jsonl",
        1,
        None,
    )
    assert (disabled.op, disabled.actor, disabled.reason, disabled.revision) == ("status", "ada", "misleads", 2)
    assert disabled.before is not None
    assert (disabled.before.status, disabled.after.status) == ("active", "disabled")
    assert [event.entry_id for event in bank.events(2)] == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries",
        "DELETE FROM evidence",
        "DELETE FROM events",
        "UPDATE events SET op = 'add'",
        "DELETE FROM revisions",
    ],
)
def test_the_database_itself_refuses_to_forget(bank: Bank, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=r"never deleted|append-only"):
        bank.db.run(statement)


def test_refusals_name_the_entry_and_the_fix(bank: Bank) -> None:
    with pytest.raises(EntryNotFound, match="no entry 99 in"):
        bank.get(99)
    with bank.change(actor="me") as change:
        with pytest.raises(InvalidEntry, match="entry 3 is a pair and has no words of its own"):
            change.edit(3, Skill(title="t", principle="p"))
        with pytest.raises(InvalidEntry, match="entry 2 is a mistake: it cannot become a skill"):
            change.edit(2, Skill(title="t", principle="p"))
        with pytest.raises(InvalidEntry, match="use supersede"):
            change.set_status([1], "superseded")
        with pytest.raises(InvalidEntry, match="skill 1 cannot be superseded by active mistake 2"):
            change.supersede(1, by=2)
        with pytest.raises(InvalidEntry, match="skill 1 cannot be superseded by active skill 1"):
            change.supersede(1, by=1)
        with pytest.raises(InvalidEntry, match="a pair wants a mistake where entry 4 is a skill"):
            change.add(Pair(skill_id=1, mistake_id=4))
        with pytest.raises(InvalidEntry, match="entry 3 is a pair: its evidence"):
            change.add_evidence(3, [evidence("p", "wrong")])
        with pytest.raises(EntryNotFound, match="no entry 99"):
            change.set_status([99], "disabled")
    assert bank.revision == 1


def test_entries_by_every_criterion(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
        change.add(
            Skill(title="By hand", principle="p"), origin="manual", flags=[Flag(rule="short", reason="one letter")]
        )
    assert [e.id for e in bank.entries(Query(kind="skill", status="active"))] == [4, 7, 10, 13, 16]
    assert [e.id for e in bank.entries(Query.parse("status:quarantined flag:short"))] == [19]
    assert [e.id for e in bank.entries(Query(origin="manual"))] == [19]
    assert [e.id for e in bank.entries(ids=[8, 2, 99])] == [2, 8]
    assert bank.entries(ids=[]) == []
    assert [e.id for e in bank.entries(sort="newest", limit=2, offset=1)] == [18, 17]
    assert [e.id for e in bank.entries(sort="changed", limit=2)] == [1, 19]
    assert {e.id for e in bank.entries(Query(text="ZORP second"))} == {1, 3}
    assert bank.count(Query(kind="skill", text="zorp")) == 1
    assert bank.flags(19) == (Flag(rule="short", reason="one letter"),)
    with pytest.raises(InvalidOption, match="'relevance' wants words"):
        bank.entries(sort="relevance")


def test_search_follows_an_edit(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.edit(1, Skill(title="gnarl", principle="p"))
    assert [e.id for e in bank.entries(Query(text="gnarl"))] == [1, 3]
    assert [e.id for e in bank.entries(Query(text="zorp"))] == [2, 3]
    bank.undo(actor="me")
    assert bank.entries(Query(text="gnarl")) == []


def test_usage_makes_no_revision_and_adds_up(bank: Bank) -> None:
    row = UsageRow(
        run="r", step=1, problem_id="p", outcome="correct", skill_id=1, mistake_id=2, pair_id=3,
        support=0.5, polarity=1, gate_mass=0.2, weight=0.5, revision=1,
    )  # fmt: skip
    bank.record_usage(
        [
            row,
            row.model_copy(update={"mistake_id": 5, "pair_id": None, "support": -0.3, "polarity": -1}),
            row.model_copy(update={"support": 9.0, "placebo": True}),
        ]
    )
    assert bank.revision == 1
    skill, pair, mistake = bank.usage(1), bank.usage(3), bank.usage(5)
    assert (skill.helpful, skill.harmful, skill.neutral, skill.total) == (1, 1, 0, 2)
    assert skill.mean_support == pytest.approx(0.1)
    assert (pair.helpful, pair.harmful, pair.mean_support) == (1, 0, 0.5)
    assert (mistake.harmful, mistake.mean_support) == (1, -0.3)
    assert bank.usage(4).mean_support is None
    from skillbank.store.usage import by_entry, by_pair

    assert {i: u.total for i, u in by_entry(bank.db).items()} == {1: 2, 2: 1, 3: 1, 5: 1}
    assert {p: u.mean_support for p, u in by_pair(bank.db).items()} == {(1, 2): 0.5, (1, 5): -0.3}


def test_what_is_no_bank_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BankNotFound, match=r"no bank at .*nowhere: build one with"):
        Bank.open(tmp_path / "nowhere")
    for name, content in {"text": b"this is not a database" * 99, "empty": b""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "bank.sqlite").write_bytes(content)
        with pytest.raises(BankCorrupt) as caught:
            Bank.open(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "bank.sqlite" in str(caught.value)
    (tmp_path / "other").mkdir()
    other = sqlite3.connect(tmp_path / "other" / "bank.sqlite")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(BankCorrupt, match="is not a skill bank"):
        Bank.open(tmp_path / "other")


def test_a_damaged_or_newer_bank_is_refused(bank: Bank) -> None:
    file = bank.path / "bank.sqlite"
    bank.db.run("PRAGMA user_version = 9")
    bank.close()
    with pytest.raises(BankCorrupt, match="has bank format 9, this version reads 2"):
        Bank.open(bank.path)
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    file.write_bytes(file.read_bytes()[:8192])  # cut off
    with pytest.raises(BankCorrupt, match=r"bank\.sqlite cannot be read"):
        Bank.open(bank.path).entries()


def test_creating_over_something_is_refused(bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(BankExists, match="holds a bank already"):
        Bank.create(bank.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BankExists, match="is a file"):
        Bank.create(tmp_path / "file")
    with Bank.open_or_create(bank.path) as again:
        assert again.revision == 1


def test_readers_read_while_a_change_is_open(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
        with Bank.open(bank.path, readonly=True) as reader:
            assert reader.get(1).status == "active"
    with Bank.open(bank.path, readonly=True) as reader:
        assert reader.get(1).status == "disabled"
        with pytest.raises(InvalidEntry, match="open for reading only"), reader.change(actor="me"):
            pass
        with pytest.raises(SkillBankError, match="readonly"):
            reader.set_meta("a", "b")


def test_writers_take_turns(bank: Bank) -> None:
    def disable(entry_id: int) -> None:
        with Bank.open(bank.path) as own, own.change(actor=f"writer {entry_id}") as change:
            change.set_status([entry_id], "disabled")

    threads = [threading.Thread(target=disable, args=(entry_id,)) for entry_id in (1, 2, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bank.revision == 5
    assert [e.id for e in bank.entries(Query(status="disabled"))] == [1, 2, 4, 5]


words = st.text(min_size=1, max_size=40)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return Bank.create(tmp_path_factory.mktemp("scratch") / "bank")


@settings(max_examples=60, deadline=None)
@given(title=words, principle=words, description=words, how=st.text(max_size=40))
def test_any_text_comes_back_as_it_went_in(
    scratch: Bank, title: str, principle: str, description: str, how: str
) -> None:
    skill = Skill(title=title, principle=principle)
    mistake = Mistake(description=description, how_to_avoid=how)
    quoted = evidence("p", "correct", quote=principle)
    with scratch.change(actor=title, reason=description) as change:
        first = change.add(skill, evidence=[quoted])
        second = change.add(Mistake(description="to be reworded"))
        change.edit(second, mistake)
    assert scratch.get(first).content == skill
    assert scratch.get(second).content == mistake
    assert scratch.evidence(first) == [quoted]
    event = scratch.history(second)[-1]
    assert (event.actor, event.reason, event.after.content) == (title, description, mistake)
    scratch.undo(actor="me")
    assert scratch.get(first).status == "retired"


@settings(max_examples=150, deadline=None)
@given(
    query=st.text(max_size=30)
    | st.sampled_from(['"', "a AND", "NEAR(", "text:x", "-zorp", "*", "a*", "^", "\x00", "_", "²"])
)
def test_any_text_can_be_searched_for(scratch: Bank, query: str) -> None:
    found = scratch.entries(Query(text=query), sort="relevance", limit=3)
    assert scratch.count(Query(text=query)) >= len(found)
