"""Metrics of several runs as curves over their steps, one curve a quantity, the runs side by side in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sgsd.curve import curve_points
from sgsd.report.quantities import QUANTITIES, Log, Quantity, Unit


@dataclass(frozen=True)
class Line:
    """One run's values of a quantity."""

    run: int
    """Its number among the runs of the page."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    """With `high` the 95 % interval of each value; empty where none was measured."""
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A quantity over the runs that recorded it."""

    section: str
    key: str
    title: str
    unit: Unit
    over: Literal["step", "generated tokens"]
    meaning: str
    lines: tuple[Line, ...]
    without: tuple[int, ...]
    """Runs that did not record it."""


def steps_of(logs: Sequence[Log]) -> list[Log]:
    """One log an optimiser step, without the summary of the end.

    A step may have several lines: with a point of the accuracy curve TRL's trainers write what they have counted.
    """
    steps: dict[int, dict[str, Any]] = {}
    for log in logs:
        if "train_runtime" not in log:
            steps.setdefault(log["step"], {}).update(log)
    return [log for log in steps.values() if "loss" in log]


def curves(logs_of_runs: Sequence[Sequence[Log]]) -> tuple[list[Curve], list[Quantity]]:
    """Accuracy and every quantity that a run recorded, and the quantities that none did."""
    found, missing = _accuracy(logs_of_runs), []
    for quantity in QUANTITIES:
        lines = [_line(run, steps_of(logs), quantity) for run, logs in enumerate(logs_of_runs)]
        there = tuple(line for line in lines if line is not None)
        if not there:
            missing.append(quantity)
            continue
        without = tuple(run for run, line in enumerate(lines) if line is None)
        found.append(
            Curve(
                quantity.section, quantity.key, quantity.title, quantity.unit, "step", quantity.meaning, there, without
            )
        )
    order = {name: n for n, name in enumerate(dict.fromkeys(q.section for q in QUANTITIES))}
    return sorted(found, key=lambda curve: order[curve.section]), missing


def _line(run: int, logs: Sequence[Log], quantity: Quantity) -> Line | None:
    points = [(float(log["step"]), value) for log in logs if (value := quantity.of(log)) is not None]
    if not points:
        return None
    x, y = zip(*points, strict=True)
    return Line(run, x, y)


def _accuracy(logs_of_runs: Sequence[Sequence[Log]]) -> list[Curve]:
    """Held-out accuracy over steps, and over tokens, which is the fairer axis between methods."""
    points = [curve_points(logs) for logs in logs_of_runs]
    if not any(points):
        return []
    without = tuple(run for run, found in enumerate(points) if not found)
    meaning = "On held-out problems from plain prompts, with the 95 % bootstrap interval over problems."
    axes: tuple[tuple[str, Literal["step", "generated tokens"], str], ...] = (
        ("accuracy", "step", "step"),
        ("accuracy_by_tokens", "generated tokens", "tokens"),
    )
    return [
        Curve(
            "Learning",
            key,
            "Held-out accuracy" if over == "step" else "Held-out accuracy by tokens",
            "share",
            over,
            meaning,
            tuple(
                Line(
                    run,
                    tuple(float(point[x]) for point in found),
                    tuple(point["accuracy"] for point in found),
                    tuple(point["ci"][0] for point in found),
                    tuple(point["ci"][1] for point in found),
                )
                for run, found in enumerate(points)
                if found
            ),
            without,
        )
        for key, over, x in axes
    ]
