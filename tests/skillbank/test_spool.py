"""Rollouts and findings on disk: each id once, a fate for every rollout, and a building folder that one build holds."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillbank.building import build_bank, merging
from skillbank.building.harvest import PLACES_AT_ONCE, Harvest
from skillbank.building.merging import merge_pairs
from skillbank.building.site import Site
from skillbank.building.spool import NO_PLACE, Spool, scratch
from skillbank.errors import BankBusy
from skillbank.mine.contrast import mine_contrast, mine_problem
from skillbank.records import Evidence, MinedEntry, MinedPair, Mistake, Rollout, Skill
from skillbank.rollouts import write_rollouts
from skillbank.store import Bank

from .made_up import mined
from .test_build import both, rollout

# --------------------------------------------------------------------------------------------------------------- spool


def test_an_id_is_kept_once_and_tells_a_copy_from_another() -> None:
    with closing(scratch(":memory:")) as connection:
        spool = Spool(connection)
        right, wrong = both("zorp", 1)
        assert spool.take(right, "a.jsonl") == "new"
        assert spool.take(right.model_copy(update={"model": "m"}), "b.jsonl") == "seen before"
        assert spool.take(wrong.model_copy(update={"rollout_id": right.rollout_id}), "b.jsonl") == "contradicts"
        ((kept,),) = spool.groups()
        assert kept == right


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pqr"), st.text(max_size=5)), max_size=12, unique_by=lambda row: row[1]))
def test_groups_are_the_rollouts_by_problem_and_id(rows: list[tuple[str, str]]) -> None:
    rollouts = [
        rollout("zorp", 1, "correct").model_copy(update={"problem_id": problem, "rollout_id": f"r{name}"})
        for problem, name in rows
    ]
    with closing(scratch(":memory:")) as connection:
        spool = Spool(connection)
        for one in rollouts:
            assert spool.take(one, "f") == "new"
        groups = list(spool.groups())
        assert [one for group in groups for one in group] == sorted(
            rollouts, key=lambda one: (one.problem_id.encode(), one.rollout_id.encode())
        )
        assert len(groups) == len({problem for problem, _ in rows}) == len(list(spool.problems()))


def test_every_rollout_has_a_fate_and_only_evidence_keeps_its_text() -> None:
    rollouts = [*both("zorp", 1), rollout("zorp", 2, "correct"), rollout("quam", 3, "wrong")]
    with closing(scratch(":memory:")) as connection:
        spool, harvest = Spool(connection), Harvest(connection)
        for one in rollouts:
            spool.take(one, "past.jsonl")
        spool.reject([(rollouts[3].rollout_id, "no departure")])
        harvest.add(
            mined("zorp").model_copy(
                update={
                    "skill_evidence": (_evidence(rollouts[0]),),
                    "mistake_evidence": (_evidence(rollouts[1]),),
                }
            )
        )
        spool.settle(harvest.bearing())
        fates = list(spool.fates("contrast"))
        assert [(fate.fate, fate.reason) for fate in fates] == [
            ("accepted", ""),
            ("accepted", ""),
            ("rejected", NO_PLACE),
            ("rejected", "no departure"),
        ]
        assert [fate.completion for fate in fates] == [rollouts[0].completion, rollouts[1].completion, None, None]
        assert {fate.file for fate in fates} == {"past.jsonl"}
        assert spool.counts() == {"accepted": {"": 2}, "rejected": {NO_PLACE: 1, "no departure": 1}, "dead": {}}


def _evidence(one: Rollout) -> Evidence:
    return Evidence(
        rollout_id=one.rollout_id, problem_id=one.problem_id, outcome=one.outcome, quote="zorp", span=(0, 4)
    )


# ------------------------------------------------------------------------------------------------------------- harvest


def test_contrasts_on_disk_are_those_in_memory() -> None:
    rng = Random(3)
    rollouts = []
    for number in range(40):
        rules = [rng.choice(["zorp means sum", "zorp means doubled sum", "zorp means product"]) for _ in range(4)]
        for place, rule in enumerate(rules):
            right = rule == "zorp means doubled sum" or rng.random() < 0.1
            base = rollout("zorp", number, "correct" if right else "wrong")
            completion = f"{rule}\n{number} zorp 7 = {rng.randint(0, 3)}\n\\boxed{{1}}"
            rollouts.append(base.model_copy(update={"rollout_id": f"{number}-{place}", "completion": completion}))
    expected, report = mine_contrast(rollouts)
    assert report.dropped["contradicted by other problems"] > 0
    groups: dict[str, list[Rollout]] = {}
    for one in rollouts:
        groups.setdefault(one.problem_id, []).append(one)
    with closing(scratch(":memory:")) as connection:
        harvest = Harvest(connection)
        for group in groups.values():
            found = mine_problem(group)
            for contrast in found.contrasts:
                harvest.add(contrast.pair, attempts=contrast.attempts, rules=contrast.rules)
            harvest.state(found.statements.items())
        dropped = merging.drop_contradicted(harvest)
        assert len(dropped) == report.dropped["contradicted by other problems"]
        assert merging.repeated(harvest) == report.dropped.get("repeated within the problem (evidence added)", 0)
        assert harvest.count() == len(expected)
        merged, merge_report = merge_pairs(expected)
        assert merging.merge(harvest, None, 0.95) == merge_report
        assert list(harvest.results()) == merged


def test_a_lesson_with_very_much_evidence_comes_in_parts() -> None:
    many = 2 * PLACES_AT_ONCE + 1
    with closing(scratch(":memory:")) as connection:
        harvest = Harvest(connection)
        for number in range(many):
            harvest.add(mined("zorp", f"p{number:05d}"))
        merging.merge(harvest, None, 0.95)
        parts = [part for part in harvest.results() if isinstance(part, MinedPair)]
        assert [len(part.skill_evidence) for part in parts] == [PLACES_AT_ONCE, PLACES_AT_ONCE, 1]
        assert [place.problem_id for part in parts for place in part.skill_evidence] == [
            f"p{n:05d}" for n in range(many)
        ]
        (example,) = harvest.examples(3)
        assert example.places == 2 * many


def test_what_has_no_counterpart_stays_alone_and_meaning_merges_other_words() -> None:
    def all_alike(texts: object) -> object:
        import numpy as np

        return np.ones((len(texts), 1), dtype=np.float32)  # type: ignore[arg-type]

    place = Evidence(rollout_id="r", problem_id="p", outcome="correct", quote="q", span=(0, 1))
    entries = [
        MinedEntry(content=Skill(title="Double", principle="Double the sum."), evidence=(place,)),
        MinedEntry(content=Skill(title="Twice", principle="Take the sum twice.")),
        MinedEntry(content=Mistake(description="Forgets to double.")),
    ]
    with closing(scratch(":memory:")) as connection:
        harvest = Harvest(connection)
        for entry in entries:
            harvest.add(entry)
        report = merging.merge(harvest, all_alike, 0.95, "meaning")  # type: ignore[arg-type]
        assert (report.singles_in, report.singles_out, report.skills_out, report.pairs_out) == (3, 2, 1, 0)
        assert list(harvest.results()) == [entries[2], entries[0]]


# ---------------------------------------------------------------------------------------------------------------- site


def test_a_second_build_of_one_bank_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with Site(tmp_path / "bank") as site:
        with pytest.raises(BankBusy, match="is being built by another process"):
            Site(tmp_path / "bank")
        with site.open_bank() as bank:
            assert bank.path == tmp_path / ".bank.building" / "bank"
        site.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]
    with Site(tmp_path / "bank") as site, site.open_bank() as bank:
        assert (site.new, bank.path) == (False, tmp_path / "bank")
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_finished_calls_outlive_a_build_that_failed_and_nothing_else_does(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Site(tmp_path / "bank") as site, site.open_bank() as bank:
            bank.add_mined([mined("zorp")], actor="miner")
            _record_call(bank, "one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    shutil.copytree(tmp_path / ".bank.building" / "bank", tmp_path / ".bank.building" / "left")  # killed here, too
    with Site(tmp_path / "bank") as site:
        with site.open_bank() as bank:
            assert [row["key"] for row in bank.db.rows("SELECT key FROM calls")] == ["one"]
            assert bank.stats().entries == {"skill": 0, "mistake": 0, "pair": 0}
        site.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def _record_call(bank: Bank, key: str) -> None:
    bank.db.run(
        "INSERT INTO calls (key, kind, rollouts, prompt_hash, model, state, attempts)"
        " VALUES (?, 'skills', '[]', 'h', 'm', 'done', 1)",
        (key,),
    )


# --------------------------------------------------------------------------------------------------------------- kills

BUILD = """
import sys
from skillbank.building import build_bank
build_bank([sys.argv[1]], sys.argv[2], on_progress=lambda phase, done, total: print(phase, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["read", "mine", "store", "embed", "index"])
def test_killed_in_any_phase_and_begun_again_the_bank_is_the_same(tmp_path: Path, phase: str) -> None:
    file = tmp_path / "rollouts.jsonl"
    write_rollouts(file, [one for number in range(30) for one in (*both("zorp", number), *both("blick", number))])
    bank = tmp_path / "bank"
    command = [sys.executable, "-c", BUILD, str(file), str(bank)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == phase:
                process.send_signal(signal.SIGKILL)
                break
    if not bank.exists():
        assert sorted(path.name for path in tmp_path.iterdir()) == [".bank.building", "rollouts.jsonl"]
    build_bank([file], bank)
    build_bank([file], tmp_path / "unkilled")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "rollouts.jsonl", "unkilled"]
    assert sorted(path.name for path in bank.iterdir()) == sorted(
        path.name for path in (tmp_path / "unkilled").iterdir()
    )
    assert content(bank) == content(tmp_path / "unkilled")


MODEL_BUILD = """
import os, sys, time
from skillbank.building import build_bank
from skillbank.mine.model.complete import FromFunction, Reply
from skillbank.mine.model.ledger import Ledger

SKILL = (
    '{"skills": [{"title": "Recall", "principle": "Recall OP.", "when_to_apply": "With OP.",'
    ' "evidence": [{"attempt": 1, "quote": "OP means"}]}]}'
)

def answer(request):
    time.sleep(0.02)
    operation = [name for name in ("zorp", "blick", "quam") if f"{name} 7" in str(request.messages)][0]
    return Reply(text=SKILL.replace("OP", operation))

record = Ledger.record
def recorded(ledger, calls):
    record(ledger, calls)
    os.write(1, b"recorded\\n" * len(calls))  # in one piece, whatever thread
Ledger.record = recorded
build_bank([sys.argv[1]], sys.argv[2], miner="model", complete=FromFunction(answer, model="m", concurrency=3))
"""


@pytest.mark.slow
def test_a_model_build_killed_again_and_again_repeats_no_finished_call(tmp_path: Path) -> None:
    file, bank = tmp_path / "rollouts.jsonl", tmp_path / "bank"
    names = ("zorp", "blick", "quam")
    write_rollouts(file, [rollout(names[number % 3], number, "correct") for number in range(40)])
    finished = 0
    for until in (4, 9, 1000):  # calls that are let finish before the next kill
        command = [sys.executable, "-c", MODEL_BUILD, str(file), str(bank)]
        seen = 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                seen += line == "recorded\n"
                if seen >= until:
                    process.kill()
            process.wait()
        if until == 1000:
            assert (process.returncode, seen) == (0, 40 - finished)
        else:
            building = tmp_path / ".bank.building" / "bank" / "bank.sqlite"
            with closing(sqlite3.connect(building)) as connection:
                (known,) = connection.execute("SELECT count(*) FROM calls WHERE state = 'done'").fetchone()
            assert finished + until <= known < 40
            finished = known
    command[-1] = str(tmp_path / "unkilled")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert content(bank) == content(tmp_path / "unkilled")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "rollouts.jsonl", "unkilled"]


def content(bank: Path) -> list[tuple[object, ...]]:
    """All that two builds of the same rollouts must agree on: all but the bank's id and the times."""
    with closing(sqlite3.connect(bank / "bank.sqlite")) as connection:
        rows: list[tuple[object, ...]] = []
        for table in ("entries", "evidence", "events", "revisions", "problems", "rollouts", "vectors"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "at"]
            found = connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2")
            rows += [(table, *row) for row in found]
    return rows
