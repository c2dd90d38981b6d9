"""What came of a comparison: rows by method and level, as JSON, Markdown and a page."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

TARGETS = (0.5, 0.8)
"""Accuracies to which the tokens are counted."""
T_95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1 to 9; above, the normal's 1.96 serves."""

HEADER = (
    *("level", "method", "seeds", "test accuracy", "95 % over seeds", "tokens"),
    *(f"tokens to {target:.0%}" for target in TARGETS),
    *("peak MB", "seconds", "PFLOP", "notes"),
)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line a level and method, in the order of their first rows: means over seeds."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["level"], row["method"]), []).append(row)
    return [_line(level, method, runs) for (level, method), runs in groups.items()]


def _line(level: str, method: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    accuracies = [run["accuracy"] for run in runs]
    flops = [run["flops"] for run in runs if run["flops"]]
    return {
        "level": level,
        "method": method,
        "seeds": len(runs),
        "accuracy": fmean(accuracies),
        "ci": interval_over_seeds(accuracies),
        "tokens": fmean(run["tokens"] for run in runs),
        "tokens_to": {str(target): _mean_to(target, runs) for target in TARGETS},
        "peak_mb": max(run["peak_mb"] for run in runs),
        "seconds": fmean(run["seconds"] for run in runs),
        "flops": fmean(flops) if flops else None,
        "collapsed": sum(run["collapsed"] for run in runs),
        "config": sorted({run["config"] for run in runs}),
    }


def interval_over_seeds(values: Sequence[float]) -> list[float] | None:
    """Mean plus and minus t times the standard error, within [0, 1]; None of a single seed, which has none."""
    if len(values) < 2:
        return None
    t = T_95[len(values) - 1] if len(values) <= len(T_95) else 1.96
    half = t * stdev(values) / math.sqrt(len(values))
    return [max(0.0, fmean(values) - half), min(1.0, fmean(values) + half)]


def tokens_to(target: float, curve: Iterable[Mapping[str, Any]]) -> float | None:
    """Generated tokens at which the curve first reaches `target`, straight lines between its points; None if never."""
    before: Mapping[str, Any] | None = None
    for point in curve:
        if point["accuracy"] >= target:
            if before is None:
                return float(point["tokens"])
            share = (target - before["accuracy"]) / (point["accuracy"] - before["accuracy"])
            return float(before["tokens"] + share * (point["tokens"] - before["tokens"]))
        before = point
    return None


def _mean_to(target: float, runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Over the seeds; None unless each of them got there."""
    reached = [tokens_to(target, run["curve"]) for run in runs]
    there = [value for value in reached if value is not None]
    return fmean(there) if there and len(there) == len(reached) else None


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    cells = [list(HEADER), ["---"] * len(HEADER), *map(_cells, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def page(lines: Sequence[Mapping[str, Any]], *, command: str) -> str:
    """A self-contained page with the table, readable in light and dark."""
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(line)) + "</tr>\n" for line in lines
    )
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>sgsd compare</title>\n<style>:root{color-scheme:light dark;font:14px/1.5 system-ui,sans-serif}"
        "body{margin:2rem}table{border-collapse:collapse}th,td{padding:.3rem .7rem;text-align:right;"
        "border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent);white-space:nowrap}"
        "th:nth-child(-n+2),td:nth-child(-n+2),td:last-child{text-align:left}div{overflow-x:auto}</style>\n"
        f"<h1>Methods compared</h1>\n<p><code>{html.escape(command)}</code></p>\n"
        f"<div><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div></html>\n"
    )


def _cells(line: Mapping[str, Any]) -> list[str]:
    interval = f"{line['ci'][0]:.1%} - {line['ci'][1]:.1%}" if line["ci"] else "-"
    notes = [f"{line['collapsed']} of {line['seeds']} collapsed"] if line["collapsed"] else []
    return [
        *(line["level"], line["method"], str(line["seeds"]), f"{line['accuracy']:.1%}", interval),
        f"{line['tokens']:,.0f}",
        *(_tokens(line["tokens_to"][str(target)]) for target in TARGETS),
        *(f"{line['peak_mb']:,.0f}", f"{line['seconds']:.0f}"),
        "-" if line["flops"] is None else f"{line['flops'] / 1e15:.3g}",
        "; ".join(notes) or "-",
    ]


def _tokens(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
