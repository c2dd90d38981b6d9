"""What a curator does: previewed as it is done, told field by field, undone in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from skillbank import curate
from skillbank.curate import EditConflict, Operation
from skillbank.errors import EntryNotFound, InvalidEntry
from skillbank.records import Evidence, Flag, Mistake, Pair, Skill
from skillbank.store import Bank
from skillbank.store.query import Query

from .made_up import mined

# The fixture `bank` has skills 1, 4, 7 ..., mistakes 2, 5, 8 ..., pairs 3, 6, 9 ... of p-zorp, p-blen, p-quix ...

LEAK = Flag(rule="answer", reason="says 42")


def check(content: Skill | Mistake, evidence: Sequence[Evidence]) -> Sequence[Flag]:
    return [LEAK] if "42" in content.text() else []


def changed(operation: Operation) -> list[tuple[int | None, str, str, str]]:
    return [(c.entry_id, c.field, c.before, c.after) for c in operation.changes]


def quarantine(bank: Bank, *ids: int) -> None:
    with bank.change(actor="guard") as change:
        for entry_id in ids:
            change.flag(entry_id, [LEAK])


def test_edit_shows_the_fields_that_differ(bank: Bank) -> None:
    done = curate.edit(bank, 2, {"description": "zorp as a sum", "why_it_happens": ""}, actor="ada", reason="shorter")
    assert changed(done) == [(2, "description", "zorp taken as the sum of both", "zorp as a sum")]
    assert (done.revision, done.leaving, done.joining) == (2, (), ())
    assert (done.selected, done.entries, done.fields) == (1, {"mistake": 1}, {"description": 1})
    content = bank.get(2).content
    assert isinstance(content, Mistake)
    assert (content.description, content.how_to_avoid) == ("zorp as a sum", "Instead: zorp doubles the first")
    assert (bank.history(2)[-1].actor, bank.history(2)[-1].reason) == ("ada", "shorter")


OPERATIONS: dict[str, Callable[[Bank, bool], Operation]] = {
    "edit": lambda bank, preview: curate.edit(bank, 1, {"title": "new"}, actor="ada", preview=preview),
    "add": lambda bank, preview: curate.add(
        bank, skill=Skill(title="a", principle="b"), mistake=2, actor="ada", preview=preview
    ),
    "split": lambda bank, preview: curate.split(
        bank, 2, [Mistake(description="a"), Mistake(description="b")], actor="ada", preview=preview
    ),
    "merge": lambda bank, preview: curate.merge(bank, [4, 7], 1, {"title": "t"}, actor="ada", preview=preview),
    "disable": lambda bank, preview: curate.disable(bank, [3, 4], actor="ada", preview=preview),
    "enable": lambda bank, preview: curate.enable(bank, [12, 13], actor="ada", preview=preview),
    "retire": lambda bank, preview: curate.retire(bank, Query(kind="pair"), actor="ada", preview=preview),
    "release": lambda bank, preview: curate.release(bank, Query(flag="*"), actor="ada", preview=preview),
    "accept": lambda bank, preview: curate.accept(bank, [18], actor="ada", preview=preview),
    "reject": lambda bank, preview: curate.reject(bank, [17], actor="ada", preview=preview),
    "pin": lambda bank, preview: curate.pin(bank, [1, 2], actor="ada", preview=preview),
    "unpin": lambda bank, preview: curate.unpin(bank, [10], actor="ada", preview=preview),
    "tag": lambda bank, preview: curate.tag(bank, [1, 2], ["x", "y"], actor="ada", preview=preview),
    "untag": lambda bank, preview: curate.untag(bank, [10], ["old"], actor="ada", preview=preview),
    "undo": lambda bank, preview: curate.undo(bank, 2, actor="ada", preview=preview),
    "checkout": lambda bank, preview: curate.checkout(bank, 1, actor="ada", preview=preview),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_preview_tells_the_same_and_an_undo_takes_it_back(bank: Bank, name: str) -> None:
    with bank.change(actor="me") as change:
        change.set_status([12], "disabled")
        change.set_status([13], "retired")
        change.pin([10])
        change.tag([10], add=["old"])
        change.flag(17, [LEAK])
    before = bank.entries()
    preview = OPERATIONS[name](bank, True)
    assert (bank.revision, bank.entries(), preview.revision) == (2, before, None)
    done = OPERATIONS[name](bank, False)
    assert done.revision == 3 == bank.revision
    assert preview == done.model_copy(update={"revision": None})
    assert preview.details() == done.details() == list(done.changes)
    assert done.changed > 0
    back = curate.undo(bank, actor="ada")
    assert (back.leaving, back.joining) == (done.joining, done.leaving)
    unnumbered = {"revision": 0, "version": 0}
    assert [e.model_copy(update=unnumbered) for e in bank.entries(ids=[e.id for e in before])] == [
        e.model_copy(update=unnumbered) for e in before
    ]
    assert all(bank.get(entry_id).status == "retired" for entry_id in done.added)


def test_disabling_a_pair_tells_what_leaves_retrieval(bank: Bank) -> None:
    done = curate.disable(bank, [3], actor="ada", reason="misleads")
    assert changed(done) == [(3, "status", "active", "disabled")]
    assert ((done.leaving, done.joining), done.entries) == (((1, 2), ()), {"pair": 1})
    back = curate.enable(bank, [3], actor="ada")
    assert (back.leaving, back.joining) == ((), (1, 2))


def test_disabling_twice_changes_nothing(bank: Bank) -> None:
    curate.disable(bank, [1], actor="ada")
    again = curate.disable(bank, [1, 1], actor="ada")
    assert (again.revision, again.changes, again.selected, bank.revision) == (None, (), 1, 2)


def test_enabling_lifts_no_quarantine_and_says_so(bank: Bank) -> None:
    quarantine(bank, 1, 4)
    curate.disable(bank, [4], actor="ada")
    done = curate.enable(bank, [1, 4, 7], actor="ada")
    assert (done.revision, [(left.ids, left.why) for left in done.left]) == (
        None,
        [((1, 4), "they are flagged and enabling lifts no flag: look at the flags, then release them")],
    )
    assert [bank.get(i).status for i in (1, 4)] == ["quarantined", "disabled"]
    released = curate.release(bank, [1, 4], actor="ada")
    assert released.joining == (1,)
    assert (1, "flags", "answer: says 42", "released") in changed(released)
    assert curate.enable(bank, [4], actor="ada").joining == (4,)


def test_what_another_entry_stands_for_is_left_alone(bank: Bank) -> None:
    curate.merge(bank, [4], 1, actor="ada")
    for operate in (curate.disable, curate.enable, curate.retire, curate.reject, curate.accept):
        done = operate(bank, [4], actor="ada")
        assert (done.revision, done.left[0].ids) == (None, (4,))
        assert "undo the merge" in done.left[0].why
    assert bank.get(4).superseded_by == 1
    assert curate.merge(bank, [4, 7], 1, actor="ada").left[0].ids == (4,)


def test_a_retired_entry_is_not_weakened_to_disabled(bank: Bank) -> None:
    curate.retire(bank, [1], actor="ada")
    done = curate.disable(bank, [1, 4], actor="ada")
    assert ([left.ids for left in done.left], bank.get(1).status, done.leaving) == ([(1,)], "retired", (4,))


def test_a_query_is_applied_to_what_fits_and_to_nothing_else(bank: Bank) -> None:
    done = curate.disable(bank, Query.parse("kind:skill zorp"), actor="ada")
    assert (done.selected, done.entries, done.leaving) == (1, {"skill": 1}, (1,))
    assert curate.resolve(bank, Query(kind="pair")) == [3, 6, 9, 12, 15, 18]
    assert curate.resolve(bank, [3, 3, 1]) == [3, 1]


def test_ids_resolved_once_are_what_is_changed(bank: Bank) -> None:
    ids = curate.resolve(bank, Query.parse("kind:skill status:active"))
    preview = curate.disable(bank, ids, actor="ada", preview=True)
    bank.add_mined([mined("newer")], actor="miner")  # fits the query, was not shown
    done = curate.disable(bank, ids, actor="ada")
    assert (preview.selected, done.selected, bank.get(19).status) == (6, 6, "active")


def test_accepting_a_pair_accepts_what_was_read_with_it(bank: Bank) -> None:
    quarantine(bank, 2, 3)
    curate.disable(bank, [1], actor="ada")
    done = curate.accept(bank, [3], actor="ada")
    assert [bank.get(i).status for i in (1, 2, 3)] == ["disabled", "active", "active"]
    assert (done.entries, done.joining) == ({"pair": 1, "mistake": 1}, (2,))
    assert bank.get(2).flags[0].released
    assert curate.accept(bank, [1], actor="ada").joining == (1,)
    assert curate.accept(bank, [1], actor="ada").revision is None


def test_rejecting_retires_and_stays_so_when_it_is_mined_again(bank: Bank) -> None:
    quarantine(bank, 1)
    assert curate.reject(bank, [1], actor="ada").action == "reject"
    bank.add_mined([mined("zorp", "p-other")], actor="miner")
    assert (bank.get(1).status, bank.get(1).evidence_count) == ("retired", 2)


def test_an_edit_of_another_version_is_refused_with_what_changed(bank: Bank) -> None:
    curate.edit(bank, 1, {"title": "hers", "principle": "hers too"}, actor="eve", expected_version=1)
    with pytest.raises(EditConflict) as caught:
        curate.edit(bank, 1, {"title": "mine"}, actor="ada", expected_version=1)
    conflict = caught.value
    assert (conflict.entry_id, conflict.expected, conflict.version) == (1, 1, 2)
    assert [(c.field, c.before, c.after) for c in conflict.theirs] == [
        ("title", "Step on zorp", "hers"),
        ("principle", "zorp means double the first and add the second", "hers too"),
    ]
    assert "entry 1 was reworded since you read it (version 1, now 2): title says 'hers' now" in str(conflict)
    assert curate.edit(bank, 1, {"title": "mine"}, actor="ada", expected_version=2).revision == 3


def test_the_guard_looks_at_a_curators_words_too(bank: Bank) -> None:
    done = curate.edit(bank, 1, {"title": "It is 42"}, actor="ada", check=check)
    assert [(held.entry_id, held.flags) for held in done.held] == [(1, (LEAK,))]
    assert (bank.get(1).status, done.leaving) == ("quarantined", (1,))
    added = curate.add(bank, mistake=Mistake(description="says 42"), actor="ada", check=check)
    assert ([held.entry_id for held in added.held], bank.get(19).status) == ([19], "quarantined")
    parts = [Mistake(description="42"), Mistake(description="fine")]
    split = curate.split(bank, 2, parts, actor="ada", check=check)
    assert [held.entry_id for held in split.held] == [split.added[0]]
    assert [bank.get(i).status for i in split.added[:2]] == ["quarantined", "active"]
    merged = curate.merge(bank, [7], 4, {"title": "42"}, actor="ada", check=check)
    assert [held.entry_id for held in merged.held] == [4]
    assert curate.edit(bank, 10, {"title": "43"}, actor="ada", check=check).held == ()


def test_adding_a_pair_reuses_the_words_that_are_there(bank: Bank) -> None:
    skill, known = Skill(title="new", principle="words"), bank.get(2).content
    assert isinstance(known, Mistake)
    done = curate.add(bank, skill=skill, mistake=known, tags=["mine"], actor="ada")
    assert done.added == (19, 20)
    assert bank.get(20).content == Pair(skill_id=19, mistake_id=2)
    entry = bank.get(19)
    assert (entry.origin, entry.tags, entry.provenance and entry.provenance.miner) == ("manual", ("mine",), "manual")
    assert bank.get(2).tags == ()
    assert done.joining == (19,)


@pytest.mark.parametrize(
    ("operate", "message"),
    [
        (
            lambda b: curate.edit(b, 3, {"title": "x"}, actor="a"),
            "entry 3 is a pair: edit its skill 1 or its mistake 2",
        ),
        (
            lambda b: curate.edit(b, 2, {"title": "x"}, actor="a"),
            "entry 2 is a mistake without a field 'title': it has description, why_it_happens, how_to_avoid",
        ),
        (lambda b: curate.edit(b, 1, {}, actor="a"), "nothing to edit in entry 1: give a new title, principle, when"),
        (lambda b: curate.edit(b, 1, {"title": ""}, actor="a"), "title of entry 1 is refused: String should have at"),
        (lambda b: curate.edit(b, 1, {"title": " \n"}, actor="a"), "title of entry 1 is refused: it has no words"),
        (lambda b: curate.edit(b, 1, {"title": "\udcff"}, actor="a"), "title of entry 1 holds a byte that is no UTF-8"),
        (lambda b: curate.disable(b, [1], actor="a", reason="\udcff"), "the reason holds a byte that is no UTF-8"),
        (lambda b: curate.tag(b, [1], ["\udcff"], actor="a"), "holds a byte that is no UTF-8"),
        (lambda b: curate.tag(b, [1], [], actor="a"), "no tag to tag: give one"),
        (lambda b: curate.tag(b, [1], [" x"], actor="a"), "' x' is no tag"),
        (lambda b: curate.add(b, actor="a"), "nothing to add: give the words of a skill, of a mistake, or of both"),
        (lambda b: curate.add(b, skill=1, actor="a"), "nothing to add"),
        (lambda b: curate.add(b, skill=1, mistake=2, actor="a"), "pair 3 joins skill 1 and mistake 2 already"),
        (lambda b: curate.add(b, skill=2, mistake=5, actor="a"), "a pair wants a skill where entry 2 is a mistake"),
        (lambda b: curate.add(b, skill=b.get(1).content, actor="a"), "active skill 1 says this word for word"),
        (lambda b: curate.split(b, 1, [Skill(title="a", principle="b")], actor="a"), "give two wordings or more"),
        (
            lambda b: curate.split(b, 1, [Skill(title="a", principle="b")] * 2, actor="a"),
            "two parts of entry 1 say the",
        ),
        (lambda b: curate.merge(b, [1], 1, actor="a"), "nothing to merge into entry 1: name others of its kind"),
        (lambda b: curate.merge(b, [2], 1, actor="a"), "mistake 2 cannot be superseded by active skill 1"),
        (lambda b: curate.merge(b, [3], 6, actor="a"), "entry 3 is a pair: merge its skill or its mistake"),
        (lambda b: curate.checkout(b, 2, actor="a"), "no revision 2 to check out: the bank has revisions 0 to 1"),
        (lambda b: curate.undo(b, 5, actor="a"), "no revision 5 to undo"),
    ],
)
def test_what_is_refused_changes_nothing(bank: Bank, operate: Callable[[Bank], Operation], message: str) -> None:
    with pytest.raises(InvalidEntry) as caught:
        operate(bank)
    assert message in str(caught.value)
    assert bank.revision == 1


def test_one_unknown_id_changes_nothing_at_all(bank: Bank) -> None:
    for operate in (curate.disable, curate.enable, curate.retire, curate.release, curate.accept, curate.pin):
        with pytest.raises(EntryNotFound, match="no entry 99"):
            operate(bank, [1, 99], actor="ada")
    assert bank.revision == 1
    assert isinstance(bank.get(1).content, Skill)


def test_undo_says_what_it_undoes(bank: Bank) -> None:
    curate.edit(bank, 1, {"title": "new"}, actor="ada")
    done = curate.undo(bank, actor="ada")
    assert changed(done) == [(1, "title", "new", "Step on zorp")]
    assert bank.history(1)[-1].reason == "undo of revision 2"
    assert changed(curate.undo(bank, actor="ada")) == [(1, "title", "Step on zorp", "new")]


def test_undo_can_leave_alone_what_was_changed_again(bank: Bank) -> None:
    curate.disable(bank, [1, 4], actor="ada")
    curate.retire(bank, [4], actor="eve")
    with pytest.raises(InvalidEntry, match="entry 4 was changed again in revision 3"):
        curate.undo(bank, 2, actor="ada")
    done = curate.undo(bank, 2, skip_changed=True, actor="ada")
    assert (changed(done), done.selected) == ([(1, "status", "disabled", "active")], 2)
    assert [(left.ids, left.why) for left in done.left] == [
        ((4,), "they were changed again since: undo the later revision first")
    ]


def test_undo_of_a_build_takes_all_of_it_out(bank: Bank) -> None:
    done = curate.undo(bank, actor="ada")
    assert (done.entries, done.fields) == ({"skill": 6, "mistake": 6, "pair": 6}, {"status": 18})
    assert {change.after for change in done.changes} == {"retired"}
    assert done.leaving == (1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17)
    assert curate.enable(bank, [1], actor="ada").joining == (1,)


def test_an_operation_holds_the_first_changes_and_details_has_all(bank: Bank) -> None:
    bank.add_mined([mined(f"op{n}") for n in range(30)], actor="miner")
    done = curate.disable(bank, Query(kind="skill"), actor="ada")
    assert (done.entries, done.fields, len(done.changes)) == ({"skill": 36}, {"status": 36}, 20)
    assert [change.entry_id for change in done.details()] == bank.ids(Query(kind="skill"))
    assert done.details()[:20] == list(done.changes)
    assert len(done.model_dump()["changes"]) == 20


def test_a_change_of_the_bank_itself_is_told(bank: Bank) -> None:
    with bank.change(actor="guard") as change:
        change.retract(["p-zorp-correct"])
    done = curate.undo(bank, actor="ada")
    assert changed(done) == [
        (None, "retracted", "p-zorp-correct", ""),
        (1, "evidence", "", "1 place"),
        (1, "status", "retired", "active"),
    ]
    assert done.entries == {"skill": 1}


def test_net_changes_are_told_field_by_field(bank: Bank) -> None:
    curate.edit(bank, 1, {"title": "new"}, actor="ada")
    curate.tag(bank, [1], ["b", "a"], actor="ada")
    curate.edit(bank, 1, {"title": "newer"}, actor="ada")
    net = bank.net_changes(1, 4)
    assert [(c.field, c.before, c.after) for c in curate.net_field_changes(net[0])] == [
        ("title", "Step on zorp", "newer"),
        ("tags", "", "a, b"),
    ]
    assert [c.field for c in curate.net_field_changes(bank.net_changes(0, 1)[1])] == [
        "description",
        "how_to_avoid",
        "status",
    ]
