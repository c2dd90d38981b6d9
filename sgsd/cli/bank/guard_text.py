"""What the guard's commands print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sgsd.cli.bank.text import undo_hint
from sgsd.cli.common import counted

if TYPE_CHECKING:
    from skillbank.guard import ScanReport
    from skillbank.guard.certificate import Certificate, Verification
    from skillbank.guard.evaluations import EvaluationFile, Registered
    from skillbank.guard.retraction import Retraction

SHOWN = 40


def scan(report: ScanReport, preview: bool) -> None:
    for hit in report.flagged[:SHOWN]:
        typer.echo(f"{hit.kind} {hit.entry}  {hit.rule}: {hit.reason}{'' if hit.new else '  (known)'}")
    if len(report.flagged) > SHOWN:
        typer.echo(f"and {len(report.flagged) - SHOWN:,} more flags (--json prints all)")
    if report.flagged:
        typer.echo("")
    problems = counted(report.evaluations, "evaluation problem")
    typer.echo(f"checked      {report.checked:,} entries by {counted(len(report.rules), 'rule')}, against {problems}")
    typer.echo(f"flagged      {_counts(report.by_rule)}")
    if report.released:
        typer.echo(f"released     {counted(report.released, 'flag')} that someone let through")
    if report.skipped:
        typer.echo(f"skipped      {report.skipped:,} that were reworded meanwhile: run it again")
    if not report.new:
        return
    entries = "1 entry" if report.quarantined == 1 else f"{report.quarantined:,} entries"
    if preview:
        typer.echo(f"preview      {entries} would go into quarantine; nothing was changed")
    else:
        typer.echo(f"quarantined  {entries}: revision {report.revision} (let through with `sgsd bank release ID`)")


def evaluations(files: Sequence[EvaluationFile], added: Sequence[Registered], gone: Sequence[EvaluationFile]) -> None:
    for file in added:
        what = "registered" if file.new else "was registered before"
        lost = f"; no problem in {_counts(file.rejected)}" if file.rejected else ""
        typer.echo(f"{file.file}: {counted(file.problems, 'problem')}, {what}{lost}")
    for dropped in gone:
        typer.echo(f"{dropped.file}: no longer registered")
    if not files:
        typer.echo("no evaluation file is registered (--add FILE)")
        return
    for known in files:
        typer.echo(f"{known.problems:>6,} problems  {known.sha256[:16]}  {known.file}")


def certificate(written: Certificate, out: Path | None) -> None:
    _body(written)
    for hit in written.findings[:SHOWN]:
        typer.echo(f"  {hit.kind} {hit.entry}  {hit.rule}: {hit.reason}")
    if written.clean:
        typer.echo("clean         no rule finds anything that nobody released")
    else:
        typer.echo(
            f"not clean     {counted(len(written.findings), 'finding')} in what is retrieved: "
            "run `sgsd bank guard`, then release or edit"
        )
    if out is not None:
        typer.echo(f"written       {out}")


def verification(path: Path, certificate: Certificate, verified: Verification) -> None:
    _body(certificate)
    for difference in verified.differences:
        typer.echo(f"  {difference}")
    says = "clean" if verified.clean else "not clean"
    typer.echo(f"{path}: {'holds' if verified.holds else 'does not hold'}, says {says}")


def _body(certificate: Certificate) -> None:
    files = ", ".join(f"{file.file} ({file.problems})" for file in certificate.evaluations) or "none"
    typer.echo(f"bank          {certificate.bank_id[:12]} at revision {certificate.revision}, {certificate.at}")
    typer.echo(f"retrievable   {_counts(certificate.retrievable)}, content {certificate.content[:16]}")
    typer.echo(f"rules         {', '.join(f'{name} {version}' for name, version in certificate.rules.items())}")
    typer.echo(f"evaluations   {files}")
    typer.echo(f"in quarantine {_counts(certificate.flagged)}")
    typer.echo(f"released      {_counts(certificate.released)}")


def retraction(done: Retraction, preview: bool, bank: Path) -> None:
    typer.echo(f"source      {done.source}: {counted(done.rollouts, 'rollout')}, {counted(done.places, 'place')}")
    for name, ids in (("retired", done.retired), ("back again", done.revived), ("flagged", done.flagged)):
        if ids:
            typer.echo(f"{name:<11} {_ids(ids)}")
    if done.pairs:
        typer.echo(f"pairs       {_ids(done.pairs)}: without one side")
    typer.echo(f"kept        {done.kept:,} that rest on other rollouts too")
    if done.leaving:
        typer.echo(f"no longer retrieved: {_ids(done.leaving)}")
    if preview:
        typer.echo("preview: nothing was changed")
    elif done.revision is None:
        typer.echo("nothing changed")
    else:
        typer.echo(f"revision {done.revision} {undo_hint(done.revision, bank)}")


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _ids(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:SHOWN]))
    return f"{shown} and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else shown
