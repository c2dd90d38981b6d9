"""`sgsd report`: what one or several runs came to, on one page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sgsd.errors import ConfigError
from sgsd.report.curves import Curve, curves
from sgsd.report.figures import RUNS, figure, sample
from sgsd.report.folder import open_run
from sgsd.report.heat import signed
from sgsd.report.page import render
from sgsd.report.quantities import Quantity
from sgsd.report.summary import Pairs, Summary, names_of, pairs_of, settings_that_differ, summarise

ROWS = 20
"""Of the table under a plot; of longer curves evenly spaced points, the last among them."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    names: tuple[str, ...]
    summaries: tuple[Summary, ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    """Key and each run's value, where they differ."""
    curves: tuple[Curve, ...]
    missing: tuple[Quantity, ...]
    """What no run recorded."""
    pairs: tuple[Pairs, ...]


def report_on(paths: Sequence[Path]) -> Report:
    """Raises ConfigError for folders of no run, and for more runs than a page can tell apart."""
    if len(paths) > RUNS:
        raise ConfigError(f"{len(paths)} runs are more than the {RUNS} that a page can tell apart: give fewer")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a run is given twice: give each once")
    runs = [open_run(path) for path in paths]
    logs, names = [run.logs() for run in runs], names_of(paths)
    found, missing = curves(logs)
    return Report(
        names=tuple(names),
        summaries=tuple(summarise(runs, logs, names)),
        settings=tuple(settings_that_differ(runs)),
        curves=tuple(found),
        missing=tuple(missing),
        pairs=tuple(pairs_of(run) for run in runs),
    )


def report_page(report: Report) -> str:
    """The page. Raises ConfigError when matplotlib is not installed."""
    sections = [
        (name, [{"curve": curve, "plot": figure(curve), "rows": table(curve)} for curve in some])
        for name, some in groupby(report.curves, key=lambda curve: curve.section)
    ]
    return render(
        "report.html",
        {
            "report": report,
            "sections": sections,
            "samples": [sample(run) for run in range(len(report.names))],
            "phases": list(dict.fromkeys(phase for one in report.summaries for phase in one.seconds)),
            "percent": percent,
            "signed": signed,
            "value": value,
        },
    )


def table(curve: Curve) -> list[tuple[str, list[str]]]:
    """(step or tokens, each run's value) of at most ROWS points."""
    xs = sorted({x for line in curve.lines for x in line.x})
    every = -(-len(xs) // ROWS)
    kept = [x for n, x in enumerate(xs) if (len(xs) - 1 - n) % every == 0]
    runs = sorted([*(line.run for line in curve.lines), *curve.without])
    by_run = {line.run: line for line in curve.lines}
    rows = []
    for x in kept:
        cells = []
        for run in runs:
            line = by_run.get(run)
            n = line.x.index(x) if line is not None and x in line.x else None
            cells.append(
                "–" if line is None or n is None else _cell(curve, line.y[n], line.low[n : n + 1], line.high[n : n + 1])
            )
        rows.append((f"{x:,.0f}", cells))
    return rows


def _cell(curve: Curve, y: float, low: Sequence[float], high: Sequence[float]) -> str:
    bounds = f" [{value(curve.unit, low[0])}, {value(curve.unit, high[0])}]" if low else ""
    return value(curve.unit, y) + bounds


def value(unit: str, number: float) -> str:
    """A number as people read it."""
    if unit == "share":
        return percent(number)
    text = f"{number:,.1f}" if unit == "tokens" else f"{number:.4g}"
    return text.replace("-", "−")


def percent(number: float | None) -> str:
    return "–" if number is None else f"{100 * number:.1f} %"


def payload(report: Report) -> dict[str, Any]:
    """The same as plain values."""
    values = dataclasses.asdict(dataclasses.replace(report, missing=()))
    return values | {"missing": [quantity.key for quantity in report.missing]}
