"""The index files against the bank: what CURRENT names is there and whole, and holds the bank's entries and vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from skillbank.doctor import problems
from skillbank.doctor.embedding import CHUNK, fingerprint_of
from skillbank.doctor.report import Findings
from skillbank.index import generations
from skillbank.index.generations import Manifest
from skillbank.index.nearest import Nearest
from skillbank.records import Kind
from skillbank.store.database import Database
from skillbank.store.query import SIDES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def check_index(db: Database, bank: Path, findings: Findings) -> None:
    """The generation in use. None is fine: it is built when it is needed."""
    root = bank / "index"
    while True:
        name = current(root)
        if name is None:
            return
        found = Findings()
        _check_generation(db, root, name, found)
        if current(root) == name:  # else it was replaced while we looked at it
            findings.take(found)
            return


def current(root: Path) -> str | None:
    """What CURRENT says; None when there is no such file."""
    try:
        return (root / "CURRENT").read_bytes().decode(errors="replace").strip()
    except FileNotFoundError:
        return None


def _check_generation(db: Database, root: Path, name: str, findings: Findings) -> None:
    folder = root / name
    if not re.fullmatch(r"gen-\d+", name) or not folder.is_dir():
        findings.add(problems.INDEX, "index/CURRENT", detail=f"it names {name!r}, which is no generation here")
        return
    try:
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    except (OSError, ValidationError):
        findings.add(problems.INDEX, f"index/{name}/manifest.json", detail="it cannot be read")
        return
    if not _is_ours(db, manifest, f"index/{name}/manifest.json", findings):
        return
    faults = generations.check(folder, manifest)
    for fault in faults:
        findings.add(problems.INDEX, f"index/{name}", detail=fault)
    for kind in SIDES if not faults else ():
        _check_vectors(db, manifest, kind, folder / generations.file_of(kind), findings)


def _is_ours(db: Database, manifest: Manifest, file: str, findings: Findings) -> bool:
    """Whether a manifest speaks of this bank, its embedder and its history."""
    bank_id = db.value("SELECT value FROM meta WHERE key = 'bank_id'")
    revised_at = db.value("SELECT at FROM revisions WHERE revision = ?", (manifest.revision,)) or ""
    if manifest.bank_id != bank_id or manifest.revised_at != revised_at:
        findings.add(problems.INDEX, file, detail="it speaks of another bank, or of a revision that this one never had")
        return False
    if manifest.fingerprint != fingerprint_of(db):
        # Embedding a bank anew leaves the old index in use until the new one is written.
        digest = manifest.fingerprint.digest
        known = db.value("SELECT EXISTS (SELECT 1 FROM vectors WHERE fingerprint = ?)", (digest,))
        findings.add(problems.INDEX_OTHER if known else problems.INDEX, file, detail=f"its embedder is {digest}")
        return False
    return True


def _check_vectors(db: Database, manifest: Manifest, kind: Kind, file: Path, findings: Findings) -> None:
    """Ids and vectors of one file, but for what the bank has changed since."""
    import numpy as np

    try:
        index = Nearest.read(file, probes=manifest.probes[kind], recall=manifest.recall[kind])
    except RuntimeError as error:  # FAISS's own
        findings.add(problems.INDEX, f"{file.parent.name}/{file.name}", detail=str(error).splitlines()[0])
        return
    if index.count and index.dim != manifest.fingerprint.dim:
        findings.add(problems.INDEX, f"{file.parent.name}/{file.name}", detail=f"it has {index.dim} dimensions")
        return
    since_N = _changed(db, manifest.revision)
    held_N = np.sort(index.ids())
    seen = []
    for ids_N, vectors_ND in _kept(db, kind, manifest):
        seen.append(ids_N)
        both_N = np.isin(ids_N, held_N) & ~np.isin(ids_N, since_N)
        same_N = (index.vectors(ids_N[both_N]) == vectors_ND[both_N]).all(axis=1)
        findings.add_entries(problems.INDEX_CONTENT, ids_N[both_N][~same_N].tolist())
    expected_N = np.concatenate([np.zeros(0, dtype=np.int64), *seen])
    differing_N = np.setdiff1d(np.setxor1d(expected_N, held_N), since_N)
    findings.add_entries(problems.INDEX_CONTENT, differing_N.tolist())


def _changed(db: Database, revision: int) -> NDArray[np.int64]:
    """Entries that may have come, gone or been reworded since a revision."""
    import numpy as np

    columns = ", ".join(("id", *SIDES.values()))
    rows = db.stream(f"SELECT {columns} FROM entries WHERE revision > ?", (revision,))
    return np.unique(np.array([i for row in rows for i in row if i is not None], dtype=np.int64))


def _kept(db: Database, kind: Kind, manifest: Manifest) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """(ids [n], vectors [n, dim]) of the entries that retrieval may return, a chunk at a time; those with a vector."""
    import numpy as np

    dim = manifest.fingerprint.dim
    after = 0
    while True:
        rows = db.rows(
            "SELECT e.id, v.vector FROM entries e"
            " JOIN vectors v ON v.fingerprint = ? AND v.content_hash = e.content_hash"
            " WHERE e.kind = ? AND e.retrievable AND e.id > ? AND length(v.vector) = ? ORDER BY e.id LIMIT ?",
            (manifest.fingerprint.digest, kind, after, 4 * dim, CHUNK),
        )
        if not rows:
            return
        after = rows[-1]["id"]
        ids_N = np.array([row["id"] for row in rows], dtype=np.int64)
        yield ids_N, np.frombuffer(b"".join(row["vector"] for row in rows), dtype="<f4").reshape(-1, dim)
