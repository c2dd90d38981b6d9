"""The usage ledger between trainer and bank: a row a teacher, every step, once, whatever happens."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.errors import ConfigError
from sgsd.ledger import UsageLedger
from sgsd.methods import MethodResult, Window
from sgsd.score import ScoreRow, score
from sgsd.teachers import Example
from skillbank.doctor import doctor
from skillbank.errors import BankBusy
from skillbank.records import Mistake
from skillbank.store import Bank
from skillbank.usage import estimates

from .ledger_writer import ROWS, write_steps
from .test_methods import example, objective
from .training import Pairs, make_bank, make_trainer, mined


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.open(make_bank(tmp_path / "bank")) as bank:
        yield bank


def judged(tiny: Any, *examples: Example) -> tuple[MethodResult, torch.nn.Module]:
    model = tiny.model().double()
    gated = objective(tiny)
    return gated.loss(model, gated.score_teachers(model, examples), Window(len(examples), 1)), model


def ledger_rows(bank: Bank) -> list[dict[str, Any]]:
    return [dict(row) for row in bank.db.rows("SELECT * FROM usage ORDER BY rowid")]


def a_step(tiny: Any, ledger: UsageLedger, step: int) -> None:
    ledger.record(step, judged(tiny, example([7, 8], 2))[0])
    ledger.write(ledger.take())


def test_one_row_a_teacher_with_its_polarity(tiny: Any, bank: Bank) -> None:
    ids = [7, 8, 9, 2]
    result, model = judged(
        tiny, example(ids, 3, name="right"), example(ids, 3, "wrong", name="wrong"), example(ids, 3, "unverifiable")
    )
    ledger = UsageLedger(bank, "run-1")
    ledger.record(5, result)
    assert ledger_rows(bank) == []  # until the step ends
    ledger.write(ledger.take())
    rows = ledger_rows(bank)
    assert len(rows) == 6  # unverifiable rollouts judge nobody
    student = score(model, [ScoreRow((3, 4), ids[:3])])[0]
    for number, row in enumerate(rows):
        k, outcome = number % 3, ("correct", "wrong")[number // 3]
        delta = (score(model, [ScoreRow((3, 10 + k), ids[:3])])[0] - student).clamp(-3, 3)
        support = delta.mean().item()
        sign = 0 if abs(support) <= 0.05 else int(math.copysign(1, support))
        expected = {
            "run": "run-1",
            "step": 5,
            "problem_id": ("right", "wrong")[number // 3],
            "outcome": outcome,
            "skill_id": 2 * k + 1,
            "mistake_id": 2 * k + 2,
            "pair_id": None,
            "revision": 4,
            "placebo": 0,
            "polarity": sign if outcome == "correct" else -sign,
        }
        assert {key: row[key] for key in expected} == expected
        assert row["support"] == pytest.approx(support, rel=1e-6)
        assert row["weight"] == pytest.approx((k + 1) / 10)
        assert 0 < row["gate_mass"] < 0.4
    assert {row["polarity"] for row in rows} >= {-1, 1}
    ledger.write(ledger.take())
    ledger.close()
    assert len(ledger_rows(bank)) == 6


def test_a_placebo_has_a_row_that_counts_for_no_entry(tiny: Any, bank: Bank) -> None:
    some = (example([7, 8], 2, placebo=True), example([9], 2, "wrong", name="q"), example([9], 2, name="r"))
    result, _ = judged(tiny, *some)
    assert result.placebo is not None
    ledger = UsageLedger(bank, "run")
    ledger.record(1, result)
    ledger.write(ledger.take())
    (row,) = (row for row in ledger_rows(bank) if row["placebo"])
    expected = {"run": "run", "step": 1, "problem_id": "p", "outcome": "correct", "skill_id": 0, "mistake_id": 0}
    assert {key: row[key] for key in expected} == expected
    assert row["support"] == result.placebo.support_BK[0, 0].item() != 0
    assert (row["weight"], row["revision"]) == (0, 4)
    assert bank.db.value("SELECT count(*) FROM usage_totals") == 2
    matched = {one.skill_id: one.placebo for one in estimates(bank, of="pair")}
    assert matched == {1: None, 3: None}  # of one problem alone: no interval


def test_a_bank_for_reading_only_is_told_and_left_alone(tiny: Any, tmp_path: Path) -> None:
    folder = make_bank(tmp_path / "bank")
    with Bank.open(folder, readonly=True) as bank:
        with pytest.warns(UserWarning, match="cannot be written to: it will not learn"):
            ledger = UsageLedger(bank, "run")
        a_step(tiny, ledger, 1)
        ledger.close()
        ledger.resume(ledger.state(1))
        assert ledger_rows(bank) == []


def test_a_run_goes_on_with_its_own_bank_only(bank: Bank, tmp_path: Path) -> None:
    bank.add_mined([mined(8)], actor="someone")
    state = UsageLedger(bank, "run").state(3)
    expected = {"bank_id": bank.meta("bank_id"), "bank_revision": 2, "usage_run": None, "usage_step": 3}
    assert state == expected
    UsageLedger(bank, "run").resume(state)
    with (
        Bank.open(make_bank(tmp_path / "rebuilt")) as other,
        pytest.raises(ConfigError, match="rebuilt is not the bank"),
    ):
        UsageLedger(other, "run").resume(state)
    with pytest.raises(ConfigError, match=r"at revision 2, the checkpoint was trained at 7: give the newer copy"):
        UsageLedger(bank, "run").resume(state | {"bank_revision": 7})
    with bank.change(actor="me", reason="clumsy") as change:
        change.edit(2, Mistake(description="a better word", how_to_avoid="step by step"))
    with pytest.warns(UserWarning, match="from revision 2 to 3 since the checkpoint"):
        UsageLedger(bank, "run").resume(state)


def test_the_trainer_writes_every_step(tiny: Any, bank: Bank, tmp_path: Path) -> None:
    trainer, watch = make_trainer(tiny, Pairs(bank), tmp_path / "run-7", max_steps=5)
    counts: list[int] = []
    trainer.on_rollouts = lambda step, rollouts: counts.append(len(ledger_rows(bank)))
    trainer.train()
    rows = ledger_rows(bank)
    at = [sum(row["step"] <= step for row in rows) for step in range(6)]
    assert counts == at[:5]
    assert at == sorted(set(at))  # each step brought some
    assert {row["run"] for row in rows} == {"run-7"}
    assert {row["revision"] for row in rows} == {1}
    assert all(log["seconds/ledger"] > 0 for log in watch.logs)


# ------------------------------------------------------------------------------------------- crashes, and runs at once


def steps_of(bank: Bank, run: str) -> list[int]:
    return [row["step"] for row in ledger_rows(bank) if row["run"] == run]


def test_steps_beyond_the_checkpoint_are_taken_back(tiny: Any, bank: Bank) -> None:
    ledger = UsageLedger(bank, "run")
    for step in (1, 2):
        a_step(tiny, ledger, step)
    state = ledger.state(2)
    other = UsageLedger(bank, "other")
    a_step(tiny, other, 9)
    totals = [tuple(row) for row in bank.db.rows("SELECT * FROM usage_totals")]
    for step in (3, 4):
        a_step(tiny, ledger, step)
    resumed = UsageLedger(bank, "run")
    resumed.resume(state)
    assert (steps_of(bank, "run"), steps_of(bank, "other")) == ([1, 1, 2, 2], [9, 9])
    for now, then in zip(bank.db.rows("SELECT * FROM usage_totals"), totals, strict=True):
        assert tuple(now) == pytest.approx(then)
    a_step(tiny, resumed, 3)
    assert steps_of(bank, "run") == [1, 1, 2, 2, 3, 3]
    resumed.resume(state | {"usage_step": 0})
    other.resume(state | {"usage_run": "other", "usage_step": 0})
    assert ledger_rows(bank) == bank.db.rows("SELECT * FROM usage_totals") == []


def test_another_run_of_the_same_name_is_another_run(tiny: Any, bank: Bank) -> None:
    first, second, third = (UsageLedger(bank, "run") for _ in range(3))
    a_step(tiny, first, 1)
    a_step(tiny, second, 1)
    a_step(tiny, first, 2)
    a_step(tiny, third, 1)
    assert (first.run, second.run, third.run) == ("run", "run#2", "run#3")
    assert (steps_of(bank, "run"), steps_of(bank, "run#2")) == ([1, 1, 2, 2], [1, 1])
    again = UsageLedger(bank, "run")
    again.resume(second.state(0))
    assert (again.run, steps_of(bank, "run#2"), steps_of(bank, "run")) == ("run#2", [], [1, 1, 2, 2])
    copied = UsageLedger(bank, "copy")  # of the run's folder, under another name
    copied.resume(first.state(0))
    a_step(tiny, copied, 1)
    assert (steps_of(bank, "run"), steps_of(bank, "copy")) == ([1, 1, 2, 2], [1, 1])


def test_rows_wait_for_a_bank_that_is_held(tiny: Any, bank: Bank) -> None:
    ledger = UsageLedger(bank, "run")
    with closing(sqlite3.connect(bank.db.file, isolation_level=None)) as curator:
        curator.execute("BEGIN IMMEDIATE")
        ledger.record(1, judged(tiny, example([7, 8], 2))[0])
        with pytest.warns(UserWarning, match=r"2 rows of usage wait: .* waited 0.01 s"):
            ledger.write(ledger.take(), patience_s=0.01)
        with pytest.warns(UserWarning, match="wait"), pytest.raises(BankBusy, match="2 rows of usage are lost"):
            ledger.close(patience_s=0.01)
        curator.execute("ROLLBACK")
    assert ledger_rows(bank) == []
    a_step(tiny, ledger, 2)
    assert steps_of(bank, "run") == [1, 1, 2, 2]
    assert doctor(bank.path).sound


WRITER = Path(__file__).parent / "ledger_writer.py"


def test_processes_at_once_and_one_of_them_killed(bank: Bank) -> None:
    """Three runs of one name write to one bank; one is killed in the middle of it and resumed. Every step that a
    process saw written is there, none is there in part, and none twice."""
    started = [
        subprocess.Popen([sys.executable, WRITER, bank.path, "60"], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    killed, *others = started
    assert killed.stdout is not None
    with killed.stdout as lines:
        told = [next(lines).split() for _ in range(20)]
        killed.kill()
        told += [line.split() for line in lines if line.endswith("\n")]
    outs = [process.communicate()[0].splitlines()[-1].split() for process in others]
    killed.wait()
    name, last = told[-1][0], int(told[-1][1])
    assert sorted([name, *(run for run, _ in outs)]) == ["run", "run#2", "run#3"]
    assert [step for _, step in outs] == ["60", "60"]
    steps = Counter(steps_of(bank, name))
    assert set(steps.values()) == {ROWS}  # whole steps alone
    assert sorted(steps) == list(range(1, max(steps) + 1))
    assert last <= max(steps) <= last + 1  # the last one may have been killed before it could tell

    state = UsageLedger(bank, "run").state(10) | {"usage_run": name}
    resumed = UsageLedger(bank, "run")
    resumed.resume(state)
    assert Counter(steps_of(bank, name)) == dict.fromkeys(range(1, 11), ROWS)
    write_steps(resumed, range(11, 61))
    for run in ("run", "run#2", "run#3"):
        assert Counter(steps_of(bank, run)) == dict.fromkeys(range(1, 61), ROWS)
    assert doctor(bank.path).sound
