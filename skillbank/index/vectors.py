"""Whose vectors a bank holds: its embedder, and the vectors of its entries, each computed once.

A bank belongs to one embedder at a time. The name is kept in the bank (`embedder` for the folder inside it) together
with the fingerprint; any other embedder is refused, as its vectors could not be compared.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.errors import BankBusy, BankCorrupt, EmbedderNotFound, ForeignFingerprint
from skillbank.index.embed import Embedder, Fingerprint, build_lexical_embedder
from skillbank.records import Kind
from skillbank.store import Bank
from skillbank.store.query import SIDES, retrievable

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

FOLDER = "embedder"
"""The bank's own lexical embedder, relative to the bank."""
CHUNK = 4096
"""Entries embedded between two commits, so that a long run that is stopped goes on where it was."""


def bank_embedder(
    bank: Bank, name: str | None = None, *, problems: Iterable[str] = (), device: str | None = None
) -> Embedder:
    """The embedder of a bank: its own, or on the first call the one named, or a lexical one built from its texts.

    `problems`, where at hand, tell the lexical embedder which words every problem has. Raises ForeignFingerprint when
    another embedder than the bank's is named, EmbedderNotFound when it cannot be loaded.
    """
    recorded = bank.meta("embedder")
    if recorded is None:
        if name is None:
            _build_folder(bank, chain(_texts(bank), problems))
            return adopt(bank, FOLDER, device=device)
        return adopt(bank, name, device=device)
    if name is None and recorded == FOLDER and not (bank.path / FOLDER).is_dir():
        raise EmbedderNotFound(
            f"the bank's embedder {bank.path / FOLDER} is gone: restore it, or embed the bank anew with "
            f"`sgsd bank build --bank {bank.path} --embedder NAME`"
        )
    embedder = _load(bank, recorded if name is None else name, device)
    check_fingerprint(bank, embedder)
    return embedder


def adopt(bank: Bank, name: str, *, device: str | None = None) -> Embedder:
    """Makes an embedder the bank's own; vectors of another one are kept and no longer used."""
    embedder = _load(bank, name, device)
    local = name != FOLDER and Path(name).is_dir()
    with bank.db.transaction():
        bank.set_meta("embedder", str(Path(name).resolve()) if local else name)
        bank.set_meta("fingerprint", embedder.fingerprint.model_dump_json())
    return embedder


def check_fingerprint(bank: Bank, embedder: Embedder) -> None:
    """Raises ForeignFingerprint unless the embedder is the bank's own. A bank without one takes any."""
    recorded = bank.meta("fingerprint")
    if recorded is None:
        return
    own = Fingerprint.model_validate_json(recorded)
    if own != embedder.fingerprint:
        raise ForeignFingerprint(
            f"{bank.path} was embedded by {own}, not by {embedder.fingerprint}: use its own embedder, or embed it anew "
            f"with `sgsd bank build --bank {bank.path} --embedder {embedder.name}`"
        )


Vectors = dict[str, bytes]
"""By content hash, as the bank keeps them: float32, little endian."""


def embed_missing(
    bank: Bank,
    embedder: Embedder,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    ids: Iterable[int] | None = None,
    unsaved: Vectors | None = None,
) -> int:
    """Embeds the retrievable entries (among `ids`, when given) that have no vector yet, and returns how many.

    `on_progress(done, total)`. With `unsaved`, vectors that the bank cannot take now (it is open for reading only, or
    another process is writing) go there; without, BankBusy or SkillBankError is raised.
    """
    digest = embedder.fingerprint.digest
    ids = None if ids is None else list(ids)
    missing = [
        row for kind in SIDES for row in _without_vector(bank, kind, digest, ids) if row[0] not in (unsaved or {})
    ]
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        vectors_ND = embedder.encode_documents([text for _, text in chunk]).astype("<f4")
        _keep(
            bank,
            digest,
            [(chash, vector_D.tobytes()) for (chash, _), vector_D in zip(chunk, vectors_ND, strict=True)],
            unsaved,
        )
        if on_progress is not None:
            on_progress(start + len(chunk), len(missing))
    return len(missing)


def _keep(bank: Bank, digest: str, vectors: Sequence[tuple[str, bytes]], unsaved: Vectors | None) -> None:
    if unsaved is not None and bank.readonly:
        unsaved.update(vectors)
        return
    try:
        with bank.db.transaction():
            bank.db.run_many(
                "INSERT INTO vectors VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(digest, chash, vector) for chash, vector in vectors],
            )
    except BankBusy:
        if unsaved is None:
            raise
        log.info("%s is being written: %d vectors stay in memory", bank.path, len(vectors))
        unsaved.update(vectors)


def load_vectors(
    bank: Bank,
    fingerprint: Fingerprint,
    kind: Kind,
    *,
    ids: Iterable[int] | None = None,
    unsaved: Vectors | None = None,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(ids int64 [n], vectors float32 [n, dim]) of the retrievable entries of a kind (among `ids`), by id.

    Those without a vector are not among them: call `embed_missing` first.
    """
    import numpy as np

    source, parameters = retrievable(kind, ids)
    count = bank.db.value(f"SELECT count(*) FROM {source}", parameters)
    sql = (
        f"SELECT s.id, s.content_hash, v.vector FROM (SELECT e.id, e.content_hash FROM {source}) s"
        " LEFT JOIN vectors v ON v.fingerprint = ? AND v.content_hash = s.content_hash"
    )
    ids_N = np.empty(count, dtype=np.int64)
    vectors_ND = np.empty((count, fingerprint.dim), dtype=np.float32)
    n = 0
    for entry_id, chash, blob in bank.db.stream(sql, [*parameters, fingerprint.digest]):
        if blob is None:
            blob = (unsaved or {}).get(chash)
            if blob is None:
                continue
        if len(blob) != 4 * fingerprint.dim:
            raise BankCorrupt(
                f"the vector of entry {entry_id} in {bank.path} has {len(blob)} bytes, not {4 * fingerprint.dim}"
            )
        ids_N[n] = entry_id
        vectors_ND[n] = np.frombuffer(blob, dtype="<f4")
        n += 1
    ids_N, vectors_ND = ids_N[:n], vectors_ND[:n]
    if (ids_N[1:] < ids_N[:-1]).any():
        order_N = np.argsort(ids_N)
        ids_N, vectors_ND = ids_N[order_N], vectors_ND[order_N]
    return ids_N, vectors_ND


def _without_vector(bank: Bank, kind: Kind, digest: str, ids: Iterable[int] | None) -> list[tuple[str, str]]:
    """(content hash, text) of the retrievable entries whose vector is missing."""
    source, parameters = retrievable(kind, ids)
    rows = bank.db.rows(
        f"SELECT e.content_hash, min(e.text) FROM {source} AND NOT EXISTS"
        " (SELECT 1 FROM vectors v WHERE v.fingerprint = ? AND v.content_hash = e.content_hash)"
        " GROUP BY e.content_hash",
        [*parameters, digest],
    )
    return [(row[0], row[1]) for row in rows]


def _texts(bank: Bank) -> Iterator[str]:
    return (row[0] for row in bank.db.stream("SELECT text FROM entries WHERE text IS NOT NULL ORDER BY id"))


def _load(bank: Bank, name: str, device: str | None) -> Embedder:
    return Embedder.load(bank.path / FOLDER if name == FOLDER else name, device=device)


def _build_folder(bank: Bank, texts: Iterable[str]) -> None:
    """Builds the lexical embedder beside its place and moves it there whole."""
    building = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=bank.path))
    try:
        build_lexical_embedder(building, texts)
        building.chmod(0o755)
        if (bank.path / FOLDER).exists():
            shutil.rmtree(bank.path / FOLDER)  # of a build that stopped before the bank took it as its own
        os.replace(building, bank.path / FOLDER)
    finally:
        shutil.rmtree(building, ignore_errors=True)
