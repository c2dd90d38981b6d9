"""What keeps a bank clean: `guard` looks at its entries, `evaluations` says what they must not know, `certify` writes
down that they were checked, `retract` takes back what rests on a rollout or a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.bank import guard_text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import (
    BankOption,
    JsonOption,
    PreviewOption,
    ReasonOption,
    WhereOption,
    actor,
    query,
    reading,
    writing,
)
from sgsd.cli.common import check_file, emit, offline_without_network, waiting

if TYPE_CHECKING:
    from skillbank.index.embed import Embedder
    from skillbank.store import Bank

NearOption = Annotated[
    bool,
    typer.Option("--near", help="Look for reworded evaluation problems too, by the bank's embedder; takes longer."),
]


@app.command(epilog="Example: sgsd bank guard --bank bank --preview")
def guard(
    bank: BankOption,
    where: WhereOption = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only this rule; give it again for more.")] = None,
    near: NearOption = False,
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Look for leaked answers, evaluation problems, orders to the model, secrets ... and quarantine what has them.

    Entries in quarantine are not retrieved until someone lets them through with `sgsd bank release`. docs/guard.md says
    what each rule catches.
    """
    from skillbank.guard import Guard

    with (reading if preview else writing)(bank) as opened:
        watch = Guard(opened, embedder=_embedder(opened, near), rules=rule)
        report = watch.scan(opened, query(where, {}), actor=actor(), reason=reason, preview=preview)
    emit(report, json, lambda: guard_text.scan(report, preview))


@app.command(epilog="Example: sgsd bank evaluations --add AIME24.parquet --add HMMT25.parquet --bank bank")
def evaluations(
    bank: BankOption,
    add: Annotated[
        list[Path] | None, typer.Option(help="Register a file of problems: parquet, JSONL or JSON; again for more.")
    ] = None,
    forget: Annotated[
        list[str] | None, typer.Option(help="Take a file out of the registry, by its name or SHA-256; again for more.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List, add or drop the evaluation files whose problems nothing in the bank may come from.

    After adding one, look at what the bank holds already with `sgsd bank guard`.
    """
    from skillbank.guard import evaluations as registry

    with (writing if add or forget else reading)(bank) as opened:
        added = [registry.register(opened, path) for path in add or ()]
        gone = [file for name in forget or () for file in registry.forget(opened, name)]
        files = registry.registered(opened)
    payload = {name: [file.model_dump() for file in rows] for name, rows in (("files", files), ("forgotten", gone))}
    payload["added"] = [file.model_dump() for file in added]
    emit(payload, json, lambda: guard_text.evaluations(files, added, gone))


@app.command(epilog="Example: sgsd bank certify --bank bank --out certificate.json")
def certify(
    bank: BankOption,
    out: Annotated[Path | None, typer.Option(help="Write the certificate into this file.")] = None,
    verify: Annotated[
        Path | None, typer.Option(help="Check the bank again, and say whether this certificate still holds.")
    ] = None,
    near: NearOption = False,
    json: JsonOption = False,
) -> None:
    """Write down what was checked of a bank, against what, with hashes; or verify what was written.

    Fails when something that can be retrieved has a finding that nobody released, or when a certificate does not hold.
    """
    if out is not None and verify is not None:
        raise typer.BadParameter("write a certificate or verify one, not both", param_hint="--out, --verify")
    if out is not None:
        check_file(out, "--out", "certificate.json")
    from skillbank.guard import certificate as certificates

    with reading(bank) as opened:
        if verify is not None:
            certificate = certificates.read(verify)
            embedder = _embedder(opened, near or certificate.embedder is not None)
            verified = certificates.verify(opened, certificate, embedder=embedder)
            emit(verified, json, lambda: guard_text.verification(verify, certificate, verified))
            ok = verified.holds and verified.clean
        else:
            written = certificates.certify(opened, embedder=_embedder(opened, near))
            if out is not None:
                certificates.write(written, out)
            emit(written, json, lambda: guard_text.certificate(written, out))
            ok = written.clean
    if not ok:
        raise typer.Exit(1)


@app.command(epilog='Example: sgsd bank retract --source rollouts-0007.jsonl --reason "wrong verdicts" --bank bank')
def retract(
    bank: BankOption,
    source: Annotated[
        str, typer.Option(help="A rollout's id, or a file that rollouts were read from, by path or name.")
    ],
    reason: ReasonOption = "",
    preview: PreviewOption = False,
    json: JsonOption = False,
) -> None:
    """Let nothing rest on a rollout or a file any more: what rests on it alone is retired, through all merges."""
    from skillbank.guard.retraction import retract as take_back

    with writing(bank) as opened:
        done = take_back(opened, source, actor=actor(), reason=reason, preview=preview)
    emit(done, json, lambda: guard_text.retraction(done, preview, bank))


def _embedder(bank: Bank, near: bool) -> Embedder | None:
    if not near:
        return None
    recorded = bank.meta("embedder")
    if recorded is None:
        raise typer.BadParameter(
            "the bank has no embedder yet: embed it with `sgsd bank build --embedder NAME`", param_hint="--near"
        )
    offline_without_network(recorded)
    with waiting("loading the embedder"):
        from skillbank.index.vectors import bank_embedder

        return bank_embedder(bank)
