"""Banks in and out: `import`, `export`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import BankOption, JsonOption, ReasonOption, actor, reading
from sgsd.cli.common import check_file, check_folder, counted, emit, note, waiting, warn
from sgsd.errors import ConfigError

if TYPE_CHECKING:
    from skillbank.exchange import ExportReport, ImportReport

# Spelt out here as well as in skillbank.exchange, which would bring pydantic into `sgsd --help`.
Format = Literal["jsonl", "parquet", "sgsd"]
BY_SUFFIX: dict[str, Format] = {".jsonl": "jsonl", ".parquet": "parquet", ".json": "sgsd"}


@app.command("import", epilog="Example: sgsd bank import skills.json --bank bank")
def import_(
    file: Annotated[
        Path, typer.Argument(help="A bank that was exported, or a JSON bank of SGSD or SkillRL.", show_default=False)
    ],
    bank: BankOption,
    format: Annotated[
        Literal["auto", "jsonl", "parquet", "sgsd"], typer.Option(help="What the file is; its content tells.")
    ] = "auto",
    trust: Annotated[
        bool, typer.Option("--trust", help="Take entries as they are: only what the guard flags is quarantined.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would come in and write nothing.")] = False,
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """Take entries from a file, quarantined until somebody releases them. Makes the bank when there is none."""
    check_folder(bank, "--bank")
    from skillbank.exchange import import_into

    with waiting(f"reading {file}"):
        report = import_into(
            bank,
            file,
            format=None if format == "auto" else format,
            trust=trust,
            dry_run=dry_run,
            actor=actor(),
            reason=reason,
        )
    emit(report, json, lambda: _print_import(report, bank, dry_run))
    _warn_of_rejected(report, bank, dry_run)


def _print_import(report: ImportReport, bank: Path, dry_run: bool) -> None:
    verb = "would come" if dry_run else "came"
    where = "" if report.revision is None else f" as revision {report.revision}"
    typer.echo(f"{report.file} ({report.format}): {_kinds(report.added)} {verb} into {bank}{where}")
    if report.known:
        gained = f"; they gained {counted(report.evidence, 'place')}" if report.trusted and not report.added else ""
        typer.echo(f"  known already: {_kinds(report.known)}{gained}")
    if report.quarantined:
        rules = ", ".join(f"{rule} {count:,}" for rule, count in sorted(report.flags.items()))
        typer.echo(f"  quarantined: {report.quarantined:,} (flags: {rules})")
    if report.quarantined and not dry_run:
        typer.echo(
            f"Nothing quarantined is retrieved until it is released: look at it with `sgsd bank list --bank {bank}`"
        )


def _warn_of_rejected(report: ImportReport, bank: Path, dry_run: bool) -> None:
    if report.rejected:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(report.rejected.items()))
        kept = "" if dry_run or report.revision is None else f"; they are in {bank / 'import-rejected.jsonl'}"
        warn(f"{counted(sum(report.rejected.values()), 'record')} could not be taken: {reasons}{kept}")
    if report.ignored:
        fields = ", ".join(f"{field} {count:,}" for field, count in sorted(report.ignored.items()))
        warn(f"fields for which a bank has no place: {fields}")


@app.command(epilog='Example: sgsd bank export bank.jsonl --where "status:active" --bank bank')
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; - for stdout.", show_default=False)],
    bank: BankOption,
    format: Annotated[
        Format | None,
        typer.Option(help="By default the name's: .jsonl, .parquet, .json for SGSD's; jsonl on stdout."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="QUERY",
            help="Only entries that fit, such as `status:active tag:algebra`, and what those cannot do without.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write the bank, or what a query selects, as a file that can be compared, shared and imported."""
    to_stdout = str(file) == "-"
    chosen = format or ("jsonl" if to_stdout else BY_SUFFIX.get(file.suffix))
    if chosen is None:
        raise ConfigError(f"{file} tells no format: name it with --format, or end it in {', '.join(BY_SUFFIX)}")
    if to_stdout and json:
        raise typer.BadParameter("stdout holds the bank itself: name a file, or leave --json out", param_hint="--json")
    if not to_stdout:
        check_file(file, "FILE", "bank.jsonl")
    from skillbank.exchange import export_file
    from skillbank.store.query import Query

    query = None if where is None else Query.parse(where)
    with reading(bank) as opened, tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "bank" if to_stdout else file
        with waiting(f"writing {file}"):
            report = export_file(opened, target, format=chosen, where=query)
        if to_stdout:
            with target.open("rb") as stream:
                shutil.copyfileobj(stream, sys.stdout.buffer)
            sys.stdout.flush()
    if not to_stdout:
        emit(report, json, lambda: typer.echo(f"{report.file} ({report.format}): {_kinds(report.entries)}"))
    _note_left_out(report)


def _note_left_out(report: ExportReport) -> None:
    if report.left_out:
        note("left out: " + ", ".join(f"{what} {count:,}" for what, count in report.left_out.items()))


def _kinds(counts: dict[str, int]) -> str:
    return ", ".join(counted(count, kind) for kind, count in counts.items() if count) or "nothing"
