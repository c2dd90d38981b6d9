"""A window of training into the bank: near problems lend attempts, the best-evidenced comes in, the guard looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillbank.building.window import MinedWindow, StoredWindow, WindowSettings, mine_window, store_window
from skillbank.index import VectorIndex
from skillbank.index.embed import Embedder
from skillbank.index.vectors import bank_embedder
from skillbank.mine.model.complete import FromFunction, Reply, Request
from skillbank.mine.near import FIGURES, mine_near
from skillbank.records import Evidence, MinedPair, Mistake, Outcome, Rollout, Skill
from skillbank.retrieve import Retriever
from skillbank.store import Bank, Query

from .writer import written

SETTINGS = WindowSettings(run="train here")


def rollout(number: int, problem: str, completion: str, outcome: Outcome, **more: str) -> Rollout:
    return Rollout(
        rollout_id=f"r{number}",
        problem_id=problem,
        problem=f"What is {problem.split('-')[0]} of {problem.split('-')[1]}?",
        completion=completion,
        outcome=outcome,
        **more,
    )


def attempts(*rules: tuple[str, str, Outcome]) -> list[Rollout]:
    """(problem, rule, outcome) -> one attempt each."""
    return [
        rollout(i, problem, f"{problem.split('-')[0]} means {rule}", o) for i, (problem, rule, o) in enumerate(rules)
    ]


def said(mined: MinedWindow) -> list[tuple[str, str]]:
    pairs = [item for item in mined.found if isinstance(item, MinedPair)]
    assert len(pairs) == len(mined.found)
    return [(pair.skill.principle, pair.mistake.description) for pair in pairs]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    """A bank with a pair about blick, whose lexical embedder knows the words of the problems."""
    evidence = {
        "skill_evidence": (Evidence(rollout_id="old1", problem_id="blick-1", outcome="correct", quote="blick"),),
        "mistake_evidence": (Evidence(rollout_id="old2", problem_id="blick-1", outcome="wrong", quote="blick"),),
    }
    with Bank.create(tmp_path / "bank") as opened:
        skill = Skill(
            title="Step on blick", principle="blick means rotate", when_to_apply="The problem mentions blick."
        )
        opened.add_mined(
            [MinedPair(skill=skill, mistake=Mistake(description="blick means reverse"), **evidence)], actor="test"
        )
        yield opened


@pytest.fixture
def embedder(bank: Bank) -> Embedder:
    problems = [f"What is {name} of {code}?" for name in ("zorp", "blick", "wug") for code in range(527, 537)]
    return bank_embedder(bank, problems=problems)


def put(bank: Bank, mined: MinedWindow, most: int = 5) -> StoredWindow:
    with bank.change(actor="train here") as change:
        return store_window(bank, change, mined, max_new={"skill": most, "mistake": most})


# ---- near problems ---------------------------------------------------------------------------------------------------


def test_one_rollout_a_problem_is_contrasted_with_near_problems(bank: Bank, embedder: Embedder) -> None:
    window = attempts(
        ("zorp-527", "triple", "correct"),
        ("zorp-528", "reverse", "wrong"),
        ("wug-529", "increase", "correct"),
        ("wug-530", "unclear", "unverifiable"),
    )
    assert said(mine_window(bank, window, SETTINGS)) == []  # without an embedder no two problems are near
    mined = mine_window(bank, window, SETTINGS, embedder=embedder)
    assert said(mined) == [("zorp means triple", "zorp means reverse")]
    (pair,) = mined.found
    assert isinstance(pair, MinedPair)
    assert pair.origin == "online"
    assert [place.problem_id for place in pair.skill_evidence] == ["zorp-527"]  # where it was seen, not where it serves
    assert [place.problem_id for place in pair.mistake_evidence] == ["zorp-528"]
    assert {fate.rollout_id: fate.fate for fate in mined.fates} == {
        "r0": "accepted",
        "r1": "accepted",
        "r2": "rejected",
        "r3": "rejected",
    }


def test_figures_are_not_compared_across_problems() -> None:
    wrong = [rollout(0, "sum-1", "3 + 4 = 8", "wrong")]
    right = [rollout(1, "sum-2", "12 + 30 = 42", "correct")]
    (first, second) = mine_near({"sum-1": wrong, "sum-2": right}, {"sum-1": ["sum-2"]}, {"r0", "r1"})
    assert not first.contrasts
    assert not second.contrasts
    assert first.rejected[0][1] in (FIGURES, "nothing in common among right attempts", "unrelated steps")


def test_a_rule_that_is_wrong_at_most_problems_is_dropped(bank: Bank, embedder: Embedder) -> None:
    """One attempt was right by accident; the other problems say so."""
    rules = [("zorp-527", "reverse", "correct"), ("zorp-528", "triple", "wrong")]
    rules += [(f"zorp-{code}", "triple", "correct") for code in (529, 530, 531)]
    rules += [(f"zorp-{code}", "reverse", "wrong") for code in (532, 533)]
    window = attempts(*rules)  # type: ignore[arg-type]
    assert said(mine_window(bank, window, SETTINGS, embedder=embedder)) == [("zorp means triple", "zorp means reverse")]


def test_earlier_and_stored_rollouts_are_heard_and_not_mined_again(bank: Bank, embedder: Embedder) -> None:
    wrong, right = attempts(("zorp-527", "reverse", "wrong"), ("zorp-527", "triple", "correct"))
    assert said(mine_window(bank, [wrong], SETTINGS, embedder=embedder)) == []
    both = mine_window(bank, [wrong], SETTINGS, earlier=[right], embedder=embedder)
    assert said(both) == [("zorp means triple", "zorp means reverse")]
    assert {fate.rollout_id for fate in both.fates} == {"r0", "r1"}  # the earlier one bears something now
    other = rollout(7, "wug-529", "wug means increase", "correct")
    assert said(mine_window(bank, [other], SETTINGS, earlier=[wrong, right], embedder=embedder)) == []

    put(bank, both)
    again = rollout(8, "zorp-527", "zorp means double", "wrong")
    assert said(mine_window(bank, [again], SETTINGS, embedder=embedder)) == []  # its own run's, taken back or not
    theirs = WindowSettings(run="train there")
    assert said(mine_window(bank, [again], theirs)) == [("zorp means triple", "zorp means double")]
    near = rollout(9, "zorp-533", "zorp means double", "wrong")
    assert said(mine_window(bank, [near], theirs, embedder=embedder)) == []
    entries = bank.ids(Query(text="zorp", kind="skill"))
    found = mine_window(bank, [near], theirs, entries=entries, embedder=embedder)
    assert said(found) == [("zorp means triple", "zorp means double")]


# ---- what comes in ---------------------------------------------------------------------------------------------------


def test_the_best_evidenced_come_in_and_the_rest_is_counted(bank: Bank, embedder: Embedder) -> None:
    rules = [("zorp-527", "triple", "correct"), ("zorp-528", "reverse", "wrong"), ("wug-529", "increase", "correct")]
    rules += [(f"wug-{code}", "rotate", "wrong") for code in (530, 531)]
    mined = mine_window(bank, attempts(*rules), SETTINGS, embedder=embedder)  # type: ignore[arg-type]
    assert said(mined)[0] == ("wug means increase", "wug means rotate")  # three rollouts against two
    before = bank.revision
    stored = put(bank, mined, most=1)
    assert bank.revision == before + 1
    assert (stored.left_out, stored.known, stored.quarantined) == (1, 0, 0)
    new = {entry.id: entry for entry in bank.entries(Query(origin="online"))}
    assert {entry.kind for entry in new.values()} == {"skill", "mistake", "pair"}
    assert {kind: len(ids) for kind, ids in stored.added.items()} == {"skill": 1, "mistake": 1}
    assert new[stored.added["skill"][0]].content.text().startswith("Step on wug\nwug means increase")  # type: ignore[union-attr]
    assert bank.revisions(limit=1)[0].actor == "train here"

    again = put(bank, mined, most=1)  # the same words are known, the other pair has room now
    assert (again.known, again.left_out) == (1, 0)
    assert bank.count(Query(origin="online", kind="skill")) == 2
    assert put(bank, mined).added == {"skill": (), "mistake": ()}
    assert put(bank, mined, most=0).left_out == 0


def test_what_the_bank_says_nearly_is_not_said_twice(bank: Bank, embedder: Embedder) -> None:
    window = [
        rollout(0, "blick-527", "Blick means rotate!", "correct"),
        rollout(1, "blick-528", "blick means triple", "wrong"),
    ]
    index = VectorIndex.open(bank, embedder)
    loose = SETTINGS.model_copy(update={"merge_cosine": 0.6})
    assert said(mine_window(bank, window, loose, embedder=embedder))[0][0] == "Blick means rotate!"
    mined = mine_window(bank, window, loose, embedder=embedder, index=index)
    assert said(mined)[0][0] == "blick means rotate"
    put(bank, mined)
    (skill,) = bank.entries(Query(kind="skill"))
    assert {place.rollout_id for place in bank.evidence(skill.id)} == {"old1", "r0"}


def test_disabled_words_stay_disabled(bank: Bank) -> None:
    with bank.change(actor="me") as change:
        change.set_status([1], "disabled")
    window = attempts(("blick-527", "rotate", "correct"), ("blick-527", "triple", "wrong"))
    put(bank, mine_window(bank, window, SETTINGS))
    assert bank.get(1).status == "disabled"
    assert bank.get(1).evidence_count == 2


def test_the_guard_holds_back_what_leaks(bank: Bank) -> None:
    window = [
        rollout(0, "zorp-527", "zorp means triple, so 561", "correct", reference="561", answer="561"),
        rollout(1, "zorp-527", "zorp means reverse, so 725", "wrong", reference="561", answer="725"),
    ]

    def write(request: Request) -> Reply:
        text = written("\n".join(message.content for message in request.messages))
        return Reply(text=text.replace("works.", "comes to 561, which is the answer."))

    stored = put(bank, mine_window(bank, window, SETTINGS, complete=FromFunction(write, model="writer")))
    (held,) = (bank.get(i) for i in stored.added["skill"])
    assert (held.status, held.flags[0].rule) == ("quarantined", "answer_value")
    assert stored.quarantined >= 1
    assert held.id not in bank.retrievable("skill")


def test_no_problem_is_given_what_it_alone_taught(bank: Bank, embedder: Embedder) -> None:
    window = attempts(("zorp-527", "triple", "correct"), ("zorp-527", "reverse", "wrong"))
    put(bank, mine_window(bank, window, SETTINGS, embedder=embedder))
    retriever = Retriever(bank, embedder)
    with pytest.warns(UserWarning, match="at most"):
        own, other = retriever.retrieve(["What is zorp of 527?", "What is zorp of 612?"], ["zorp-527", "zorp-612"])
    assert "zorp means triple" not in {pair.skill.principle for pair in own}
    assert "zorp means triple" in {pair.skill.principle for pair in other}


# ---- a model writes --------------------------------------------------------------------------------------------------


def test_a_model_is_shown_both_outcomes_first_and_so_many_problems(bank: Bank) -> None:
    window = attempts(
        ("wug-529", "increase", "correct"),
        ("blick-530", "reverse", "wrong"),
        ("zorp-527", "triple", "correct"),
        ("zorp-527", "reverse", "wrong"),
    )
    asked: list[str] = []

    def write(request: Request) -> Reply:
        text = "\n".join(message.content for message in request.messages)
        asked.append(text)
        return Reply(text=written(text))

    few = SETTINGS.model_copy(update={"max_problems": 2})
    mined = mine_window(bank, window, few, complete=FromFunction(write, model="writer"))
    assert mined.notices["problems beyond those shown to the writer"] == 1
    assert len(asked) == 2
    assert any("zorp of 527" in text for text in asked)
    assert any("blick of 530" in text for text in asked)  # what failed before what went well
    kinds = sorted(type(item).__name__ for item in mined.found)
    assert kinds == ["MinedEntry", "MinedPair"]
    put(bank, mined)
    new = bank.entries(Query(origin="online"))
    assert {entry.provenance.model for entry in new if entry.provenance} == {"writer"}
    assert Counter(entry.kind for entry in new) == {"skill": 1, "mistake": 2, "pair": 1}

    mine_window(bank, window, few, complete=FromFunction(write, model="writer"))
    assert len(asked) == 2  # the bank remembers the calls
