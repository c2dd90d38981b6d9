"""`sgsd report`: numbers of the page are those of the runs, several overlaid, in a file that stands alone."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from sgsd.cli import main
from sgsd.config import RunConfig, save_config
from sgsd.errors import ConfigError
from sgsd.report.curves import Curve, Line, curves
from sgsd.report.figures import figure, sample, smoothed
from sgsd.report.folder import open_run
from sgsd.report.report import report_on, report_page, table
from sgsd.report.summary import Difference, difference, names_of, settings_that_differ
from skillbank.store import Bank
from skillbank.store.usage import UsageRow
from skillbank.usage import estimates

from .test_explain import HOSTILE, stands_alone
from .training import make_bank


def log(step: int, **values: float) -> dict[str, Any]:
    return {"step": step, "loss": 0.5 / step, "reward": step / 10, "examples": 4.0, "without_teachers": 1.0, **values}


def point(step: int, accuracy: float) -> dict[str, float]:
    return {
        "step": step,
        "eval_accuracy": accuracy,
        "eval_low": accuracy - 0.1,
        "eval_high": accuracy + 0.1,
        "eval_tokens": 100.0 * step,
    }


LOGS = [
    point(0, 0.2),
    *(log(n, generated_tokens=50.0, read_tokens=400.0, helpful=0.5, **{"seconds/rollout": 2.0}) for n in range(1, 11)),
    point(10, 0.6),
    {"step": 10, "train_runtime": 30.0, "total_flos": 2e12, "train_loss": 0.1},
]


def made(folder: Path, logs: Sequence[dict[str, Any]] = LOGS, **sections: Any) -> Path:
    """The folder of a run with these metrics."""
    config = RunConfig.model_validate({"output_dir": str(folder), "method": "opd", **sections})
    save_config(config, folder / "config.yaml")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in logs), encoding="utf-8")
    return folder


def test_a_run_in_numbers(tmp_path: Path) -> None:
    found = report_on([made(tmp_path / "a")])
    (one,) = found.summaries
    assert (one.method, one.steps, one.max_steps, one.seed) == ("opd", 10, 200, 0)
    assert (one.first_accuracy, one.accuracy, one.best_accuracy, one.best_step) == (0.2, 0.6, 0.6, 10)
    assert one.interval == (0.5, 0.7)
    assert one.reward == 1.0  # the last tenth of ten steps is the last
    assert (one.generated_tokens, one.read_tokens, one.flops) == (500, 4000, 2e12)
    assert one.seconds == {"rollout": 20.0, "whole run": 30.0}
    assert one.difference is None
    by_key = {curve.key: curve for curve in found.curves}
    assert by_key["reward"].lines[0].y == tuple(n / 10 for n in range(1, 11))
    assert by_key["hits"].lines[0].y == (0.75,) * 10
    assert by_key["accuracy"].lines == (Line(0, (0.0, 10.0), (0.2, 0.6), (0.1, 0.5), (0.30000000000000004, 0.7)),)
    assert by_key["accuracy_by_tokens"].lines[0].x == (0.0, 1000.0)
    assert {"overlap", "harmful", "entropy"} <= {quantity.key for quantity in found.missing}
    assert "helpful" in by_key
    page = report_page(found)
    words = " ".join(stands_alone(page).words.split())
    assert "Not recorded By none of the runs, and so left out:" in words
    assert "overlap of the likeliest tokens" in words
    assert "60.0 % [50.0 %, 70.0 %]" in words


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    first = {"step": 1, "loss": 0.1, "reward": 0.4, "entropy": 1.5}
    # What TRL has counted of a step goes out with a point of the curve, if there is one.
    trl = [point(0, 0.2), first, point(2, 0.3) | {"entropy": 1.25, "reward": 0.5}, {"step": 2, "loss": 0.1}]
    paths = [made(tmp_path / "x/run"), made(tmp_path / "y/run", trl, method="grpo", seed=5)]
    found = report_on(paths)
    assert found.names == ("x/run", "y/run")
    assert dict(found.settings) == {"method": ("opd", "grpo"), "seed": ("0", "5")}
    second = found.summaries[1]
    assert second.generated_tokens == 200  # of the curve, where steps do not tell
    assert second.difference == difference((0.6, 0.5, 0.7), (0.3, 0.2, 0.4))
    by_key = {curve.key: curve for curve in found.curves}
    assert [line.run for line in by_key["reward"].lines] == [0, 1]
    assert by_key["entropy"].without == (0,)
    assert [line.run for line in by_key["entropy"].lines] == [1]
    assert table(by_key["entropy"]) == [("1", ["–", "1.5"]), ("2", ["–", "1.25"])]
    assert table(by_key["accuracy"])[0] == ("0", ["20.0 % [10.0 %, 30.0 %]", "20.0 % [10.0 %, 30.0 %]"])
    page = report_page(found)
    stands_alone(page)
    for run in (0, 1):
        assert page.count(f"stroke-run-{run}") >= 5
    assert "Not recorded by x/run." in page


def test_a_difference_by_hand() -> None:
    """0.6 [0.5, 0.8] against 0.3 [0.1, 0.4]: below sqrt(0.2^2 + 0.2^2), above sqrt(0.1^2 + 0.1^2)."""
    found = difference((0.6, 0.5, 0.8), (0.3, 0.1, 0.4))
    assert found == Difference(
        pytest.approx(-0.3), pytest.approx(-0.3 - math.hypot(0.2, 0.2)), pytest.approx(-0.3 + math.hypot(0.1, 0.1))
    )


def test_a_run_that_goes_on_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    run = made(tmp_path / "run", LOGS[:4])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    (one,) = report_on([run]).summaries
    assert (one.steps, one.flops, one.seconds) == (3, None, {"rollout": 6.0})
    (run / "metrics.jsonl").write_text('{"step"\n{}\n')
    with pytest.raises(ConfigError, match=r"metrics.jsonl is damaged"):
        report_on([run])
    (run / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"has no metrics.jsonl: the run ended before its first step"):
        report_on([run])


def test_wrong_runs(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with pytest.raises(ConfigError, match="a run is given twice"):
        report_on([run, tmp_path / "." / "run"])
    with pytest.raises(ConfigError, match="9 runs are more than the 8 that a page can tell apart"):
        report_on([run] * 9)


def test_pairs_that_counted_most(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "bank")
    with Bank.open(bank) as opened:
        opened.record_usage(
            UsageRow(
                run="run",
                step=step,
                problem_id=f"p{step}",
                outcome="correct",
                skill_id=skill,
                mistake_id=mistake,
                support=0.1 * polarity,
                polarity=polarity,
                gate_mass=0.1,
                weight=0.5,
                revision=1,
            )
            for step in range(1, 9)
            for skill, mistake, polarity in ((1, 2, 1), (4, 5, -1), (7, 8, 0))
        )
        measured = {(one.skill_id, one.mistake_id): one for one in estimates(opened, of="pair", run="run")}
    run = made(tmp_path / "run", method="sgsd", bank={"path": str(bank)})
    (found,) = report_on([run]).pairs
    assert [(one.skill_id, one.mistake_id, one.utility) for one in found.helpful] == [(1, 2, 1.0)]
    assert [(one.skill_id, one.mistake_id, one.utility) for one in found.harmful] == [(4, 5, -1.0)]
    assert (found.helpful[0].low, found.helpful[0].high) == (measured[1, 2].low, measured[1, 2].high)
    assert found.helpful[0].skill == "step 0"
    gone = made(tmp_path / "gone", method="sgsd", bank={"path": str(tmp_path / "none")})
    other = made(tmp_path / "other", method="sgsd", bank={"path": str(bank)})
    missing = [pairs.missing for pairs in report_on([gone, other]).pairs]
    assert missing[0].startswith("no bank at ")
    assert missing[1] == f"the ledger of {bank} has no run other"
    assert "has no run other" in report_page(report_on([other]))


def test_hostile_names_are_names(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "bank")
    hostile = HOSTILE.replace("/", "")
    runs = [made(tmp_path / f"{hostile}{n}", method="sgsd", bank={"path": str(bank) + hostile}, seed=n) for n in (1, 2)]
    elements = stands_alone(report_page(report_on(runs)))
    assert elements.words.count("<script>") > 10


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_a_figure_has_no_style_and_every_value(tmp_path: Path) -> None:
    line = Line(1, (0.0, 5.0, 10.0), (0.1, 0.9, 0.5), (0.0, 0.8, 0.4), (0.2, 1.0, 0.6))
    curve = Curve("Learning", "accuracy", "Accuracy <b>", "share", "step", "", (line,), (0,))
    text = str(figure(curve))
    assert text == str(figure(curve))  # the same on every machine and day
    root = ET.fromstring(text)
    assert root.get("class") == "plot"
    assert root[0].text == "Accuracy <b> over step"
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(str(one).startswith("accuracy-") for one in ids)
    for element in root.iter():
        assert "style" not in element.attrib
        for name in ("fill", "stroke"):
            assert element.get(name) in (None, "none")  # colours are the page's
    (drawn,) = [e for e in root.iter() if "stroke-run-1" in e.get("class", "") and e.tag.endswith("path") and e.get("d")
                and e.get("d", "").count("L") == 2]  # fmt: skip
    ys = [float(step.split()[-1]) for step in drawn.attrib["d"].replace("M", "").split("L")]
    # Heights are in proportion to the values: 0.1, 0.9, 0.5.
    assert (ys[0] - ys[2]) / (ys[0] - ys[1]) == pytest.approx(0.5, abs=1e-3)
    assert "fill-run-1" in text
    assert "aria-hidden" in sample(1)


def test_a_long_curve_is_smoothed_beside_itself() -> None:
    values = tuple(float(n % 2) for n in range(100))
    means = smoothed(values)
    assert means[0] == 0.0  # an end has nothing on one side
    assert means[50] == pytest.approx(sum(values[48:53]) / 5)
    assert smoothed((1.0, 2.0)) == [1.0, 2.0]


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    assert names_of([Path("/runs/a/run"), Path("/runs/b/run")]) == ["a/run", "b/run"]
    assert names_of([Path("/runs/a/run")]) == ["a/run"]
    assert names_of([Path("/runs/a"), Path("/runs/a/more")]) == ["a", "a/more"]
    runs = [open_run(made(tmp_path / name, model={"lora": lora})) for name, lora in (("a", None), ("b", {"r": 4}))]
    differing = dict(settings_that_differ(runs))
    assert differing["model.lora.r"] == ("–", "4")
    assert differing["model.lora"] == ("none", "–")


def test_a_log_without_anything_makes_no_curve() -> None:
    found, missing = curves([[{"step": 1, "loss": 0.1}]])
    assert [curve.key for curve in found] == ["loss"]
    assert len(missing) > 10


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [made(tmp_path / name) for name in ("a", "b")]
    assert main(["report", str(runs[0])]) == 0
    assert f"page: {runs[0] / 'report.html'}" in capsys.readouterr().out
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "r.html"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["names"] == ["a", "b"]
    assert said["summaries"][1]["difference"]["value"] == 0.0
    assert (tmp_path / "r.html").is_file()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(runs[0])]) == 2
    assert capsys.readouterr().err == 'sgsd: plots are drawn by matplotlib: pip install "sgsd[report]"\n'
