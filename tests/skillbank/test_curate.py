from __future__ import annotations

import pytest

from skillbank import curate
from skillbank.errors import EntryNotFound, InvalidEntry
from skillbank.records import Mistake, Skill
from skillbank.store import Bank


def changed(operation: curate.Operation) -> list[tuple[int, str, str, str]]:
    return [(c.entry_id, c.field, c.before, c.after) for c in operation.changes]


def test_edit_shows_the_fields_that_differ(bank: Bank) -> None:
    done = curate.edit(bank, 2, {"description": "zorp as a sum", "why_it_happens": ""}, actor="ada", reason="shorter")
    assert changed(done) == [(2, "description", "zorp taken as the sum of both", "zorp as a sum")]
    assert (done.revision, done.leaving, done.joining) == (2, (), ())
    content = bank.get(2).content
    assert isinstance(content, Mistake)
    assert (content.description, content.how_to_avoid) == ("zorp as a sum", "Instead: zorp doubles the first")
    assert (bank.history(2)[-1].actor, bank.history(2)[-1].reason) == ("ada", "shorter")


def test_a_preview_tells_the_same_and_changes_nothing(bank: Bank) -> None:
    for operate in (
        lambda preview: curate.edit(bank, 1, {"title": "new"}, actor="ada", preview=preview),
        lambda preview: curate.disable(bank, [3, 4], actor="ada", preview=preview),
        lambda preview: curate.enable(bank, [3, 4], actor="ada", preview=preview),
        lambda preview: curate.undo(bank, 1, actor="ada", preview=preview),
    ):
        revision, before = bank.revision, bank.entries()
        preview = operate(True)
        assert (bank.revision, bank.entries()) == (revision, before)
        assert preview.revision is None
        done = operate(False)
        assert done.revision == revision + 1 == bank.revision
        assert preview == done.model_copy(update={"revision": None})


def test_disabling_a_pair_tells_what_leaves_retrieval(bank: Bank) -> None:
    done = curate.disable(bank, [3], actor="ada", reason="misleads")
    assert changed(done) == [(3, "status", "active", "disabled")]
    assert (done.leaving, done.joining) == ((1, 2), ())
    back = curate.enable(bank, [3], actor="ada")
    assert (back.leaving, back.joining) == ((), (1, 2))


def test_disabling_twice_changes_nothing(bank: Bank) -> None:
    curate.disable(bank, [1], actor="ada")
    again = curate.disable(bank, [1, 1], actor="ada")
    assert (again.revision, again.changes, bank.revision) == (None, (), 2)


def test_enabling_brings_back_what_an_undo_retired(bank: Bank) -> None:
    curate.undo(bank, 1, actor="ada")
    assert curate.enable(bank, [1], actor="ada").joining == (1,)
    assert bank.retrievable("skill") == [1]


def test_undo_says_what_it_undoes(bank: Bank) -> None:
    curate.edit(bank, 1, {"title": "new"}, actor="ada")
    done = curate.undo(bank, actor="ada")
    assert changed(done) == [(1, "title", "new", "Step on zorp")]
    assert bank.history(1)[-1].reason == "undo of revision 2"
    assert changed(curate.undo(bank, actor="ada")) == [(1, "title", "Step on zorp", "new")]


def test_undo_of_a_build_takes_all_of_it_out(bank: Bank) -> None:
    done = curate.undo(bank, actor="ada")
    assert len(done.changes) == 18
    assert {change.after for change in done.changes} == {"retired"}
    assert done.leaving == (1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17)


@pytest.mark.parametrize(
    ("entry_id", "fields", "message"),
    [
        (3, {"title": "x"}, "entry 3 is a pair: edit its skill 1 or its mistake 2"),
        (2, {"title": "x"}, "entry 2 is a mistake without a field 'title': it has description, why_it_happens, how"),
        (1, {}, "nothing to edit in entry 1: give a new title, principle, when_to_apply"),
        (1, {"title": ""}, "title of entry 1 is refused: String should have at least 1 character"),
    ],
)
def test_refused_edits(bank: Bank, entry_id: int, fields: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidEntry) as caught:
        curate.edit(bank, entry_id, fields, actor="ada")
    assert message in str(caught.value)
    assert bank.revision == 1


def test_one_unknown_id_changes_nothing_at_all(bank: Bank) -> None:
    with pytest.raises(EntryNotFound, match="no entry 99"):
        curate.disable(bank, [1, 99], actor="ada")
    assert bank.get(1).status == "active"
    assert isinstance(bank.get(1).content, Skill)
