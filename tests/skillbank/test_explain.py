"""Filters, the bound, what is remembered, and the reasons for what a problem is not given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sgsd.cli import app
from skillbank.errors import InvalidOption
from skillbank.index.embed import Embedder
from skillbank.index.vectors import adopt
from skillbank.records import Flag, Mistake, Pair, ProblemText, RetrievedPair, Skill
from skillbank.retrieve import Retriever, Settings, open_retriever
from skillbank.retrieve.abstain import _youden, calibrate
from skillbank.retrieve.explain import Explanation, explain
from skillbank.store import Bank, UsageRow
from skillbank.store.query import Query

from .made_up import OPERATIONS, mined

PROBLEM = "What is 5 zorp 7 modulo 23?"


def ids(pairs: list[RetrievedPair]) -> list[tuple[int, int]]:
    return [(pair.skill_id, pair.mistake_id) for pair in pairs]


@pytest.fixture
def adopted(bank: Bank, embedder: Embedder) -> Bank:
    adopt(bank, embedder.name, device="cpu")
    return bank


# ---- filters ---------------------------------------------------------------------------------------------------------


def test_only_what_fits_a_query_is_used(adopted: Bank, embedder: Embedder) -> None:
    with adopted.change(actor="me") as change:
        change.tag([4, 5, 7, 8], add=["good"])
    for mode in ("similar", "random"):
        settings = Settings(k=2, mode=mode, where=Query(tag="good"))  # type: ignore[arg-type]
        retriever = Retriever(adopted, embedder, settings)
        pairs = retriever.retrieve([PROBLEM])[0]
        assert {i for pair in ids(pairs) for i in pair} == {4, 5, 7, 8}
    with adopted.change(actor="me") as change:
        change.tag([4, 5, 7, 8], remove=["good"])
        change.tag([1, 2, 10, 11], add=["good"])
    assert {i for pair in ids(retriever.retrieve([PROBLEM])[0]) for i in pair} == {1, 2, 10, 11}


def test_entries_by_their_use_in_training(adopted: Bank, embedder: Embedder) -> None:
    row = UsageRow(
        run="r", step=1, problem_id="q", outcome="correct", skill_id=4, mistake_id=8, support=0.1, polarity=1,
        gate_mass=0.1, weight=0.5, revision=1,
    )  # fmt: skip
    adopted.record_usage([row, row.model_copy(update={"skill_id": 1, "mistake_id": 2, "polarity": -1})])
    retriever = open_retriever(adopted.path, k=1, where="utility:>0", device="cpu")
    with retriever.bank:
        assert ids(retriever.retrieve([PROBLEM])[0]) == [(4, 8)]


# ---- the bound -------------------------------------------------------------------------------------------------------


def test_nothing_is_said_where_nothing_is_near(adopted: Bank, embedder: Embedder) -> None:
    retriever = Retriever(adopted, embedder, Settings(k=4, min_cosine=0.5))
    near, far = retriever.retrieve([PROBLEM, "a train leaves at noon"])
    assert ids(near) == [(1, 2)]
    assert near[0].weight == 1.0
    assert far == []


def test_youden_by_hand() -> None:
    own, others = np.array([0.3, 0.6, 0.7, 0.8]), np.array([0.1, 0.2, 0.5, 0.65])
    # bound 0.3: 1 - 0.5; bound 0.6: 0.75 - 0.25; bound 0.7: 0.5 - 0
    assert _youden(own, others) == 0.3  # the lowest of equals: rather one too many
    assert _youden(own, np.array([0.1, 0.2, 0.5])) == 0.6


@pytest.fixture
def with_problems(tmp_path: Path, embedder: Embedder) -> Bank:
    """24 pairs on 24 problems of six operations, whose texts the bank keeps."""
    bank = Bank.create(tmp_path / "problems")
    names = [(operation, n) for operation in OPERATIONS for n in range(4)]
    bank.add_mined([mined(f"{operation} {'abcd'[n]}", f"p-{operation}-{n}") for operation, n in names], actor="miner")
    bank.record_problems(
        ProblemText(problem_id=f"p-{operation}-{n}", problem=f"What is 5 {operation} {n}?") for operation, n in names
    )
    adopt(bank, embedder.name, device="cpu")
    return bank


def test_auto_reads_the_bound_off_the_bank(with_problems: Bank, embedder: Embedder) -> None:
    retriever = Retriever(with_problems, embedder, Settings(k=4, min_cosine="auto"))
    near, far = retriever.retrieve(["What is 9 blen 9?", "a train leaves at noon"])
    assert near
    assert {pair.skill.title.split()[2] for pair in near} == {"blen"}
    assert far == []
    assert retriever.index is not None
    found = calibrate(with_problems, embedder, {kind: retriever.index.of(kind) for kind in ("skill", "mistake")})
    assert retriever.bounds == {kind: calibration.min_cosine for kind, calibration in found.items()}
    for calibration in found.values():
        assert calibration.problems == 24
        assert calibration.own_kept == 1.0  # a problem's own entries speak of its operation
        assert calibration.others_kept < 0.3  # of the others, one in six at most does


def test_a_bound_stays_for_a_run(with_problems: Bank, embedder: Embedder) -> None:
    retriever = Retriever(with_problems, embedder, Settings(k=1, min_cosine="auto"))
    retriever.retrieve([PROBLEM])
    before = dict(retriever.bounds)
    with_problems.add_mined([mined("gnarl", "p-zorp-0")], actor="miner")
    retriever.retrieve([PROBLEM])
    assert retriever.bounds == before


def test_auto_wants_problems_to_read_it_off(adopted: Bank, embedder: Embedder) -> None:
    retriever = Retriever(adopted, embedder, Settings(k=1, min_cosine="auto"))
    with pytest.raises(InvalidOption, match=r"0 skills that rest on one of 0 problems .* 10 are needed: give a number"):
        retriever.retrieve([PROBLEM])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairing": "best"}, "pairing is 'best': choose 'rank' or 'mined' or 'match'"),
        ({"diversity": 1.0}, "diversity is 1.0"),
        ({"diversity": float("nan")}, "diversity is nan"),
        ({"min_cosine": 1.5}, "min_cosine is 1.5: choose -1 to 1"),
        ({"min_cosine": float("nan")}, "min_cosine is nan"),
        ({"mode": "random", "pairing": "match"}, "mode is 'random', which looks at no cosine, but pairing is 'match'"),
        ({"mode": "random", "min_cosine": 0.1}, "min_cosine 0.1"),
    ],
)
def test_settings_out_of_bounds_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Settings(**options)  # type: ignore[arg-type]


# ---- what is remembered ----------------------------------------------------------------------------------------------


def test_a_prefetched_training_set_is_neither_embedded_nor_searched_again(
    adopted: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillbank.retrieve.retriever.BATCH", 4)
    problems = [f"What is {n} {operation} {n + 1}?" for n, operation in enumerate(OPERATIONS)]
    problem_ids = [f"p-{operation}" for operation in OPERATIONS]
    fresh = [
        Retriever(adopted, embedder, Settings(k=3)).retrieve([problem], [problem_id])[0]
        for problem, problem_id in zip(problems, problem_ids, strict=True)
    ]
    retriever = Retriever(adopted, embedder, Settings(k=3))
    assert retriever.prefetch(problems, problem_ids) == 6
    asked: list[str] = []
    encode = embedder.encode_queries
    monkeypatch.setattr(embedder, "encode_queries", lambda texts: asked.extend(texts) or encode(texts))
    order = [5, 0, 0, 3]
    pools = retriever.retrieve([problems[n] for n in order], [problem_ids[n] for n in order])
    assert asked == []
    for n, pool in zip(order, pools, strict=True):
        assert ids(pool) == ids(fresh[n])
        assert [pair.weight for pair in pool] == pytest.approx([pair.weight for pair in fresh[n]], abs=1e-6)
    retriever.retrieve(problems[:1], ["another-id"])  # another problem to leave out
    assert asked == problems[:1]
    with adopted.change(actor="me") as change:
        change.set_status([4], "disabled")
    assert all(4 not in pair for pair in ids(retriever.retrieve(problems[:1], problem_ids[:1])[0]))
    assert asked == [problems[0], problems[0]]


# ---- reasons ---------------------------------------------------------------------------------------------------------


def reasons(explained: Explanation) -> dict[int, str]:
    return {one.entry.id: one.reason for one in explained.unused}


def test_every_reason(adopted: Bank, embedder: Embedder) -> None:
    with adopted.change(actor="me") as change:
        own = change.add(Skill(title="zorp", principle="zorp itself"))
        quarantined = change.add(Mistake(description="zorp is 42"), flags=[Flag(rule="answer", reason="it says 42")])
        change.set_status([12], "disabled")  # framp's pair: its sides leave retrieval though they are active
        change.set_status([13], "retired")
        change.supersede(7, 4)
        change.add(Pair(skill_id=16, mistake_id=17), status="active")
    retriever = Retriever(adopted, embedder, Settings(k=2, min_cosine=0.0))
    explained = explain(retriever, PROBLEM, problem_id="p-zorp", n=20)
    assert [ids(list(explained.pairs))[0][0]] == [own]
    found = {one.entry.id: one for one in explained.unused}
    assert found[1].reason == found[2].reason == "own"
    assert found[1].rank is not None
    assert (found[quarantined].reason, found[quarantined].detail) == ("status", "quarantined (answer)")
    assert (found[quarantined].rank, found[quarantined].cosine > 0.5) == (None, True)
    assert (found[7].reason, found[7].detail) == ("status", "superseded by 4")
    assert found[13].detail == "retired"
    assert found[10].reason == found[11].reason == "pairs"
    used = {i for pair in ids(list(explained.pairs)) for i in pair}
    everything = {e.id for e in adopted.entries() if e.kind != "pair"}
    assert set(found) == everything - used
    rest = {one.reason for one in explained.unused if one.entry.id not in {1, 2, 7, 10, 11, 13, quarantined}}
    assert rest <= {"bound", "counterpart"}  # above the bound there is one mistake, and so one pair
    assert all(one.reason != "bound" or one.cosine < 0 for one in explained.unused)
    cosines = [one.cosine for one in explained.unused if one.entry.kind == "skill"]
    assert cosines == sorted(cosines, reverse=True)
    assert explained.not_compared == 0
    assert explained.revision == adopted.revision


def test_reasons_of_filter_bound_and_counterpart(adopted: Bank, embedder: Embedder) -> None:
    with adopted.change(actor="me") as change:
        change.tag([1, 4, 2], add=["good"])
    with pytest.warns(UserWarning, match="2 skills and 1 mistakes that fit tag:good: a problem gets at most 1 pairs"):
        explained = explain(Retriever(adopted, embedder, Settings(k=3, where=Query(tag="good"))), PROBLEM)
    assert ids(list(explained.pairs)) == [(1, 2)]
    found = reasons(explained)
    assert found.pop(4) == "counterpart"
    assert set(found.values()) == {"filter"}
    bounded = explain(Retriever(adopted, embedder, Settings(k=3, min_cosine=0.5)), PROBLEM)
    assert set(reasons(bounded).values()) == {"bound"}
    assert bounded.bounds == {"skill": 0.5, "mistake": 0.5}


def test_reasons_of_pairing_and_diversity(adopted: Bank, embedder: Embedder) -> None:
    with adopted.change(actor="me") as change:
        copy = change.add(Skill(title="Step on zorp", principle="zorp means double the first and add the second once"))
        change.add(Pair(skill_id=copy, mistake_id=5), status="disabled")
        change.add(Pair(skill_id=copy, mistake_id=2), status="active")
        lonely = change.add(Skill(title="zorp", principle="zorp"))
    diverse = explain(Retriever(adopted, embedder, Settings(k=2, diversity=0.9)), PROBLEM, n=3)
    alike = {one.entry.id: one for one in diverse.unused if one.reason == "alike"}
    assert alike
    assert all(f"resembles {one.entry.kind}" in one.detail for one in alike.values())
    as_mined = explain(Retriever(adopted, embedder, Settings(k=1, pairing="mined")), PROBLEM)
    assert reasons(as_mined)[lonely] == "unpaired"
    assert reasons(as_mined)[4] == "rank"
    with adopted.change(actor="me") as change:  # the nearest mistake is out of use with the only skill of k = 1
        change.add(Pair(skill_id=lonely, mistake_id=2), status="disabled")
        change.add(Pair(skill_id=lonely, mistake_id=5))
    by_rank = explain(Retriever(adopted, embedder, Settings(k=1)), PROBLEM)
    assert by_rank.pairs[0].skill_id == lonely
    assert reasons(by_rank)[2] == "pair disabled"
    matched = explain(Retriever(adopted, embedder, Settings(k=1, pairing="match")), PROBLEM)
    assert "nearest mistake of none" in next(u.detail for u in matched.unused if u.entry.kind == "mistake")


def test_random_retrieval_has_no_reasons(bank: Bank) -> None:
    with pytest.raises(InvalidOption, match="mode is 'random'"):
        explain(Retriever(bank, None, Settings(mode="random")), PROBLEM)


# ---- on the command line ---------------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str]:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["bank", *arguments])
    return result.exit_code, result.output


def test_why_for_people_and_for_programs(adopted: Bank) -> None:
    with adopted.change(actor="me") as change:
        change.set_status([1], "disabled")
    code, text = run("why", PROBLEM, "--bank", str(adopted.path), "--k", "2", "--others", "2")
    assert code == 0
    assert "not used, nearest first:" in text
    assert "skill 1: Step on zorp" in text
    assert "disabled" in text
    code, text = run("why", PROBLEM, "--bank", str(adopted.path), "--k", "2", "--min-cosine", "0.2", "--json")
    payload = json.loads(text)
    assert payload["bounds"] == {"skill": 0.2, "mistake": 0.2}
    assert payload["settings"]["k"] == 2
    assert payload["unused"][0]["entry"]["id"] == 1
    assert payload["unused"][0]["reason"] == "status"


def test_retrieve_takes_the_settings(adopted: Bank) -> None:
    bank = ("--bank", str(adopted.path), "--json", "--k", "2")
    found = {}
    for pairing in ("rank", "mined", "match"):
        found[pairing] = json.loads(run("retrieve", PROBLEM, *bank, "--pairing", pairing)[1])["pairs"]
    assert all(pair["pair_id"] is not None for pair in found["mined"])
    assert len(json.loads(run("retrieve", PROBLEM, *bank, "--min-cosine", "0.5")[1])["pairs"]) == 1
    with pytest.warns(UserWarning, match="0 skills and 0 mistakes that fit status:disabled"):
        assert json.loads(run("retrieve", PROBLEM, *bank, "--where", "status:disabled")[1])["pairs"] == []
    assert run("retrieve", PROBLEM, *bank, "--min-cosine", "near")[0] == 2
