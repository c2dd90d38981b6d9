"""What `sgsd eval` reports: numbers as JSON and as lines, a table with the mean where there are several sets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sgsd.cli.common import counted
from sgsd.cli.drawing import unverifiable_reasons

if TYPE_CHECKING:
    from sgsd.evaluate import Estimate, EvalResult
    from sgsd.records import Problem


@dataclass(frozen=True)
class Measured:
    """One source of problems: its name in the table, where it is from, what is in it."""

    name: str
    source: str
    problems: Sequence[Problem]


def payload(
    sets: Sequence[Measured], results: Sequence[EvalResult], mean: Estimate | None, of: Mapping[str, Any]
) -> dict[str, Any]:
    """The only set's numbers, or the mean over several; then each set's, and what the evaluation is of."""
    from sgsd.provenance import problems_hash

    overall = results[0].summary()
    if mean is not None:
        overall = {
            "accuracy": mean.value,
            "ci": [mean.low, mean.high],
            "k": results[0].k,
            "problems": sum(result.problems for result in results),
        }
    each = [
        {"name": one.name, "source": one.source, "sha256": problems_hash(one.problems), **result.summary()}
        for one, result in zip(sets, results, strict=True)
    ]
    return overall | {"sets": each, "evaluation": dict(of)}


def write(path: Path, report: Mapping[str, Any], results: Sequence[EvalResult]) -> None:
    """Write numbers and records, whole or not at all."""
    each = [
        one | {"records": [dataclasses.asdict(record) for record in result.records]}
        for one, result in zip(report["sets"], results, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp")
    try:
        part.write_text(json.dumps({**report, "sets": each}, ensure_ascii=False, indent=1), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def show(sets: Sequence[Measured], results: Sequence[EvalResult], mean: Estimate | None) -> None:
    if mean is None:
        _print_one(results[0])
        return
    width = max(len(one.name) for one in sets)
    for one, result in zip(sets, results, strict=True):
        low, high = result.ci
        line = f"{one.name:<{width}}  {result.accuracy:.3f} [{low:.3f}, {high:.3f}]  avg@{result.k}"
        typer.echo("; ".join([f"{line} over {counted(result.problems, 'problem')}", *_notes(result)]))
    typer.echo(f"{'mean':<{width}}  {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]  of {len(sets)} sets")


def _print_one(result: EvalResult) -> None:
    low, high = result.ci
    over = f"avg@{result.k} over {counted(result.problems, 'problem')}"
    typer.echo(f"accuracy {result.accuracy:.3f} [{low:.3f}, {high:.3f}]  {over}")
    if result.k > 1:
        for draws, estimate in result.pass_at_k.items():
            typer.echo(f"pass@{draws}  {estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]")
        vote = result.majority_at_k
        typer.echo(f"majority@{result.k}  {vote.value:.3f} [{vote.low:.3f}, {vote.high:.3f}]")
    typer.echo("; ".join(_notes(result)))
    said = (both for r in result.records for both in zip(r.outcomes, r.reasons, strict=True))
    for reason, count in unverifiable_reasons(said).items():
        typer.echo(f"{count} unverifiable: {reason}")


def _notes(result: EvalResult) -> list[str]:
    notes = [f"{result.mean_tokens:.1f} tokens a completion"]
    notes += [f"{result.truncated_share:.1%} cut off"] if result.truncated_share else []
    notes += [f"{result.unverifiable} unverifiable"] if result.unverifiable else []
    left_out = f"{counted(result.too_long, 'problem')} left out: longer than --max-prompt-tokens"
    return notes + ([left_out] if result.too_long else [])
