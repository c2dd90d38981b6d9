"""Facets against counting by hand, up to the bound where words are too common to count; a few utilities against all."""

from __future__ import annotations

import pytest

from skillbank import curate
from skillbank.look import facets as module
from skillbank.look.facets import Marks, facets, marks
from skillbank.look.queue import following
from skillbank.look.view import utilities
from skillbank.records import Flag
from skillbank.store import Bank, Query, UsageRow


def test_each_value_is_counted_as_if_chosen(bank: Bank) -> None:
    curate.disable(bank, [1, 2, 3, 4], actor="ada")
    for line in ("", "kind:skill", "status:disabled", "kind:mistake status:active", "zorp", "kind:pair zorp"):
        where = Query.parse(line)
        found = facets(bank, where)
        assert found.total == bank.count(where)
        assert found.exact
        for kind, count in found.kind.items():
            assert count == bank.count(where.model_copy(update={"kind": kind})), (line, kind)
        for status, count in found.status.items():
            assert count == bank.count(where.model_copy(update={"status": status})), (line, status)


def test_words_that_many_have_are_counted_up_to_a_bound(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MATCHES", 5)
    found = facets(bank, Query.parse("double"))  # in every skill, and in no mistake
    assert (found.exact, found.total, found.kind) == (False, 10, {"skill": 5, "mistake": 0, "pair": 5})
    assert facets(bank, Query.parse("zorp")).exact


def test_marks_count_entries_by_open_flag_and_by_tag(bank: Bank) -> None:
    with bank.change(actor="guard") as change:
        change.flag(1, [Flag(rule="url", reason="a"), Flag(rule="url", reason="b"), Flag(rule="length", reason="c")])
        change.flag(4, [Flag(rule="url", reason="a")])
        change.flag(7, [Flag(rule="markup", reason="a")])
    curate.release(bank, [7], actor="ada")
    curate.tag(bank, [1, 4], ["b"], actor="ada")
    curate.tag(bank, [1], ["a"], actor="ada")
    assert marks(bank) == Marks(flags={"url": 2, "length": 1}, tags={"b": 2, "a": 1})


def test_a_queue_has_pairs_first_and_goes_on_where_one_was(bank: Bank) -> None:
    def walked(line: str) -> list[int]:
        found, after = [], None
        while (entry_id := following(bank, Query.parse(line), after)) is not None:
            found.append(entry_id)
            after = bank.get(entry_id)
        return found

    assert walked("") == [*range(3, 19, 3), *(n for n in range(1, 19) if n % 3)]
    assert walked("kind:mistake") == list(range(2, 19, 3))
    curate.disable(bank, [9, 1], actor="ada")
    assert walked("status:disabled") == [9, 1]
    assert following(bank, Query.parse("status:disabled"), bank.get(6)) == 9
    assert following(bank, Query.parse("status:disabled"), bank.get(2)) is None


def test_utilities_of_a_few_are_those_of_the_whole_ledger(bank: Bank) -> None:
    def used(skill_id: int, mistake_id: int, polarity: int) -> UsageRow:
        return UsageRow(
            run="r", step=1, problem_id="p", outcome="correct", skill_id=skill_id, mistake_id=mistake_id,
            support=0.1, polarity=polarity, gate_mass=1.0, weight=0.5, revision=1,
        )  # fmt: skip

    bank.record_usage([used(1, 2, 1), used(1, 5, -1), used(4, 5, 1), used(7, 8, 1), used(7, 2, 0), used(10, 11, -1)])
    curate.merge(bank, [4], 1, actor="ada")  # its use counts for 1 from now on, and with 5 for their pair
    curate.merge(bank, [8, 11], 2, actor="ada")
    curate.disable(bank, [7], actor="ada")
    everything = {row["id"]: row["utility"] for row in bank.db.rows("SELECT id, utility FROM entry_usage")}
    assert len(everything) >= 8
    assert utilities(bank, bank.ids()) == pytest.approx(everything)
    assert utilities(bank, [1, 13]) == pytest.approx({1: 1 / 3})
    assert [entry.id for entry in bank.entries(Query.parse("utility:<0"))] == [
        i for i in sorted(everything) if everything[i] < 0
    ]
    assert [entry.id for entry in bank.entries(Query.parse("used:no"))] == [
        i for i in bank.ids() if i not in everything
    ]
    best_first = [entry.id for entry in bank.entries(sort="utility")]
    assert best_first == sorted(bank.ids(), key=lambda i: (-everything.get(i, -9), i))
