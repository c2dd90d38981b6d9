"""A certificate: what of a bank was checked, by which rules, against which evaluation files, and what was found.

It speaks of the entries that retrieval may return at one revision, by the hash of their words. Nothing in it has to be
believed: `verify` looks at the bank again and names every difference. A bank with findings that nobody released gets a
certificate that says so (`clean` is false) and lists them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from skillbank.errors import BankCorrupt, BankNotFound
from skillbank.guard.evaluations import EvaluationFile, registered
from skillbank.guard.guard import Flagged, Guard
from skillbank.guard.rules import RULES
from skillbank.records import Kind, Record, Status
from skillbank.store.query import SIDES

if TYPE_CHECKING:
    from skillbank.index.embed import Embedder
    from skillbank.store import Bank

MAX_BYTES = 64 << 20


class Certificate(Record):
    """What `bank certify` writes."""

    format: Literal["skillbank certificate 1"] = "skillbank certificate 1"
    at: str
    """UTC, ISO 8601."""
    skillbank: str
    """The version of the software."""
    bank_id: str
    revision: int
    retrievable: dict[Kind, int]
    """What was checked: the skills and mistakes that retrieval may return."""
    content: str
    """SHA-256 over the ids, kinds and content hashes of those, in order."""
    clean: bool
    """No rule finds anything in them that a person has not released."""
    findings: tuple[Flagged, ...]
    """What is found in them and not released; empty when `clean`."""
    rules: dict[str, int]
    """Rule -> version."""
    evaluations: tuple[EvaluationFile, ...]
    """Registered files, with SHA-256 and number of problems."""
    evaluation_problems: str
    """SHA-256 over the registered problems themselves."""
    embedder: str | None
    """Fingerprint of the one that looked for near evaluation problems; None: it was not looked for."""
    language: str | None
    flagged: dict[str, int]
    """Rule -> flags in the whole bank that keep entries from retrieval."""
    released: dict[str, int]
    """Rule -> flags in the whole bank that a person released."""
    by_status: dict[Status, int]
    """Entries of the whole bank."""
    digest: str = Field(default="")
    """SHA-256 of the certificate without this field."""


class Verification(Record):
    """Whether a certificate still tells the truth about a bank."""

    holds: bool
    clean: bool
    """What the certificate says itself."""
    differences: tuple[str, ...]


def certify(bank: Bank, *, embedder: Embedder | None = None) -> Certificate:
    """Checks what retrieval may return, by all rules, and writes down the result. Changes nothing in the bank."""
    guard = Guard(bank, embedder=embedder)
    ids = {kind: bank.retrievable(kind) for kind in SIDES}
    content = hashlib.sha256()
    findings: list[Flagged] = []
    everything = sorted(i for kind in SIDES for i in ids[kind])
    hashes = bank.db.rows(
        "SELECT id, kind, content_hash FROM entries WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps(everything),),
    )
    for row in hashes:
        content.update(f"{row['id']} {row['kind']} {row['content_hash']}\n".encode())
    for entry, flags in guard.findings(bank, ids=everything):
        let = {(flag.rule, flag.reason) for flag in entry.flags if flag.released}
        findings += [
            Flagged(entry=entry.id, kind=entry.kind, rule=flag.rule, reason=flag.reason)
            for flag in flags
            if (flag.rule, flag.reason) not in let
        ]
    flagged, released = _flag_counts(bank)
    certificate = Certificate(
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        skillbank=_version(),
        bank_id=bank.meta("bank_id") or "",
        revision=bank.revision,
        retrievable={kind: len(ids[kind]) for kind in SIDES},
        content=content.hexdigest(),
        clean=not findings,
        findings=tuple(findings),
        rules={name: rule.version for name, rule in RULES.items()},
        evaluations=tuple(registered(bank)),
        evaluation_problems=_problems_hash(bank),
        embedder=None if embedder is None else embedder.fingerprint.digest,
        language=guard.language,
        flagged=flagged,
        released=released,
        by_status=bank.stats().by_status,
    )
    return certificate.model_copy(update={"digest": _digest(certificate)})


def write(certificate: Certificate, path: str | os.PathLike[str]) -> None:
    """Whole or not at all."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    try:
        part.write_text(certificate.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> Certificate:
    """Raises BankNotFound when there is no file, BankCorrupt when it is no certificate or was changed by hand."""
    file = Path(path)
    if not file.is_file():
        raise BankNotFound(f"no certificate at {file}: write one with `sgsd bank certify --out {file}`")
    if file.stat().st_size > MAX_BYTES:
        raise BankCorrupt(f"{file} has {file.stat().st_size:,} bytes, a certificate has at most {MAX_BYTES:,}")
    try:
        certificate = Certificate.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise BankCorrupt(f"{file} is no certificate ({where}: {first['msg']}): write a new one") from error
    if certificate.digest != _digest(certificate):
        raise BankCorrupt(f"{file} was changed after it was written (its digest does not fit): write a new one")
    return certificate


def verify(bank: Bank, certificate: Certificate, *, embedder: Embedder | None = None) -> Verification:
    """Checks the bank again, and names what is no longer as the certificate says."""
    now = certify(bank, embedder=embedder)
    differences = []
    for name in (
        "bank_id",
        "revision",
        "retrievable",
        "content",
        "clean",
        "embedder",
        "language",
        "flagged",
        "released",
    ):
        then, is_now = getattr(certificate, name), getattr(now, name)
        if then != is_now:
            differences.append(f"{name} was {_shown(then)}, is {_shown(is_now)}")
    for name in sorted(set(certificate.rules) | set(now.rules)):
        if certificate.rules.get(name) != now.rules.get(name):
            differences.append(f"rule {name} was version {certificate.rules.get(name)}, is {now.rules.get(name)}")
    known = {(file.file, file.sha256, file.problems) for file in now.evaluations}
    then_known = {(file.file, file.sha256, file.problems) for file in certificate.evaluations}
    differences += [f"evaluation file {file} is no longer registered" for file, *_ in sorted(then_known - known)]
    differences += [f"evaluation file {file} was not registered then" for file, *_ in sorted(known - then_known)]
    if known == then_known and certificate.evaluation_problems != now.evaluation_problems:
        differences.append("the registered evaluation problems are others under the same files")
    if certificate.findings != now.findings and certificate.clean == now.clean:
        differences.append(f"{len(certificate.findings)} findings then, {len(now.findings)} others now")
    return Verification(holds=not differences, clean=certificate.clean, differences=tuple(differences))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "none"
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 20 else str(value)


def _digest(certificate: Certificate) -> str:
    body = certificate.model_dump(mode="json", exclude={"digest"})
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _problems_hash(bank: Bank) -> str:
    digest = hashlib.sha256()
    for row in bank.db.stream("SELECT sha256, number, problem FROM evaluations ORDER BY sha256, number"):
        digest.update(json.dumps([row["sha256"], row["number"], row["problem"]]).encode())
    return digest.hexdigest()


def _flag_counts(bank: Bank) -> tuple[dict[str, int], dict[str, int]]:
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    rows = bank.db.rows(
        "SELECT json_extract(f.value, '$.rule') AS rule, json_extract(f.value, '$.released') AS released, count(*) AS n"
        " FROM entries e, json_each(e.flags) f WHERE e.flags <> '[]' AND NOT e.withdrawn GROUP BY 1, 2 ORDER BY 1"
    )
    for row in rows:
        counts[bool(row["released"])][row["rule"]] += row["n"]
    return dict(counts[False]), dict(counts[True])


def _version() -> str:
    try:
        return version("sgsd")
    except PackageNotFoundError:
        return "unknown"  # run from a source tree that was never installed
