"""Nearest entries by cosine: exact FAISS indexes of the retrievable skills and mistakes, a cache beside the bank.

    index/gen-7/{skill,mistake}.faiss, manifest.json     one generation, written whole and never changed
    index/CURRENT                                        the name of the generation in use, replaced atomically

A generation that is missing, damaged, of another revision, bank or embedder is built again from the bank's vectors
(`vectors.py`); deleting `index/` loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from skillbank.embed import Embedder, Fingerprint
from skillbank.query import SIDES
from skillbank.records import Kind, Record
from skillbank.store import Bank
from skillbank.vectors import check_fingerprint, embed_missing, load_vectors

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

BLAS_FROM_QUERIES = 20
"""From this many queries on FAISS multiplies matrices; its default of 128,000 leaves batches up to 13 times slower."""


class Manifest(Record):
    """What a generation was built from, and the SHA-256 of its files."""

    bank_id: str
    revision: int
    counts: dict[Kind, int]
    fingerprint: Fingerprint
    checksum: dict[str, str]


class VectorIndex:
    """Two exact inner-product indexes over unit vectors, by entry id."""

    def __init__(self, indexes: Mapping[Kind, Any], revision: int) -> None:
        self._indexes = indexes
        self.revision = revision
        """The bank revision it shows."""

    @classmethod
    def open(cls, bank: Bank, embedder: Embedder) -> Self:
        """The index of the bank as it stands: the current generation where it fits, else a new one.

        Embeds entries that have no vector yet. Raises ForeignFingerprint when the embedder is not the bank's.
        """
        check_fingerprint(bank, embedder)
        import faiss

        faiss.cvar.distance_compute_blas_threshold = BLAS_FROM_QUERIES
        revision = bank.revision
        indexes = _load(bank, embedder.fingerprint, revision)
        if indexes is None:
            embed_missing(bank, embedder)
            indexes = {kind: _build(bank, embedder.fingerprint, kind) for kind in SIDES}
            _save(bank, embedder.fingerprint, revision, indexes)
        return cls(indexes, revision)

    def count(self, kind: Kind) -> int:
        return int(self._indexes[kind].ntotal)

    def search(
        self, kind: Kind, queries_ND: np.ndarray[Any, Any], depth: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(cosines float32 [N, d], ids int64 [N, d]) of the nearest entries, best first; d = min(depth, count)."""
        import numpy as np

        depth = min(depth, self.count(kind))
        if depth == 0 or len(queries_ND) == 0:
            shape = (len(queries_ND), depth)
            return np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.int64)
        cosines_ND, ids_ND = self._indexes[kind].search(np.ascontiguousarray(queries_ND, dtype=np.float32), depth)
        return cosines_ND, ids_ND


def _build(bank: Bank, fingerprint: Fingerprint, kind: Kind) -> Any:
    import faiss

    ids_N, vectors_ND = load_vectors(bank, fingerprint, kind)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(fingerprint.dim))
    index.add_with_ids(vectors_ND, ids_N)
    return index


def _load(bank: Bank, fingerprint: Fingerprint, revision: int) -> dict[Kind, Any] | None:
    """The indexes of the current generation; None, with the reason logged, when it must be built again."""
    import faiss

    root = bank.path / "index"
    if not (root / "CURRENT").exists():
        log.info("%s has no index yet", bank.path)
        return None
    try:
        folder = root / (root / "CURRENT").read_text(encoding="utf-8").strip()
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
        stale = (manifest.bank_id, manifest.revision, manifest.fingerprint) != (
            bank.meta("bank_id"),
            revision,
            fingerprint,
        )
        if stale:
            log.info("%s shows revision %d, the bank is at %d", folder, manifest.revision, revision)
            return None
        if {name: _sha256(folder / name) for name in map(_file, SIDES)} != manifest.checksum:
            log.warning("%s is damaged and built again", folder)
            return None
        return {kind: faiss.read_index(str(folder / _file(kind))) for kind in SIDES}
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        log.warning("the index of %s cannot be read and is built again: %s", bank.path, error)
        return None


def _save(bank: Bank, fingerprint: Fingerprint, revision: int, indexes: Mapping[Kind, Any]) -> None:
    """Writes a generation, points CURRENT to it, and removes the older ones."""
    import faiss

    root = bank.path / "index"
    if not os.access(root if root.exists() else bank.path, os.W_OK):
        log.info("%s cannot be written: its index stays in memory", bank.path)
        return
    root.mkdir(exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=root))
    for kind, index in indexes.items():
        faiss.write_index(index, str(building / _file(kind)))
    manifest = Manifest(
        bank_id=bank.meta("bank_id") or "",
        revision=revision,
        counts={kind: int(index.ntotal) for kind, index in indexes.items()},
        fingerprint=fingerprint,
        checksum={name: _sha256(building / name) for name in map(_file, indexes)},
    )
    text = json.dumps(manifest.model_dump(), indent=2) + "\n"
    (building / "manifest.json").write_text(text, encoding="utf-8")
    for file in building.iterdir():
        _sync(file)
    building.chmod(0o755)
    folder = _place(building, root)
    pointer = root / f".CURRENT-{os.getpid()}"
    pointer.write_text(folder.name + "\n", encoding="utf-8")
    _sync(pointer)
    os.replace(pointer, root / "CURRENT")
    _sync(root)
    for old in root.glob("gen-*"):
        if _number(old) < _number(folder):
            shutil.rmtree(old, ignore_errors=True)  # a reader may still hold it open; the next swap removes the rest


def _place(building: Path, root: Path) -> Path:
    """Gives a finished generation the next free number; another process may take one at the same moment."""
    number = max((_number(path) for path in root.glob("gen-*")), default=0)
    while True:
        number += 1
        folder = root / f"gen-{number}"
        try:
            building.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        else:
            return folder


def _number(folder: Path) -> int:
    digits = folder.name.removeprefix("gen-")
    return int(digits) if digits.isdecimal() else 0


def _file(kind: Kind) -> str:
    return f"{kind}.faiss"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Makes sure that a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
