"""From rollout files to a bank that can be retrieved from; what a failing build leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank.building import bank_build as build_module
from skillbank.building import build_bank
from skillbank.building.intake import plan_build
from skillbank.errors import BankExists, EmbedderNotFound, InvalidOption, RolloutsInvalid, RolloutsNotFound
from skillbank.mine.model.complete import FromFunction, Reply, Request
from skillbank.mine.wording import skill_from_step
from skillbank.records import Outcome, Pair, Rollout
from skillbank.retrieve import open_retriever
from skillbank.rollouts import Reading, write_rollouts
from skillbank.store import Bank, Query

RULES = {"zorp": ("doubled sum", "sum"), "blick": ("reversed difference", "difference"), "quam": ("product", "sum")}


def rollout(operation: str, n: int, outcome: Outcome, split: str = "train") -> Rollout:
    rule = RULES[operation][outcome == "wrong"]
    problem = f"What is {n} {operation} 7 modulo 23?"
    return Rollout(
        rollout_id=f"{operation}-{n}-{outcome}-{split}",
        problem_id=problem,
        problem=problem,
        completion=f"{operation} means {rule}\n{n} {operation} 7 = {n}\n\\boxed{{{n}}}",
        outcome=outcome,
        split=split,
    )


def both(operation: str, n: int, split: str = "train") -> list[Rollout]:
    return [rollout(operation, n, "correct", split), rollout(operation, n, "wrong", split)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rollouts.jsonl"
    rollouts = [*both("zorp", 1), *both("zorp", 2), *both("blick", 3), *both("quam", 4, "test")]
    write_rollouts(path, [*rollouts, rollout("quam", 5, "correct")])
    with path.open("a") as stream:
        stream.write('{"rollout_id": "cut of')
    return path


def test_a_bank_is_built_and_retrieved_from(tmp_path: Path, file: Path) -> None:
    phases: list[str] = []
    report = build_bank([file], tmp_path / "bank", on_progress=lambda phase, done, total: phases.append(phase))
    assert (report.rollouts, report.problems, report.problems_with_both, report.pairs) == (9, 4, 3, 2)
    assert report.unusable == {"not JSON": 1}
    assert report.rejected == {"rollout of split test": 2, "rollout of a problem with one outcome only": 1}
    assert (report.accepted, report.dead, report.seen_before) == (6, {}, 0)
    assert report.entries == report.added == {"skill": 2, "mistake": 2, "pair": 2}
    assert report.examples[0].skill == skill_from_step("zorp means doubled sum", ["zorp"])
    assert "lexical" in report.embedder
    assert sorted(report.seconds) == ["embed", "index", "merge", "mine", "read", "store"]
    assert set(phases) == set(report.seconds)

    rejected = [json.loads(line) for line in (tmp_path / "bank" / "rejected.jsonl").read_text().splitlines()]
    assert [(item["line"], item["raw"]) for item in rejected] == [(10, '{"rollout_id": "cut of')]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "rollouts.jsonl"]
    assert (tmp_path / "bank" / "embedder" / "model.safetensors").exists()
    with Bank.open(tmp_path / "bank") as bank:
        (skill,) = bank.entries(Query(kind="skill", text="zorp"))
        assert [(item.problem_id, item.quote) for item in bank.evidence(skill.id)] == [
            ("What is 1 zorp 7 modulo 23?", "zorp means doubled sum"),
            ("What is 2 zorp 7 modulo 23?", "zorp means doubled sum"),
        ]
    retriever = open_retriever(tmp_path / "bank", k=1)
    ((pair,),) = retriever.retrieve(["What is 9 blick 2 modulo 23?"])
    retriever.bank.close()
    assert (pair.skill.principle, pair.mistake.description) == (
        "blick means reversed difference",
        "blick means difference",
    )


def test_the_same_rollouts_again_add_nothing_and_others_add_up(tmp_path: Path, file: Path) -> None:
    first = build_bank([file, file], tmp_path / "bank")
    assert (first.seen_before, first.rollouts) == (9, 9)
    assert first.unusable == {"not JSON": 2}
    again = build_bank([file], tmp_path / "bank")
    assert (again.entries, again.revision) == (first.entries, first.revision)
    assert again.added == {"skill": 0, "mistake": 0, "pair": 0}

    write_rollouts(tmp_path / "more.parquet", [*both("zorp", 8), *both("quam", 9)])
    more = build_bank([tmp_path / "more.parquet"], tmp_path / "bank")
    assert more.added == {"skill": 1, "mistake": 1, "pair": 1}
    assert more.revision == first.revision + 1
    assert not (tmp_path / "bank" / "rejected.jsonl").exists()
    with Bank.open(tmp_path / "bank") as bank:
        (skill,) = bank.entries(Query(kind="skill", text="zorp"))
        assert skill.evidence_count == 3


def test_the_split_can_be_chosen(tmp_path: Path, file: Path) -> None:
    report = build_bank([file], tmp_path / "bank", split="test")
    assert (report.accepted, report.pairs) == (2, 1)
    assert report.rejected == {"rollout of split train": 7}


def test_a_build_that_fails_leaves_no_half_bank(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "embed_missing", fail)
    with pytest.raises(KeyboardInterrupt):
        build_bank([file], tmp_path / "bank")
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.jsonl"]


def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path: Path, file: Path) -> None:
    one_sided = tmp_path / "one_sided.jsonl"
    write_rollouts(one_sided, [rollout("zorp", n, "correct") for n in range(3)])
    before = sorted(path.name for path in tmp_path.iterdir())
    bank = tmp_path / "bank"
    for arguments, options, error, words in [
        ([tmp_path / "none"], {}, RolloutsNotFound, "no rollout file at"),
        ([], {}, RolloutsNotFound, "no rollout file is named"),
        ([file, tmp_path / "none"], {}, RolloutsNotFound, "no rollout file at"),
        ([one_sided], {}, RolloutsInvalid, "nothing mined from 3 rollouts of 3 problems, 0 of them with both"),
        (
            [file],
            {"split": "validation"},
            RolloutsInvalid,
            "no rollout of split 'validation', but 7 of split train, 2 of split test",
        ),
        ([file], {"embedder": str(tmp_path / "nowhere")}, EmbedderNotFound, "nowhere"),
        ([file], {"merge_cosine": 2.0}, InvalidOption, "merge_cosine is 2.0"),
        ([file], {"miner": "oracle"}, InvalidOption, "miner is 'oracle'"),
        ([file], {"miner": "model"}, InvalidOption, "asks a language model"),
        ([file], {"complete": writer([])}, InvalidOption, "asks a language model"),
    ]:
        with pytest.raises(error, match=words) as caught:
            build_bank(arguments, bank, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(BankExists, match="is no bank"):
        build_bank([file], tmp_path)


def test_every_rollout_ends_in_the_bank_with_its_fate(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other.jsonl"
    right, wrong = both("zorp", 1)
    foreign = right.model_copy(update={"completion": "something else"})
    write_rollouts(other, [wrong, foreign, rollout("quam", 6, "wrong")])
    report = build_bank([file, other], tmp_path / "bank")
    assert report.rollouts == report.accepted + sum(report.rejected.values()) + sum(report.dead.values()) == 10
    assert report.unusable == {"not JSON": 1, "rollout id seen before with other content": 1}
    assert report.seen_before == 1
    kept = [json.loads(line) for line in (tmp_path / "bank" / "rejected.jsonl").read_text().splitlines()]
    assert [row["detail"] for row in kept if row["reason"] != "not JSON"] == [f"rollout {right.rollout_id}"]
    with Bank.open(tmp_path / "bank") as bank:
        (fate,) = bank.rollout(right.rollout_id)
        assert (fate.fate, fate.miner, fate.file, fate.completion) == (
            "accepted",
            "contrast",
            str(file),
            right.completion,
        )
        (fate,) = bank.rollout("quam-6-wrong-train")
        assert (fate.fate, fate.reason) == ("rejected", "rollout of a problem with one outcome only")
        assert (fate.file, fate.completion) == (str(other), None)
        (fate,) = bank.rollout("quam-4-wrong-test")
        assert (fate.fate, fate.reason) == ("rejected", "rollout of split test")
        problem = bank.problem(right.problem_id)
        assert problem is not None
        assert problem.problem == right.problem
        assert bank.problem("What is 4 quam 7 modulo 23?") is None


def test_a_later_build_takes_nothing_from_what_earlier_entries_rest_on(tmp_path: Path, file: Path) -> None:
    build_bank([file], tmp_path / "bank")
    right, _ = both("zorp", 1)
    alone = tmp_path / "alone.jsonl"
    write_rollouts(alone, [right])
    report = build_bank([alone], tmp_path / "bank")
    assert (report.accepted, report.rejected) == (1, {})
    write_rollouts(alone, [right.model_copy(update={"completion": "zorp means nothing"})])
    report = build_bank([alone], tmp_path / "bank")
    assert (report.rollouts, report.unusable) == (0, {"rollout id seen before with other content": 1})
    with Bank.open(tmp_path / "bank") as bank:
        (fate,) = bank.rollout(right.rollout_id)
        assert (fate.fate, fate.completion) == ("accepted", right.completion)


def test_evaluation_problems_named_with_the_build_keep_entries_in_quarantine(tmp_path: Path, file: Path) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"problem": "What is 3 blick 7 modulo 23?", "answer": "3"}) + "\n")
    report = build_bank([file], tmp_path / "bank", evaluations=[evaluation])
    with Bank.open(tmp_path / "bank") as bank:
        held = {
            entry.content.text().split()[2]
            for entry in bank.entries(Query(status="quarantined"))
            if not isinstance(entry.content, Pair)
        }
        assert report.quarantined == len(bank.entries(Query(status="quarantined"))) > 0
    assert held <= {"blick", "difference"}


# ------------------------------------------------------------------------------------------------ with a language model


def writer(calls: list[Request], text: Callable[[Request], str] | None = None) -> FromFunction:
    def answer(request: Request) -> Reply:
        calls.append(request)
        return Reply(text=(text or lesson)(request), prompt_tokens=7, completion_tokens=3)

    return FromFunction(answer, model="tiny", concurrency=2)


def lesson(request: Request) -> str:
    prompt = "\n".join(message.content for message in request.messages)
    operation = next(name for name in RULES if f"{name} 7 modulo" in prompt)
    place = {"attempt": 1, "quote": f"{operation} means"}
    skill = {
        "title": f"Recall {operation}",
        "principle": f"Write down what {operation} means before it is used.",
        "when_to_apply": f"The problem has {operation} in it.",
        "evidence": [place],
    }
    mistake = {
        "description": f"Takes {operation} for something else.",
        "why_it_happens": "It looks familiar.",
        "how_to_avoid": f"Check the meaning of {operation}.",
        "evidence": [{**place, "attempt": 2}],
    }
    if '{"pairs"' in prompt:
        return json.dumps({"pairs": [{"skill": skill, "mistake": mistake}]})
    return json.dumps({"skills": [skill]})


def test_a_model_writes_pairs_and_skills_and_no_call_is_made_twice(tmp_path: Path, file: Path) -> None:
    calls: list[Request] = []
    report = build_bank([file], tmp_path / "bank", miner="model", complete=writer(calls))
    assert (report.miner, report.pairs, report.singles, len(calls)) == ("model", 2, 1, 4)
    assert report.calls is not None
    assert report.calls.model_dump() == {"calls": 4, "made": 4, "prompt_tokens": 28, "completion_tokens": 12}
    assert (report.problems, report.problems_with_both, report.accepted) == (4, 3, 7)
    assert report.rejected == {"rollout of split test": 2}
    assert report.added == {"skill": 3, "mistake": 2, "pair": 2}
    again = build_bank([file], tmp_path / "bank", miner="model", complete=writer(calls))
    assert again.calls is not None
    assert (len(calls), again.calls.made, again.revision) == (4, 0, report.revision)
    with Bank.open(tmp_path / "bank") as bank:
        (skill,) = bank.entries(Query(kind="skill", text="zorp"))
        assert skill.provenance is not None
        assert (skill.provenance.miner, skill.provenance.model) == ("model", "tiny")
        assert [place.quote for place in bank.evidence(skill.id)] == ["zorp means", "zorp means"]


def test_a_call_that_comes_to_nothing_leaves_dead_rollouts(tmp_path: Path, file: Path) -> None:
    def some(request: Request) -> str:
        return "no idea" if "blick" in str(request.messages) else lesson(request)

    report = build_bank([file], tmp_path / "bank", miner="model", complete=writer([], some))
    assert sum(report.dead.values()) == 2
    assert report.rollouts == report.accepted + sum(report.rejected.values()) + 2
    with Bank.open(tmp_path / "bank") as bank:
        (fate,) = bank.rollout("blick-3-wrong-train")
        assert (fate.fate, fate.miner) == ("dead", "model")


def test_what_was_called_outlives_a_build_that_came_to_nothing(tmp_path: Path, file: Path) -> None:
    calls: list[Request] = []

    def interrupted(phase: str, done: int, total: int | None) -> None:
        if phase == "store":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bank([file], tmp_path / "bank", miner="model", complete=writer(calls), on_progress=interrupted)
    assert (len(calls), (tmp_path / "bank").exists()) == (4, False)
    plan = plan_build([file], tmp_path / "bank", model="tiny")
    assert (plan.calls_in_ledger, plan.calls_to_make) == (4, 0)
    report = build_bank([file], tmp_path / "bank", miner="model", complete=writer(calls))
    assert (len(calls), report.revision) == (4, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "rollouts.jsonl"]


def test_a_plan_counts_and_calls_nothing(tmp_path: Path, file: Path) -> None:
    plan = plan_build([file], tmp_path / "bank", model="tiny", count_tokens=lambda text: 1)
    assert (plan.groups, plan.rollouts, plan.calls, plan.calls_to_make) == (4, 9, {"pairs": 3, "skills": 1}, 4)
    assert plan.rejected == {"rollout of split test": 2, "line unusable: not JSON": 1}
    assert plan.prompt_tokens == 4 * 2
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.jsonl"]


@pytest.mark.skipif("SGSD_DATA" not in os.environ, reason="SGSD_DATA names no folder of public data files")
def test_a_bank_from_real_model_solutions(tmp_path: Path) -> None:
    report = build_bank([Path(os.environ["SGSD_DATA"]) / "rollouts" / "gsm8k_model_solutions.jsonl"], tmp_path / "bank")
    assert (report.rollouts, report.problems, report.problems_with_both, report.unusable) == (3600, 900, 503, {})
    assert report.entries["pair"] > 700


def test_rewards_are_judged_as_the_build_is_told(tmp_path: Path) -> None:
    """Files with rewards and no outcome: the threshold decides, and without one a fraction is unverifiable."""
    rows = [
        {"prompt": f"What is zorp of {n}?", "completion": f"zorp means {rule}\nso it is {n}.", "reward": reward}
        for n in range(4)
        for rule, reward in (("double the number", 0.9), ("reverse the number", 0.2))
    ]
    file = tmp_path / "rewards.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(RolloutsInvalid, match=r"no rollout|no pair|unverifiable|nothing mined"):
        build_bank([file], tmp_path / "none")
    report = build_bank([file], tmp_path / "bank", reading=Reading(threshold=0.5))
    assert (report.rollouts, report.pairs) == (8, 1)
    with pytest.raises(RolloutsInvalid, match="no usable rollout"):
        build_bank([file], tmp_path / "other", reading=Reading(format="native"))
