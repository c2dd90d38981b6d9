"""`sgsd report`: one or several runs in plots and tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.common import check_file, emit, waiting

if TYPE_CHECKING:
    from sgsd.report.report import Report
    from sgsd.report.summary import Summary


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; several are overlaid.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write. Default: report.html in the run's folder; of several, here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Also print what the page shows, as JSON.")] = False,
) -> None:
    """Show what runs came to on one page that needs no network: curves, differences, cost, pairs that counted.

    Example: sgsd report runs/a runs/b --out report.html
    """
    from sgsd.report.report import payload, report_on, report_page

    page = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    with waiting("reading"):
        found = report_on(runs)
        check_file(page, "--out", "report.html")
        html = report_page(found)
    from sgsd.report.page import write

    write(page, html)
    emit({"page": str(page), **payload(found)}, as_json, lambda: _print(found, page))


def _print(found: Report, page: Path) -> None:
    for one in found.summaries:
        typer.echo(f"{one.name}  {one.method}, {one.steps} of {one.max_steps} steps{_accuracy(one)}")
    typer.echo(f"page: {page}")


def _accuracy(one: Summary) -> str:
    if one.accuracy is None or one.first_accuracy is None:
        return ""
    lead = one.difference
    beside = "" if lead is None else f"; {100 * lead.value:+.1f} [{100 * lead.low:+.1f}, {100 * lead.high:+.1f}] points"
    return f", held-out accuracy {one.first_accuracy:.1%} -> {one.accuracy:.1%}{beside}"
