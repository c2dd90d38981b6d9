"""A bank's embedder and its vectors: whether they belong together, and whether the vectors can be what they should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from skillbank.doctor import problems
from skillbank.doctor.report import Findings
from skillbank.index.embed import Fingerprint, folder_hash
from skillbank.index.lexical import MARKER_FILE
from skillbank.index.vectors import FOLDER
from skillbank.store.database import Database
from skillbank.store.query import SIDES, retrievable

if TYPE_CHECKING:
    from skillbank.index.embed import Embedder

CHUNK = 4096
"""Vectors looked at together."""
SAMPLE = 256
"""Texts embedded again, where an embedder is at hand."""
NORM_TOLERANCE = 1e-3
LEAST_COSINE = 0.999
"""Between a vector and the one computed again: a model on other hardware rounds otherwise."""


def fingerprint_of(db: Database) -> Fingerprint | None:
    """The fingerprint in the bank; None when there is none, or it cannot be read."""
    text = db.value("SELECT value FROM meta WHERE key = 'fingerprint'")
    try:
        return None if text is None else Fingerprint.model_validate_json(text)
    except ValidationError:
        return None


def check_embedder(db: Database, folder: Path, findings: Findings) -> None:
    """What the bank says of its embedder, and the folder of an own one."""
    recorded = {
        row[0]: row[1] for row in db.rows("SELECT key, value FROM meta WHERE key IN ('embedder', 'fingerprint')")
    }
    if not recorded:
        return
    fingerprint = fingerprint_of(db)
    if fingerprint is None or "embedder" not in recorded:
        findings.add(problems.FINGERPRINT, "meta fingerprint" if "embedder" in recorded else "meta embedder")
        return
    name = recorded["embedder"]
    place = folder / FOLDER if name == FOLDER else Path(name)
    if name != FOLDER and not place.is_dir():
        return  # a model of the hub, or one that lies on another machine: whoever retrieves loads it, and is told
    if not place.is_dir():
        findings.add(problems.EMBEDDER, FOLDER, detail="the folder is gone")
    elif fingerprint.model.partition(":")[0] in ("lexical", "local"):
        kind = "lexical" if (place / MARKER_FILE).is_file() else "local"
        if f"{kind}:{folder_hash(place)}" != fingerprint.model:
            findings.add(problems.EMBEDDER, str(name), detail="its files are not those that the vectors came from")


def check_vectors(db: Database, findings: Findings) -> None:
    """Every vector of the bank's embedder, and what has none."""
    fingerprint = fingerprint_of(db)
    if fingerprint is None:
        return
    for digest in wrong_vectors(db, fingerprint):
        findings.add(problems.VECTOR, f"content {digest}")
    for kind in SIDES:
        source, parameters = retrievable(kind)
        lacking = (
            f"SELECT e.id FROM {source} AND NOT EXISTS (SELECT 1 FROM vectors v WHERE v.fingerprint = ?"
            " AND v.content_hash = e.content_hash)"
        )
        findings.add_entries(
            problems.NO_VECTOR, (row[0] for row in db.stream(lacking, [*parameters, fingerprint.digest]))
        )
    others = "SELECT fingerprint, count(*) FROM vectors WHERE fingerprint <> ? GROUP BY fingerprint"
    for row in db.rows(others, (fingerprint.digest,)):
        findings.add(problems.OTHER_VECTORS, f"fingerprint {row[0]}", count=row[1])


def wrong_vectors(db: Database, fingerprint: Fingerprint) -> Iterator[str]:
    """Content hashes of the vectors that are none: another size, no number, neither of length 1 nor of length 0."""
    import numpy as np

    rows = db.stream("SELECT content_hash, vector FROM vectors WHERE fingerprint = ?", (fingerprint.digest,))
    size = 4 * fingerprint.dim
    chunk: list[tuple[str, bytes]] = []

    def looked_at() -> Iterator[str]:
        vectors_ND = np.frombuffer(b"".join(blob for _, blob in chunk), dtype="<f4").reshape(len(chunk), -1)
        with np.errstate(all="ignore"):
            norms_N = np.linalg.norm(vectors_ND, axis=1)
            fine_N = (np.abs(norms_N - 1) <= NORM_TOLERANCE) | (norms_N == 0)
        return (digest for (digest, _), fine in zip(chunk, fine_N, strict=True) if not fine)

    for digest, blob in rows:
        if not isinstance(blob, bytes) or len(blob) != size:
            yield digest
            continue
        chunk.append((digest, blob))
        if len(chunk) == CHUNK:
            yield from looked_at()
            chunk = []
    if chunk:
        yield from looked_at()


def check_sample(db: Database, embedder: Embedder, findings: Findings) -> None:
    """Some texts, spread over the bank, embedded again."""
    import numpy as np

    fingerprint = fingerprint_of(db)
    if fingerprint is None:
        return
    if embedder.fingerprint != fingerprint:
        findings.add(problems.EMBEDDER, detail=f"it is {fingerprint}, and the one at hand {embedder.fingerprint}")
        return
    have = "FROM entries e JOIN vectors v ON v.fingerprint = ? AND v.content_hash = e.content_hash WHERE e.retrievable"
    count = db.value(f"SELECT count(*) {have}", (fingerprint.digest,))
    step = max(1, count // SAMPLE)
    rows = db.rows(
        f"SELECT id, text, vector FROM (SELECT e.id, e.text, v.vector, row_number() OVER (ORDER BY e.id) AS n {have})"
        " WHERE n % ? = 0",
        (fingerprint.digest, step),
    )
    again_ND = embedder.encode_documents([row["text"] for row in rows])
    for row, vector_D in zip(rows, again_ND, strict=True):
        if len(row["vector"]) != 4 * fingerprint.dim:
            continue  # told by check_vectors
        kept_D = np.frombuffer(row["vector"], dtype="<f4")
        if kept_D.any() != vector_D.any() or (vector_D.any() and float(kept_D @ vector_D) < LEAST_COSINE):
            findings.add(problems.OFF_VECTOR, f"entry {row['id']}")
