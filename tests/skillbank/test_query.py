from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillbank.errors import InvalidOption
from skillbank.records import Flag, Skill
from skillbank.store import Bank, UsageRow
from skillbank.store.query import Bound, Query

from .made_up import evidence


def test_a_line_is_read_as_criteria_and_words() -> None:
    query = Query.parse('kind:mistake status:active flag:* evidence:>=3 utility:<-0.25 pinned:no zorp "two words"')
    assert query == Query(
        kind="mistake",
        status="active",
        flag="*",
        evidence=(Bound(comparison=">=", value=3),),
        utility=(Bound(comparison="<", value=-0.25),),
        pinned=False,
        text="zorp two words",
    )
    assert Query.parse("") == Query()
    assert Query.parse("revision:>=3 revision:<=7").revision == (
        Bound(comparison=">=", value=3),
        Bound(comparison="<=", value=7),
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("colour:red", "colour:red is no criterion: use kind, status"),
        ("kind:thing", "kind:thing is none of skill, mistake, pair"),
        ("status:gone", "status:gone is none of active, disabled"),
        ("evidence:many", "evidence:many is no number: write evidence:3"),
        ("pinned:maybe", "pinned:maybe is neither yes nor no"),
        ("kind:skill kind:mistake", "kind is given twice, as skill and mistake"),
    ],
)
def test_what_cannot_be_read_is_named(line: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Query.parse(line)


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@given(
    st.builds(
        Query,
        kind=st.sampled_from([None, "skill", "pair"]),
        flag=st.none() | words,
        tag=st.none() | words | st.just("two words"),
        used=st.none() | st.booleans(),
        evidence=st.lists(
            st.builds(Bound, comparison=st.sampled_from(["<", ">=", "="]), value=st.integers(0, 99).map(float)),
            max_size=2,
        ).map(tuple),
        text=st.none() | words,
    )
)
def test_a_query_reads_back_as_it_is_written(query: Query) -> None:
    assert Query.parse(str(query)) == query


@given(st.text() | st.from_regex(r"(kind|flag|utility|used|x):.*", fullmatch=True))
def test_any_line_is_a_query_or_one_clear_error(line: str) -> None:
    with contextlib.suppress(InvalidOption):
        query = Query.parse(line)
        assert Query.parse(str(query)).model_dump(exclude={"text"}) == query.model_dump(exclude={"text"})


def found(bank: Bank, line: str) -> list[int]:
    ids = bank.ids(Query.parse(line))
    assert [entry.id for entry in bank.entries(Query.parse(line))] == ids
    assert bank.count(Query.parse(line)) == len(ids)
    return ids


def test_entries_by_every_criterion(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.tag([1, 3], add=["algebra", "keep"])
        change.pin([1])
        change.add_evidence(4, [evidence("p-zorp", "correct"), evidence("p-more", "correct")])
        change.flag(7, [Flag(rule="answer", reason="it says 7")])
        change.flag(10, [Flag(rule="answer", reason="it says 7", released=True), Flag(rule="url", reason="a.b")])
        change.release([10])
        change.add(Skill(title="By hand", principle="two words"), origin="manual")
    assert found(bank, "tag:algebra") == [1, 3]
    assert found(bank, "tag:*") == [1, 3]
    assert found(bank, "tag:alg") == []
    assert found(bank, "pinned:yes") == [1]
    assert found(bank, "kind:skill pinned:no origin:mined") == [4, 7, 10, 13, 16]
    assert found(bank, "flag:answer") == [7]  # 10's were released
    assert found(bank, "flag:*") == [7]
    assert found(bank, "status:quarantined") == [7]
    assert found(bank, "origin:manual") == [19]
    assert found(bank, "evidence:3") == [4]
    assert found(bank, "evidence:>=3") == [4, 6]  # the pair has that of both sides
    assert found(bank, "evidence:0") == [19]
    assert found(bank, "problem:p-zorp") == [1, 2, 3, 4, 6]
    assert found(bank, "rollout:p-blen-wrong") == [5, 6]
    assert found(bank, "revision:>1 kind:skill") == [1, 4, 7, 10, 19]
    assert found(bank, "words") == [19]
    assert found(bank, "quix kind:skill") == [7]


def test_entries_by_what_training_measured(bank: Bank) -> None:
    row = UsageRow(
        run="r", step=1, problem_id="p", outcome="correct", skill_id=1, mistake_id=2, pair_id=3,
        support=0.5, polarity=1, gate_mass=0.2, weight=0.5, revision=1,
    )  # fmt: skip
    bank.record_usage([row, row, row.model_copy(update={"polarity": -1, "mistake_id": 5})])
    assert found(bank, "used:yes") == [1, 2, 3, 5]
    assert found(bank, "used:no kind:skill") == [4, 7, 10, 13, 16]
    assert found(bank, "utility:<0") == [5]
    assert found(bank, "utility:1") == [2, 3]
    assert found(bank, "utility:>0.3 utility:<0.4") == [1]
    assert [entry.id for entry in bank.entries(Query(used=True), sort="utility")] == [2, 3, 1, 5]
