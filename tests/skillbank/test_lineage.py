"""Entries that stand for others: what merging, splitting and retracting do, and that undoing moves everything back."""

from __future__ import annotations

from typing import Any

import pytest

from skillbank.errors import InvalidEntry
from skillbank.records import Flag, Mistake, Pair, Provenance, Skill
from skillbank.store import Bank, Query, UsageRow

from .made_up import evidence, mined

# The fixture `bank` has skills 1, 4, 7 ..., mistakes 2, 5, 8 ..., pairs 3, 6, 9 ... of p-zorp, p-blen, p-quix ...


def state(bank: Bank) -> list[tuple[Any, ...]]:
    """All that a change can touch, without the numbers that only ever grow."""
    return [
        (
            e.id, e.content, e.status, e.superseded_by, e.evidence_count, e.tags, e.flags, e.pinned,
            tuple(bank.evidence(e.id)), e.id in bank.retrievable(e.kind) if e.kind != "pair" else None,
        )
        for e in bank.entries(Query())
        if not bank.db.value("SELECT withdrawn FROM entries WHERE id = ?", (e.id,))
    ]  # fmt: skip


def problems(bank: Bank, entry_id: int) -> list[str]:
    return [place.problem_id for place in bank.evidence(entry_id)]


def usage(skill_id: int, mistake_id: int, polarity: int) -> UsageRow:
    return UsageRow(
        run="r", step=1, problem_id="p", outcome="correct", skill_id=skill_id, mistake_id=mistake_id,
        support=0.5, polarity=polarity, gate_mass=0.2, weight=0.5, revision=1,
    )  # fmt: skip


def test_a_merge_adds_up_evidence_usage_and_pairs(bank: Bank) -> None:
    bank.record_usage([usage(1, 2, 1), usage(4, 2, -1)])
    before = state(bank)
    with bank.change(actor="me") as change:
        change.tag([4], add=["b"])
        change.merge([4], into=1)
    assert (bank.get(4).status, bank.get(4).superseded_by, bank.get(1).tags) == ("superseded", 1, ("b",))
    assert problems(bank, 1) == ["p-zorp", "p-blen"]
    assert problems(bank, 4) == ["p-blen"]
    assert bank.get(1).evidence_count == 2
    assert [entry.id for entry in bank.merged_into(1)] == [4]
    assert (bank.usage(1).helpful, bank.usage(1).harmful) == (1, 1)
    assert (bank.get(6).status, bank.get(6).superseded_by) == ("superseded", 19)
    assert bank.get(19).content == Pair(skill_id=1, mistake_id=5)
    assert bank.pair_of(1, 5) == (19, True)
    assert bank.retrievable("skill") == [1, 7, 10, 13, 16]
    assert bank.retrievable("mistake") == [2, 5, 8, 11, 14, 17]
    assert bank.resting_on("p-blen") == {5}  # skill 1 rests on two problems now
    bank.undo(actor="me")
    assert state(bank) == before
    assert bank.resting_on("p-blen") == {4, 5}


def test_both_sides_of_two_pairs_merge_into_one_pair(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.merge_all({4: 1, 5: 2})
    assert (bank.get(6).status, bank.get(6).superseded_by) == ("superseded", 3)
    assert bank.stats().entries["pair"] == 6  # none between the two was needed
    assert bank.get(3).evidence_count == 4


def test_an_objection_to_a_pair_outlives_the_merge(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([6], "disabled")
    with bank.change(actor="me") as change:
        change.merge_all({4: 1, 5: 2})
    assert bank.get(3).status == "disabled"
    assert (bank.retrievable("skill"), bank.retrievable("mistake")) == ([7, 10, 13, 16], [8, 11, 14, 17])


def test_chains_of_merges_are_undone_in_any_order(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.merge([1], into=4)
    with bank.change(actor="me") as change:
        change.merge([4], into=7)
    assert problems(bank, 7) == ["p-zorp", "p-blen", "p-quix"]
    bank.undo(2, actor="me")
    assert problems(bank, 7) == ["p-blen", "p-quix"]
    assert problems(bank, 1) == ["p-zorp"]
    assert (bank.get(1).status, bank.get(1).evidence_count, bank.get(7).evidence_count) == ("active", 1, 2)


def test_chains_never_close(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.supersede(1, by=4)
    with bank.change(actor="me") as change:
        change.set_status([1], "active")
    with bank.change(actor="me") as change:
        change.supersede(4, by=1)
    with pytest.raises(InvalidEntry, match="would stand for each other"):
        bank.undo(3, actor="me")
    assert bank.revision == 4
    with pytest.raises(InvalidEntry, match="it is itself to be merged into 7"), bank.change(actor="me") as change:
        change.merge_all({1: 13, 13: 7})


def test_pinned_entries_are_not_merged_away(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.pin([4])
    with pytest.raises(InvalidEntry, match="skill 4 is pinned"), bank.change(actor="me") as change:
        change.merge([4], into=1)


def test_an_entry_that_others_merged_into_cannot_be_unmade(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        new = change.add(Skill(title="Both", principle="zorp and blen"))
    with bank.change(actor="me") as change:
        change.merge([1, 4], into=new)
    with pytest.raises(InvalidEntry, match="revision 2 cannot be undone"):
        bank.undo(2, actor="me")
    bank.undo(3, actor="me")
    bank.undo(2, actor="me")
    assert bank.retrievable("skill") == [1, 4, 7, 10, 13, 16]


def test_a_split_hands_on_evidence_tags_and_pairs(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.tag([1], add=["keep"])
    before = state(bank)
    with bank.change(actor="me") as change:
        parts = change.split(1, [Skill(title="first", principle="half"), Skill(title="second", principle="half")])
    assert [bank.get(part).tags for part in parts] == [("keep",), ("keep",)]
    assert [problems(bank, part) for part in parts] == [["p-zorp"], ["p-zorp"]]
    assert bank.get(parts[0]).provenance == Provenance(miner="split", parent=1)
    assert (bank.get(1).status, bank.get(3).status) == ("retired", "retired")
    assert [bank.pair_of(part, 2) is not None for part in parts] == [True, True]
    assert set(bank.retrievable("skill")) == {4, 7, 10, 13, 16, *parts}
    bank.undo(actor="me")
    assert state(bank) == before
    with pytest.raises(InvalidEntry, match="a part of it cannot be a mistake"), bank.change(actor="me") as change:
        change.split(1, [Mistake(description="a"), Mistake(description="b")])


# ----------------------------------------------------------------------------------------------------------- retraction


def test_what_rests_on_a_retracted_rollout_alone_is_retired(bank: Bank) -> None:
    bank.add_mined([mined("zorp", "p-other")], actor="miner")
    before = state(bank)
    with bank.change(actor="me") as change:
        done = change.retract(["p-blen-correct", "p-blen-wrong", "p-zorp-correct"])
    assert (done.rollouts, done.places, done.retired) == (3, 3, (4, 5))
    assert (bank.get(4).status, bank.get(1).status) == ("retired", "active")
    assert problems(bank, 1) == ["p-other"]
    assert bank.retrievable("skill") == [1, 7, 10, 13, 16]
    bank.undo(actor="me")
    assert state(bank) == before


def test_nothing_comes_back_when_the_same_rollouts_are_mined_again(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.retract(["p-blen-correct", "p-blen-wrong", "p-new-correct"])
    assert bank.add_mined([mined("blen"), mined("zorp", "p-new")], actor="miner") == [None, None]
    assert (problems(bank, 1), problems(bank, 2)) == (["p-zorp"], ["p-zorp", "p-new"])
    assert bank.get(4).status == "retired"
    bank.add_mined([mined("blen", "p-clean")], actor="miner")
    assert problems(bank, 4) == ["p-clean"]


def test_a_retraction_reaches_through_merges(bank: Bank) -> None:
    """The poisoned wording leads the cluster: it goes, and what it had absorbed comes back with its pairs."""
    with bank.change(actor="me") as change:
        change.merge_all({1: 4, 7: 4})
    merged = state(bank)
    with bank.change(actor="me") as change:
        done = change.retract(["p-blen-correct"])
    assert (done.retired, done.revived) == ((4,), (1, 7))
    assert (bank.get(4).status, bank.get(1).status, bank.get(7).status) == ("retired", "active", "active")
    assert (bank.get(3).status, bank.get(9).status) == ("active", "active")
    assert bank.retrievable("skill") == [1, 7, 10, 13, 16]
    with pytest.raises(InvalidEntry, match="cannot be undone"):
        bank.undo(2, actor="me")  # undoing the merge must not bring the poison back
    bank.undo(3, actor="me")
    assert state(bank) == merged


def test_a_retracted_member_leaves_its_cluster(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.merge([1], into=4)
    with bank.change(actor="me") as change:
        change.merge([4], into=7)
    with bank.change(actor="me") as change:
        done = change.retract(["p-blen-correct"])
    assert (done.retired, done.revived) == ((4,), ())
    assert (bank.get(4).status, bank.get(1).superseded_by) == ("retired", 7)
    assert problems(bank, 7) == ["p-zorp", "p-quix"]


def test_a_wording_written_from_retracted_entries_is_questioned(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        new = change.add(Skill(title="Both", principle="of two"), provenance=Provenance(miner="merge", model="m"))
        change.merge([1, 4], into=new)
    with bank.change(actor="me") as change:
        assert change.retract(["p-zorp-correct"]).flagged == (new,)
    assert bank.get(new).status == "quarantined"
    assert [flag.rule for flag in bank.flags(new)] == ["retracted"]
    with bank.change(actor="me") as change:
        assert change.retract(["p-blen-correct"]).retired == (4, new)
    assert bank.get(new).status == "retired"


# --------------------------------------------------------------------------------------------------- flags and the past


FLAG = Flag(rule="answer", reason="it says 7")


def test_a_flag_keeps_an_entry_from_retrieval_until_it_is_released(bank: Bank) -> None:
    with bank.change(actor="guard") as change:
        assert change.flag(1, [FLAG])
        assert not change.flag(1, [FLAG])
    assert bank.get(1).status == "quarantined"
    assert 1 not in bank.retrievable("skill")
    with bank.change(actor="me") as change:
        change.set_status([1], "active")
    assert bank.get(1).status == "quarantined"
    with bank.change(actor="me") as change:
        change.release([1])
    assert bank.get(1).status == "active"
    assert bank.flags(1) == (FLAG.model_copy(update={"released": True}),)
    with bank.change(actor="guard") as change:
        assert not change.flag(1, [FLAG])  # the same finding is not raised again
        assert change.flag(1, [Flag(rule="answer", reason="it says 8")])
    assert bank.get(1).status == "quarantined"


def test_two_flags_are_undone_apart(bank: Bank) -> None:
    for flag in (FLAG, Flag(rule="url", reason="a.b")):
        with bank.change(actor="guard") as change:
            change.flag(1, [flag])
    bank.undo(3, actor="me")
    assert (bank.flags(1), bank.get(1).status) == ((FLAG,), "quarantined")
    bank.undo(2, actor="me")
    assert (bank.flags(1), bank.get(1).status) == ((), "active")


def test_undoing_something_else_lifts_no_quarantine(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
    with bank.change(actor="guard") as change:
        change.flag(1, [FLAG])
    assert bank.get(1).status == "disabled"
    bank.undo(2, actor="me")
    assert bank.get(1).status == "quarantined"


def test_the_guard_looks_at_every_wording_that_enters(bank: Bank) -> None:
    def check(content: Skill | Mistake, evidence: Any) -> list[Flag]:
        return [FLAG] if "7" in content.text() else []

    with bank.change(actor="me", check=check) as change:
        change.edit(1, Skill(title="says 7", principle="p"))
        new = change.add(Mistake(description="7 again"))
    assert (bank.get(1).status, bank.get(new).status) == ("quarantined", "quarantined")
    with bank.change(actor="me", check=check) as change:
        change.release([1])
        change.edit(1, Skill(title="still 7", principle="p"))
    assert bank.get(1).status == "quarantined"  # what was released was the old wording
    pair = mined("zorp").model_copy(update={"skill": Skill(title="7", principle="mined")})
    assert bank.add_mined([pair], actor="miner", check=check) is not None
    assert [e.status for e in bank.entries(Query(text="mined", kind="skill"))] == ["quarantined"]


def test_checkout_restores_a_revision_and_leaves_flags(bank: Bank) -> None:
    first = state(bank)
    with bank.change(actor="me") as change:
        change.edit(1, Skill(title="new", principle="words"))
        change.tag([4], add=["x"])
        change.merge([10], into=13)
    second = state(bank)
    with bank.change(actor="me") as change:
        change.set_status([16], "disabled")
        change.add(Skill(title="late", principle="p"))
        change.retract(["p-quix-correct"])
        change.add_evidence(2, [evidence("p-more", "wrong")])
    with bank.change(actor="me") as change:
        change.checkout(2)
    assert state(bank) == second
    with bank.change(actor="me") as change:
        change.checkout(1)
    assert state(bank) == first
    with bank.change(actor="me") as change:
        change.checkout(2)
    assert state(bank) == second
    with bank.change(actor="guard") as change:
        change.flag(1, [FLAG])
    with bank.change(actor="me") as change:
        change.checkout(1)
    assert (bank.get(1).status, bank.flags(1)) == ("quarantined", (FLAG,))


def test_net_changes_between_revisions(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([1, 4], "disabled")
        change.tag([1], add=["a", "b"])
    with bank.change(actor="me") as change:
        change.set_status([4], "active")
        change.tag([1], remove=["b"])
    (one,) = bank.net_changes(1, 3)
    assert one.entry_id == 1
    assert one.before is not None
    assert (one.before.status, one.after.status, one.after.tags) == ("active", "disabled", ("a",))
    assert [change.entry_id for change in bank.net_changes(2, 3)] == [1, 4]
    with pytest.raises(InvalidEntry, match="no revision 9"):
        bank.net_changes(1, 9)


def test_what_was_reworded_stays_reworded_when_it_is_mined_again(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.edit(1, Skill(title="Better", principle="words"))
    assert bank.add_mined([mined("zorp", "p-new")], actor="miner") == [3]
    assert bank.stats().entries["skill"] == 6
    assert problems(bank, 1) == ["p-zorp", "p-new"]


def test_only_what_concerns_retrieval_moves_its_revision(bank: Bank) -> None:
    assert bank.retrieval_revision == 1
    with bank.change(actor="me") as change:
        change.tag([1], add=["x"])
        change.pin([4])
    assert (bank.revision, bank.retrieval_revision) == (2, 1)
    with bank.change(actor="me") as change:
        change.edit(1, Skill(title="other", principle="words"))
    assert bank.retrieval_revision == 3
    with bank.change(actor="me") as change:
        change.set_status([3], "disabled")
        change.finish()
        assert (change.leaving, change.joining) == ((1, 2), ())
    assert bank.retrieval_revision == 4
