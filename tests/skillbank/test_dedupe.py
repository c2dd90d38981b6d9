"""Duplicates of a bank: which are found, which wording is kept, what a merge moves and an undo brings back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillbank.dedupe import duplicates, merge_duplicates
from skillbank.dedupe.contradict import contradiction
from skillbank.dedupe.duplicates import find_duplicates, near_duplicates
from skillbank.errors import InvalidEntry, InvalidOption
from skillbank.index.embed import Embedder, build_lexical_embedder
from skillbank.records import Evidence, Flag, MinedEntry, MinedPair, Mistake, Provenance, Skill
from skillbank.store import Bank, UsageRow

from .made_up import evidence

WRITTEN = Provenance(miner="model")
PARITY = "Compare the parity of both sides of the equation before looking for integer solutions"
MODULO = "Reduce the expression modulo ten power k to obtain trailing digits"


def skill(principle: str, title: str = "Look first") -> Skill:
    return Skill(title=title, principle=principle)


def mistake(description: str) -> Mistake:
    return Mistake(description=description, how_to_avoid="Check every case")


def place(problem: str, n: int = 0) -> Evidence:
    return evidence(problem, "correct", quote=f"quote {n}")


def entry(content: Skill | Mistake, problems: Sequence[str] = ("p",), provenance: Provenance = WRITTEN) -> MinedEntry:
    return MinedEntry(content=content, evidence=tuple(map(place, problems)), provenance=provenance)


def measured(skill_id: int, mistake_id: int, polarity: int) -> UsageRow:
    return UsageRow(
        run="r",
        step=1,
        problem_id="p",
        outcome="correct",
        skill_id=skill_id,
        mistake_id=mistake_id,
        support=0.1,
        polarity=polarity,
        gate_mass=0.1,
        weight=0.5,
        revision=1,
    )


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.create(tmp_path / "bank") as bank:
        yield bank


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = tmp_path_factory.mktemp("embedder")
    texts = [PARITY, MODULO, "Draw the figure and name its points", "number cases maximum minimum value function"]
    build_lexical_embedder(folder, texts)
    return Embedder.load(folder, device="cpu")


def fill(bank: Bank, *mined: MinedEntry | MinedPair) -> list[int]:
    ids = bank.add_mined(mined, actor="miner")
    return [i for i in ids if i is not None]


def clusters(bank: Bank, embedder: Embedder, threshold: float = 0.9) -> list[list[int]]:
    return sorted(group.ids for group in find_duplicates(bank, embedder, threshold).groups)


def state(bank: Bank) -> list[tuple[int, str, int | None, int]]:
    return [(e.id, e.status, e.superseded_by, e.evidence_count) for e in bank.entries()]


# --------------------------------------------------------------------------------------------------- what is found


def test_near_texts_of_a_kind_are_found_and_others_are_not(bank: Bank, embedder: Embedder) -> None:
    ids = fill(
        bank,
        entry(skill(PARITY)),
        entry(skill(f"{PARITY} now"), ["p", "q"]),
        entry(skill(MODULO)),
        entry(mistake(PARITY)),
        entry(mistake(f"{PARITY} again")),
    )
    found = near_duplicates(bank, embedder, 0.9)
    by_kind = {c.kind: c for c in found.clusters}
    assert {kind: [m.entry.id for m in c.members] for kind, c in by_kind.items()} == {
        "skill": [ids[1], ids[0]],
        "mistake": [ids[3], ids[4]],
    }
    assert by_kind["skill"].why == "rests on 2 places, the next on 1"
    assert by_kind["mistake"].why == "no other has more evidence or use; first in the alphabet"
    vectors = embedder.encode_documents([skill(PARITY).text(), skill(f"{PARITY} now").text()])
    assert by_kind["skill"].members[1].cosine == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-3)
    skills, mistakes = found.tallies
    assert (skills.entries, skills.near_pairs, skills.near_entries) == (3, 1, 2)
    assert (skills.left, skills.left_near_pairs, skills.left_near_share) == (2, 0, 0.0)
    assert skills.near_share == pytest.approx(1 / 3)
    assert (mistakes.entries, mistakes.left, found.total) == (2, 1, 2)


def test_who_is_kept(bank: Bank, embedder: Embedder) -> None:
    plain, used, edited, pinned = fill(
        bank,
        entry(skill(PARITY), ["p", "q", "r"]),
        entry(skill(f"{PARITY} now")),
        entry(skill(f"{PARITY} first")),
        entry(skill(f"{PARITY} too")),
    )
    assert clusters(bank, embedder)[0][0] == plain  # three places against one
    (other,) = fill(bank, entry(mistake("of the pair")))
    bank.record_usage([measured(used, other, 1)] * 3 + [measured(edited, other, -1)] * 3)
    (group,) = find_duplicates(bank, embedder, 0.9).groups
    assert group.ids[0] == used
    assert group.why == "more useful in training (+0.43 against +0.00)"
    assert not group.settled
    with bank.change(actor="ada") as change:
        change.edit(edited, skill(f"{PARITY} really"))
    (group,) = find_duplicates(bank, embedder, 0.9).groups
    assert (group.ids[0], group.why, group.settled) == (edited, "worded by a person", True)
    with bank.change(actor="ada") as change:
        change.pin([pinned])
    (group,) = find_duplicates(bank, embedder, 0.9).groups
    assert (group.ids[0], group.why, group.settled) == (pinned, "pinned", True)


def test_pinned_entries_are_never_merged_away(bank: Bank, embedder: Embedder) -> None:
    one, other, third = fill(bank, *(entry(skill(f"{PARITY}{end}")) for end in ("", " now", " too")))
    with bank.change(actor="ada") as change:
        change.pin([one, other])
    look = find_duplicates(bank, embedder, 0.9)
    (group,) = look.groups
    assert group.ids[1:] == [third]
    assert [(pair.one, pair.other, pair.why) for pair in look.apart] == [(one, other, "both are pinned")]
    assert look.tallies[0].left_near_pairs == 1
    merge_duplicates(bank, look, actor="ada")
    assert [bank.get(i).status for i in (one, other, third)] == ["active", "active", "superseded"]


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("prevents palindromes of length 2", "prevents palindromes of length 3", "one says 2, the other 3"),
        ("take the maximum value", "take the minimum value", "one says 'maximum', the other 'minimum'"),
        ("the number is even", "the number is not even", "only one says 'not'"),
        ("there are three cases", "there are two cases", "one says 3, the other 2"),
        ("count even numbers", "count odd numbers", "one says 'even', the other 'odd'"),
    ],
)
def test_contradictions_stay_two_however_near(
    bank: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, one: str, other: str, why: str
) -> None:
    monkeypatch.setattr(
        embedder, "encode_documents", lambda texts: np.eye(1, embedder.dim, dtype=np.float32).repeat(len(texts), 0)
    )
    ids = fill(bank, entry(skill(one)), entry(skill(other)))
    look = find_duplicates(bank, embedder, 0.99)
    assert (look.groups, [(pair.one, pair.other, pair.why) for pair in look.apart]) == ([], [(*ids, why)])
    assert look.tallies[0].near_pairs == look.tallies[0].left_near_pairs == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("last k digits: compute modulo 10", "last k digits: compute modulo 10, as in 5 to the 100"),
        ("maximum and minimum of a product", "combine the maximum and the minimum"),
        ("double-check the 3 cases", "check the 3 cases"),
        ("find one solution", "find a solution"),
    ],
)
def test_what_is_no_contradiction(one: str, other: str) -> None:
    assert contradiction(skill(one), skill(other)) is None


def test_examples_outside_the_claim_contradict_nothing() -> None:
    here = Skill(title="Last digits", principle="work modulo a power", when_to_apply="such as 5^100")
    there = here.model_copy(update={"when_to_apply": "such as 7^200, not less"})
    assert contradiction(here, there) is None


def test_contrast_mined_texts_need_equal_key_words(bank: Bank, embedder: Embedder) -> None:
    rule = "Compare the parity of the sides of each equation before looking for integer solutions"
    contrast = Provenance(miner="contrast")
    ids = fill(
        bank,
        entry(skill(rule), provenance=contrast),
        entry(skill(f"{rule} again"), provenance=contrast),
        entry(skill(f"So, {rule.lower()}"), provenance=contrast),
    )
    look = find_duplicates(bank, embedder, 0.9)
    assert [sorted(group.ids) for group in look.groups] == [[ids[0], ids[2]]]
    assert {pair.why for pair in look.apart} == {"mined by contrast, and their key words differ"}


def test_only_what_retrieval_may_return_takes_part(bank: Bank, embedder: Embedder) -> None:
    one, other = fill(bank, entry(skill(PARITY)), entry(skill(f"{PARITY} now")))
    assert clusters(bank, embedder) == [[one, other]]
    with bank.change(actor="guard") as change:
        change.flag(other, [Flag(rule="answer", reason="says 7")])
    assert clusters(bank, embedder) == []


def test_a_threshold_that_is_no_cosine_is_refused(bank: Bank, embedder: Embedder) -> None:
    with pytest.raises(InvalidOption, match=r"the least cosine is 2: it must be between -1 and 1"):
        find_duplicates(bank, embedder, 2)


WORD = st.sampled_from(["parity", "modulo", "digits", "angle", "circle", "sum", "two", "three", "not"])
WORDS = st.lists(WORD, min_size=3, max_size=6)


@settings(max_examples=10, deadline=None)
@given(texts=st.lists(WORDS.map(" ".join), min_size=2, max_size=12, unique=True), data=st.data())
def test_the_order_of_entries_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, embedder: Embedder, texts: list[str], data: st.DataObject
) -> None:
    found = []
    shuffled = data.draw(st.permutations(texts))
    for order in (texts, shuffled):
        with Bank.create(tmp_path_factory.mktemp("order") / "bank") as bank:
            names = dict(zip(fill(bank, *(entry(skill(text), [text]) for text in order)), order, strict=True))
            look = find_duplicates(bank, embedder, 0.8)
            found.append(
                sorted((names[group.ids[0]], *sorted(names[i] for i in group.ids[1:])) for group in look.groups)
            )
            # Merging leaves nothing to merge, and says beforehand what stays near.
            left = look.tallies[0].left_near_pairs
            merge_duplicates(bank, look, actor="test")
            again = find_duplicates(bank, embedder, 0.8)
            assert (again.groups, again.tallies[0].near_pairs) == ([], left)
    assert found[0] == found[1]


# ------------------------------------------------------------------------------------------ looking again and again


def test_looking_again_compares_only_what_is_new(
    bank: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    search = duplicates.near_pairs

    def counting(vectors_ND: Any, floor: float, **known: Any) -> Any:
        pairs = search(vectors_ND, floor, **known)
        before = known["known"]
        compared.append((0 if before is None else before.of_rows, len(vectors_ND)))
        return pairs

    monkeypatch.setattr(duplicates, "near_pairs", counting)

    def agrees(threshold: float) -> list[list[int]]:
        kept = near_duplicates(bank, embedder, threshold)
        fresh = find_duplicates(bank, embedder, threshold).described(bank)
        assert kept == fresh
        return [[m.entry.id for m in c.members] for c in kept.clusters]

    one, other, third = fill(bank, *(entry(skill(f"{PARITY}{end}")) for end in ("", " now", " too")))
    assert [sorted(ids) for ids in agrees(0.9)] == [[one, other, third]]
    agrees(0.8)
    assert agrees(1.0) == []
    assert compared == [(0, 3), (0, 0)]  # skills and mistakes, once
    (fourth,) = fill(bank, entry(skill(f"{PARITY} first")))
    assert sorted(agrees(0.8)[0]) == [one, other, third, fourth]
    assert compared[2:] == [(3, 4)]
    with bank.change(actor="ada") as change:
        change.set_status([one], "disabled")
    assert sorted(agrees(0.8)[0]) == [other, third, fourth]
    assert len(compared) == 3  # who leaves costs nothing
    with bank.change(actor="ada") as change:
        change.edit(other, skill(MODULO))
    assert sorted(agrees(0.8)[0]) == [third, fourth]
    with bank.change(actor="ada") as change:
        change.set_status([one], "active")
    assert sorted(agrees(0.8)[0]) == [one, third, fourth]
    assert agrees(0.5) == agrees(0.5)  # under the floor: compared afresh


def test_a_limit_cuts_the_list_and_not_the_count(bank: Bank, embedder: Embedder) -> None:
    fill(bank, *(entry(skill(f"{text}{end}")) for text in (PARITY, MODULO) for end in ("", " now")))
    found = near_duplicates(bank, embedder, 0.9, 1)
    assert (len(found.clusters), found.total) == (1, 2)


# ----------------------------------------------------------------------------------------------- merging and undoing


def test_a_merge_adds_up_and_an_undo_brings_everything_back(bank: Bank, embedder: Embedder) -> None:
    wrong = mistake("sides of different parity compared")
    pairs = [
        MinedPair(
            skill=skill(f"{PARITY}{end}"),
            mistake=wrong if n < 2 else mistake("digits counted from the wrong end"),
            skill_evidence=tuple(map(place, problems)),
            mistake_evidence=(place("w", n),),
            provenance=WRITTEN,
        )
        for n, (end, problems) in enumerate([("", ["p", "q"]), (" now", ["q", "r"]), (" too", ["s"])])
    ]
    first, second, third = fill(bank, *pairs)
    keep, other, last = (bank.get(i).content.skill_id for i in (first, second, third))  # type: ignore[union-attr]
    other_mistake = bank.get(third).content.mistake_id  # type: ignore[union-attr]
    bank.record_usage([measured(other, 2, 1), measured(last, other_mistake, -1), measured(keep, 2, 1)])
    before = state(bank)
    look = find_duplicates(bank, embedder, 0.9)
    preview = merge_duplicates(bank, look, actor="ada", preview=True)
    assert (state(bank), bank.revision, preview.revision) == (before, 1, None)
    done = merge_duplicates(bank, look, actor="ada")
    assert preview == done.model_copy(update={"revision": None})
    assert (done.superseded, done.pairs, done.left_pairs, done.revision) == (2, 3, 2, 2)
    assert bank.revisions()[0].reason == "duplicates at cosine 0.9 and above"

    assert {bank.get(i).superseded_by for i in (other, last)} == {keep}
    assert {e.problem_id for e in bank.evidence(keep)} == {"p", "q", "r", "s"}
    assert bank.get(keep).evidence_count == 4  # q's place counts once
    assert (bank.usage(keep).helpful, bank.usage(keep).harmful) == (2, 1)
    assert bank.retrievable("skill") == [keep]
    assert bank.get(second).superseded_by == first
    successor = bank.get(third).superseded_by
    assert successor is not None
    assert bank.get(successor).content.model_dump() == {"skill_id": keep, "mistake_id": other_mistake}

    bank.undo(done.revision, actor="ada")
    assert [row for row in state(bank) if row[0] <= len(before)] == before
    assert bank.get(successor).status == "retired"
    assert bank.retrievable("skill") == [keep, other, last]
    assert bank.usage(keep).total == 1


def test_merging_again_never_joins_what_was_too_far(
    bank: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    degrees = {"alpha": 0, "beta": 20, "gamma": -20}

    def on_a_circle(texts: Sequence[str]) -> np.ndarray[Any, Any]:
        turns = [np.radians(degrees[text.split()[-1]]) for text in texts]
        vectors = np.zeros((len(turns), embedder.dim), dtype=np.float32)
        vectors[:, 0], vectors[:, 1] = np.cos(turns), np.sin(turns)
        return vectors

    monkeypatch.setattr(embedder, "encode_documents", on_a_circle)
    alpha, beta, gamma = fill(bank, entry(skill("alpha"), ["p", "q"]), entry(skill("beta")), entry(skill("gamma")))
    done = merge_duplicates(bank, find_duplicates(bank, embedder, 0.9), actor="ada")
    assert bank.get(beta).superseded_by == alpha
    assert done.found.tallies[0].left_near_pairs == 1
    again = find_duplicates(bank, embedder, 0.9)
    assert again.groups == []
    (apart,) = again.apart
    assert (apart.one, apart.other) == (alpha, gamma)
    assert apart.cosine == pytest.approx(np.cos(np.radians(20)), abs=1e-4)
    assert apart.why.startswith("other members of their clusters are too far apart")


def test_an_entry_changed_meanwhile_stops_the_merge(bank: Bank, embedder: Embedder) -> None:
    one, other = fill(bank, entry(skill(PARITY)), entry(skill(f"{PARITY} now")))
    look = find_duplicates(bank, embedder, 0.9)
    with bank.change(actor="bob") as change:
        change.edit(other, skill(MODULO))
    with pytest.raises(InvalidEntry, match=rf"entry {other} was changed in revision 2, after the bank was looked at"):
        merge_duplicates(bank, look, actor="ada")
    assert bank.get(one).status == bank.get(other).status == "active"


def test_a_bank_without_duplicates_makes_no_revision(bank: Bank, embedder: Embedder) -> None:
    fill(bank, entry(skill(PARITY)), entry(skill(MODULO)))
    done = merge_duplicates(bank, find_duplicates(bank, embedder, 0.9), actor="ada")
    assert (done.revision, done.superseded, bank.revision) == (None, 0, 1)
