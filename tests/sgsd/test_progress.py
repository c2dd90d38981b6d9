"""What a run counts, writes and shows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from sgsd.curve import curve_points
from sgsd.progress import COUNTED, AccuracyCurve, MetricsFile, ProgressLine, Tally, metrics_of
from sgsd.records import Completion, Outcome, Problem, Rollout, TeacherPrompt, Verdict
from sgsd.teachers import Example


@pytest.fixture
def args(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")


def at(step: int, **more: Any) -> TrainerState:
    return TrainerState(global_step=step, max_steps=40, is_world_process_zero=True, **more)


def example(outcome: Outcome, tokens: int, teachers: int, truncated: bool) -> Example:
    rollout = Rollout(Problem("p", "?", "1"), (1,), Completion((5,) * tokens, "", truncated), Verdict(outcome))
    return Example(rollout, (TeacherPrompt((1,), 0.5),) * teachers)


def test_shares_are_of_what_they_say() -> None:
    sums = dict.fromkeys(COUNTED, 0.0) | {
        "examples": 8,
        "correct": 2,
        "wrong": 5,
        "unverifiable": 1,
        "truncated": 4,
        "generated_tokens": 80,
        "without_teachers": 1,
        "teachers_too_long": 3,
        "seconds/rollout": 1.5,
    }
    assert metrics_of(sums) == {
        "examples": 8,
        "generated_tokens": 80,
        "unverifiable": 1,
        "without_teachers": 1,
        "teachers_too_long": 3,
        "reward": 0.25,
        "truncated": 0.5,
        "completion_length": 10,
        "seconds/rollout": 1.5,
        "seconds/retrieve": 0,
        "seconds/teachers": 0,
        "seconds/student": 0,
        "seconds/ledger": 0,
    }
    assert set(metrics_of(dict.fromkeys(COUNTED, 0.0)).values()) == {0.0}


def test_a_tally_counts_and_starts_anew() -> None:
    tally = Tally(("helpful", "judged"), lambda sums: {"helpful": sums["helpful"] / sums["judged"]})
    tally.add_window([example("correct", 3, 2, False), example("unverifiable", 5, 0, True)], teachers_too_long=4)
    tally.add({"helpful": 1, "judged": 2})
    with tally.timed("student"):
        pass
    metrics = tally.close(lambda sums: {key: 2 * value for key, value in sums.items()})  # two ranks alike
    assert (metrics["examples"], metrics["generated_tokens"], metrics["teachers_too_long"]) == (4, 16, 8)
    assert (metrics["reward"], metrics["truncated"], metrics["helpful"]) == (0.5, 0.5, 0.5)
    assert (metrics["unverifiable"], metrics["without_teachers"]) == (2, 2)
    assert metrics["seconds/student"] > 0
    assert set(tally.sums.values()) == {0.0}
    tally.add({"helpful": 3, "judged": 3})
    tally.close(lambda sums: sums)
    assert tally.totals["helpful"] == 5
    with pytest.raises(KeyError):
        tally.add({"no such count": 1})


def test_metrics_of_a_resumed_run_hold_each_step_once(tmp_path: Path, args: TrainingArguments) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    control = TrainerControl()
    file = MetricsFile(path)
    file.on_train_begin(args, at(0), control)
    assert path.read_text() == ""
    for step in (1, 2, 3):
        file.on_log(args, at(step), control, logs={"loss": step / 10})
    file.on_log(args, at(2), control, logs={"train_runtime": 1.0})  # the end of a shorter run
    with path.open("a") as torn:
        torn.write('{"step": 3, "lo')  # a crash
    MetricsFile(path).on_train_begin(args, at(2), control)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 0.2},
    ]
    MetricsFile(path).on_train_begin(args, at(0), control)
    assert path.read_text() == ""
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_other_ranks_write_nothing(tmp_path: Path, args: TrainingArguments) -> None:
    other = TrainerState(global_step=1, max_steps=2, is_world_process_zero=False)
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.on_train_begin(args, other, TrainerControl())
    file.on_log(args, other, TrainerControl(), logs={"loss": 1.0})
    assert not file.path.exists()
    stream = io.StringIO()
    ProgressLine(lambda: 0, lambda: "1 process", stream=stream).on_log(args, other, TrainerControl(), logs=LOGS)
    assert stream.getvalue() == ""


LOGS = {"loss": -0.01234, "reward": 0.625, "helpful": 0.5, "harmful": 0.2, "neutral": 0.3}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("sgsd.progress.time.monotonic", lambda: now.seconds)
    return now


def test_the_line_off_a_terminal(args: TrainingArguments, clock: SimpleNamespace) -> None:
    stream = io.StringIO()
    line = ProgressLine(lambda: 12345, lambda: "1 process", stream=stream)
    line.on_train_begin(args, at(10), TrainerControl())
    clock.seconds += 50  # ten steps of five seconds: twenty more
    for step in range(11, 21):
        line.on_log(args, at(step), TrainerControl(), logs=LOGS)
    line.on_log(args, at(20), TrainerControl(), logs={"eval_accuracy": 0.875})
    line.on_train_end(args, at(20), TrainerControl())
    common = "reward 0.62 | loss -0.0123 | helpful 50% harmful 20% neutral 30% | 12,345 tokens"
    assert stream.getvalue() == (
        f"1 process\ngoing on from {args.output_dir}/checkpoint-10\nstep 20/40 | {common} | 1:40 left\n"
    )
    assert line.text(at(40), LOGS) == f"step 40/40 | {common} | held-out 87.5% | 0:00 left"


def test_the_line_on_a_terminal_is_rewritten_and_fits(
    args: TrainingArguments, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    line = ProgressLine(lambda: 7, lambda: "1 process", stream=stream)
    line.on_train_begin(args, at(0), TrainerControl())
    line.on_log(args, at(1), TrainerControl(), logs=LOGS)
    line.on_log(args, at(2), TrainerControl(), logs=LOGS)
    line.on_train_end(args, at(2), TrainerControl())
    first, second = "step 1/40 | reward 0.62 | loss -0.0123 |", "step 2/40 | reward 0.62 | loss -0.0123 |"
    assert stream.getvalue() == f"1 process\n\r\x1b[2K{first[:39]}\r\x1b[2K{second[:39]}\n"


def test_a_curve_has_a_point_at_each_end_and_leaves_the_steps_own_log(args: TrainingArguments) -> None:
    control, logged = TrainerControl(), []
    result: Any = SimpleNamespace(accuracy=0.5, ci=(0.25, 0.75))
    state = at(0)

    def log(logs: dict[str, float]) -> None:
        logged.append({**logs, "step": state.global_step})
        control.should_log = False  # what the trainer's log does

    curve = AccuracyCurve(lambda: result, 15, lambda: 10 * state.global_step, log)
    curve.on_train_begin(args, state, control)
    for step in range(1, 41):
        state.global_step, control.should_log = step, True
        curve.on_step_end(args, state, control)
        assert control.should_log
    points = curve_points([*logged, {"loss": 1.0, "step": 40}])
    assert [point["step"] for point in points] == [0, 15, 30, 40]
    assert points[1] == {"step": 15, "tokens": 150, "accuracy": 0.5, "ci": [0.25, 0.75]}
    state.global_step = 15
    curve.on_train_begin(args, state, control)  # a resumed run has that point already
    assert len(logged) == 4
