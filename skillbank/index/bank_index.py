"""The index of a bank: its retrievable skills and mistakes by vector, following the bank from revision to revision.

An index is opened from its files (`generations.py`) or built from the bank's vectors (`vectors.py`), and then takes up
what has changed since, entry by entry, in memory. New files are written when much has changed. How the nearest are
found is `nearest.py`'s; deleting `index/` loses nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from skillbank.index import generations
from skillbank.index.embed import Embedder
from skillbank.index.nearest import Nearest
from skillbank.index.vectors import Vectors, check_fingerprint, embed_missing, load_vectors
from skillbank.records import Kind
from skillbank.store import Bank
from skillbank.store.query import SIDES

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

WRITE_SHARE = 0.05
"""Changed entries, as a share of all, from which new files are written: catching up takes as long as reading then."""
REBUILD_SHARE = 0.5
"""Changed entries, as a share of all, from which an index is built anew and not changed entry by entry."""


class VectorIndex:
    """Nearest skills and mistakes of a bank, by entry id. `refresh` follows the bank."""

    def __init__(self, bank: Bank, embedder: Embedder) -> None:
        self._bank, self._embedder = bank, embedder
        self._indexes: dict[Kind, Nearest] = {}
        self._unsaved: Vectors = {}
        self._written: int | None = None
        """The revision of the files that it was read from or written to."""
        self.revision = 0
        """The bank revision it shows."""

    @classmethod
    def open(cls, bank: Bank, embedder: Embedder) -> Self:
        """The index of the bank as it stands, from its files where they fit.

        Embeds entries that have no vector yet. Raises ForeignFingerprint when the embedder is not the bank's.
        """
        check_fingerprint(bank, embedder)
        index = cls(bank, embedder)
        found = generations.read(bank.path / "index", index._fits)
        if found is not None:
            manifest, index._indexes = found
            index.revision = index._written = manifest.revision
        index.refresh()
        return index

    def _fits(self, manifest: generations.Manifest) -> bool:
        """Whether files are of this bank, this embedder and a revision of this very history."""
        return (
            manifest.bank_id == self._bank.meta("bank_id")
            and manifest.fingerprint == self._embedder.fingerprint
            and manifest.revised_at == _revised_at(self._bank, manifest.revision)
        )

    def count(self, kind: Kind) -> int:
        return self._indexes[kind].count

    def of(self, kind: Kind) -> Nearest:
        """The index of one kind, as it is until the next refresh."""
        return self._indexes[kind]

    def search(
        self, kind: Kind, queries_ND: np.ndarray[Any, Any], depth: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(cosines float32 [N, d], ids int64 [N, d]) of the nearest entries, best first; d = min(depth, count)."""
        return self._indexes[kind].search(queries_ND, depth)

    def refresh(self) -> int:
        """Takes up what the bank has become, and returns how many entries came, went or got another vector."""
        changed = 0
        while self.revision != self._bank.revision or not self._indexes:
            since = self.revision if self._indexes else None
            embed_missing(self._bank, self._embedder, ids=self._changed(since), unsaved=self._unsaved)
            with self._bank.db.snapshot():
                revision, ids = self._bank.revision, self._changed(since)
                loaded = {kind: self._load(kind, ids) for kind in SIDES}
                expected = sum(len(self._bank.retrievable(kind, ids=ids)) for kind in SIDES)
            if sum(len(ids_N) for ids_N, _ in loaded.values()) < expected:
                continue  # another process has added entries in between: embed those too
            changed += self._take(loaded, ids)
            self.revision = revision
        if self._stale(changed):
            self.write()
        return changed

    def _changed(self, since: int | None) -> list[int] | None:
        """Skills and mistakes that may have come, gone or been reworded since a revision; None for all there are."""
        if since is None:
            return None
        columns = ", ".join(("e.id", *SIDES.values()))
        rows = self._bank.db.rows(f"SELECT {columns} FROM entries e WHERE e.revision > ?", (since,))
        ids = {i for row in rows for i in row if i is not None}
        few = len(ids) < REBUILD_SHARE * sum(index.count for index in self._indexes.values())
        return sorted(ids) if few else None

    def _load(self, kind: Kind, ids: list[int] | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return load_vectors(self._bank, self._embedder.fingerprint, kind, ids=ids, unsaved=self._unsaved)

    def _take(
        self, loaded: Mapping[Kind, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]], ids: list[int] | None
    ) -> int:
        import numpy as np

        if ids is None:
            self._indexes = {kind: Nearest.build(*vectors) for kind, vectors in loaded.items()}
            return sum(index.count for index in self._indexes.values())
        changed = 0
        for kind, (ids_N, vectors_ND) in loaded.items():
            gone_N = np.setdiff1d(np.array(ids, dtype=np.int64), ids_N)
            index = self._indexes[kind]
            changed += index.drop(gone_N) + index.put(ids_N, vectors_ND)
            if index.outgrown:
                every_N = np.sort(index.ids())
                self._indexes[kind] = Nearest.build(every_N, index.vectors(every_N))
        return changed

    def _stale(self, changed: int) -> bool:
        """Whether so much has changed since the files were written that the next reader is better off with new ones."""
        if self._written is None:
            return True
        if not changed:
            return False
        behind = self._changed(self._written)
        entries = sum(index.count for index in self._indexes.values())
        return behind is None or len(behind) >= WRITE_SHARE * entries

    def write(self) -> bool:
        """Writes the index as it is for the next reader. False, with the reason logged, where that cannot be done."""
        root = self._bank.path / "index"
        if not os.access(root if root.exists() else self._bank.path, os.W_OK):
            log.info("%s cannot be written: its index stays in memory", self._bank.path)
            return False
        try:
            generations.write(
                root,
                bank_id=self._bank.meta("bank_id") or "",
                revision=self.revision,
                revised_at=_revised_at(self._bank, self.revision),
                fingerprint=self._embedder.fingerprint,
                indexes=self._indexes,
            )
        except OSError as error:
            log.warning("the index of %s stays in memory, as it cannot be written: %s", self._bank.path, error)
            return False
        self._written = self.revision
        return True


def _revised_at(bank: Bank, revision: int) -> str:
    return str(bank.db.value("SELECT at FROM revisions WHERE revision = ?", (revision,)) or "")
