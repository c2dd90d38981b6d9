"""What several runs came to, side by side: ends, differences from the first, settings, cost, and pairs that counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from sgsd.curve import curve_points
from sgsd.report.curves import steps_of
from sgsd.report.folder import RunFolder
from sgsd.report.quantities import Log
from skillbank.errors import SkillBankError
from skillbank.records import Mistake, Skill
from skillbank.store import Bank
from skillbank.usage import Estimate, estimates

SHOWN_PAIRS = 5
END = 0.1
"""The share of a run's last steps that its reward at the end is taken over."""


@dataclass(frozen=True)
class Difference:
    """A difference of two accuracies with its 95 % interval, from their own: MOVER, the square-and-add method of Zou
    and Donner (Stat. Med. 2008). The runs are taken as independent, so on the same held-out problems it is wide."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One run in numbers; None for what was not recorded."""

    name: str
    method: str
    model: str
    seed: int
    steps: int
    max_steps: int
    first_accuracy: float | None
    accuracy: float | None
    """Of the last point of the curve."""
    interval: tuple[float, float] | None
    best_accuracy: float | None
    best_step: int | None
    reward: float | None
    """Mean over the last tenth of the steps."""
    difference: Difference | None
    """Of the accuracy, from the first run's; None of the first."""
    generated_tokens: int | None
    read_tokens: int | None
    """By the teachers' passes."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of all steps by phase; `whole run` as the trainer's clock has it, where the run came to its end."""
    flops: float | None = None


@dataclass(frozen=True)
class CountedPair:
    """A pair in the usage ledger of a run."""

    skill_id: int
    mistake_id: int
    skill: str
    mistake: str
    uses: int
    utility: float
    low: float
    high: float


@dataclass(frozen=True)
class Pairs:
    """The pairs that helped and harmed most in a run, or why there are none to show."""

    helpful: tuple[CountedPair, ...] = ()
    harmful: tuple[CountedPair, ...] = ()
    missing: str = ""


def summarise(runs: Sequence[RunFolder], logs_of_runs: Sequence[Sequence[Log]], names: Sequence[str]) -> list[Summary]:
    found: list[Summary] = []
    for run, logs, name in zip(runs, logs_of_runs, names, strict=True):
        points, steps = curve_points(logs), steps_of(logs)
        last, best = (points[-1], max(points, key=lambda p: float(p["accuracy"]))) if points else (None, None)
        accuracy = None if last is None else float(last["accuracy"])
        interval = None if last is None else (float(last["ci"][0]), float(last["ci"][1]))
        first = found[0] if found else None
        rewards = [float(log["reward"]) for log in steps if "reward" in log]
        end: Mapping[str, Any] = next((log for log in reversed(logs) if "train_runtime" in log), {})
        found.append(
            Summary(
                name=name,
                method=run.config.method,
                model=run.config.model.name_or_path,
                seed=run.config.seed,
                steps=int(steps[-1]["step"]) if steps else 0,
                max_steps=run.config.train.max_steps,
                first_accuracy=float(points[0]["accuracy"]) if points else None,
                accuracy=accuracy,
                interval=interval,
                best_accuracy=None if best is None else float(best["accuracy"]),
                best_step=None if best is None else int(best["step"]),
                reward=fmean(rewards[-math.ceil(END * len(rewards)) :]) if rewards else None,
                difference=_difference(first, accuracy, interval),
                generated_tokens=_tokens(steps, points),
                read_tokens=_total(steps, "read_tokens"),
                seconds=_seconds(steps, end),
                flops=float(end["total_flos"]) if end.get("total_flos") else None,
            )
        )
    return found


def difference(one: tuple[float, float, float], other: tuple[float, float, float]) -> Difference:
    """other - one, each (value, low, high)."""
    value = other[0] - one[0]
    below = math.hypot(other[0] - other[1], one[2] - one[0])
    above = math.hypot(other[2] - other[0], one[0] - one[1])
    return Difference(value, value - below, value + above)


def _difference(
    first: Summary | None, accuracy: float | None, interval: tuple[float, float] | None
) -> Difference | None:
    if first is None or first.accuracy is None or first.interval is None or accuracy is None or interval is None:
        return None
    return difference((first.accuracy, *first.interval), (accuracy, *interval))


def _tokens(steps: Sequence[Log], points: Sequence[Mapping[str, Any]]) -> int | None:
    """Ours are counted a step; of TRL's trainers the curve knows the total."""
    counted = _total(steps, "generated_tokens")
    return counted if counted is not None else int(points[-1]["tokens"]) if points else None


def _total(steps: Sequence[Log], key: str) -> int | None:
    found = [float(log[key]) for log in steps if key in log]
    return round(sum(found)) if found else None


def _seconds(steps: Sequence[Log], end: Mapping[str, Any]) -> dict[str, float]:
    phases = dict.fromkeys(key for log in steps for key in log if key.startswith("seconds/"))
    totals = {key.removeprefix("seconds/"): sum(float(log.get(key, 0.0)) for log in steps) for key in phases}
    return totals | ({"whole run": float(end["train_runtime"])} if end else {})


def settings_that_differ(runs: Sequence[RunFolder]) -> list[tuple[str, tuple[str, ...]]]:
    """Keys of the configuration with each run's value, where these are not all the same; places are left out."""
    flat = [_flat(run.config.model_dump(mode="json")) for run in runs]
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if key != "output_dir"]
    rows = [(key, tuple(one.get(key, "–") for one in flat)) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = "none" if value is None else str(value)
    return found


def pairs_of(run: RunFolder) -> Pairs:
    """By the bounds of their utility, so that what is known of few problems does not come first."""
    if run.config.method != "sgsd" or run.config.bank.path is None:
        return Pairs(missing=f"{run.config.method} asks no pairs")
    try:
        with Bank.open(run.config.bank.path, readonly=True) as bank:
            known = list(estimates(bank, of="pair", run=run.ledger_name))
            helpful = sorted((one for one in known if one.utility > 0), key=lambda one: -one.low)[:SHOWN_PAIRS]
            harmful = sorted((one for one in known if one.utility < 0), key=lambda one: one.high)[:SHOWN_PAIRS]
            if not known:
                return Pairs(missing=f"the ledger of {run.config.bank.path} has no run {run.ledger_name}")
            return Pairs(tuple(_pair(bank, one) for one in helpful), tuple(_pair(bank, one) for one in harmful))
    except SkillBankError as error:  # a report is worth having where the bank is elsewhere by now
        return Pairs(missing=str(error))


def _pair(bank: Bank, one: Estimate) -> CountedPair:
    assert one.skill_id is not None
    assert one.mistake_id is not None
    skill, mistake = bank.get(one.skill_id).content, bank.get(one.mistake_id).content
    assert isinstance(skill, Skill)
    assert isinstance(mistake, Mistake)
    return CountedPair(
        one.skill_id, one.mistake_id, skill.title, mistake.description, one.uses, one.utility, one.low, one.high
    )


def names_of(paths: Sequence[Path]) -> list[str]:
    """What tells the folders apart, and no more: the parts of their paths from the first that differs."""
    parts = [path.resolve().parts for path in paths]
    shared = 0
    while len(paths) > 1 and len({part[: shared + 1] for part in parts}) == 1 and shared + 1 < min(map(len, parts)):
        shared += 1
    return ["/".join(part[shared:] if len(paths) > 1 else part[-2:]) for part in parts]
