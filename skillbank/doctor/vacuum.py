"""`vacuum`: gives back the space that a bank's file no longer needs. Nothing of what the bank says is touched."""

from __future__ import annotations

from pathlib import Path

from skillbank.doctor.embedding import fingerprint_of
from skillbank.errors import BankBusy, BankNotFound, ForeignFingerprint, SkillBankError
from skillbank.records import Record
from skillbank.store import FILE
from skillbank.store.database import Database


class Vacuumed(Record):
    """What it came to."""

    bank: str
    bytes_before: int
    """Of the database file and its write-ahead log."""
    bytes_after: int
    vectors_dropped: int
    """Of other embedders than the bank's."""


def vacuum(bank: str | Path, *, drop_other_vectors: bool = False) -> Vacuumed:
    """Writes the database anew without gaps, and the search index in one piece.

    Raises BankBusy while another process reads or writes, ForeignFingerprint when other vectors are to be dropped and
    the bank has no embedder that they could be told from.
    """
    folder = Path(bank)
    if not (folder / FILE).is_file():
        raise BankNotFound(f"no bank at {folder}: name the folder that has a {FILE}")
    before = _size(folder)
    db = Database(folder / FILE)
    try:
        dropped = _drop_other_vectors(db, folder) if drop_other_vectors else 0
        try:
            db.run("INSERT INTO entry_text (entry_text) VALUES ('optimize')")
            db.run("VACUUM")
        except BankBusy as error:
            raise BankBusy(f"{folder} is being written by another process: vacuum it when that has ended") from error
        except SkillBankError as error:
            raise SkillBankError(f"{folder} cannot be written anew ({error}): it is as it was") from error
        blocked = db.row("PRAGMA wal_checkpoint(TRUNCATE)")
        if blocked is not None and blocked[0]:
            raise BankBusy(f"{folder} is being read by another process: its file shrinks when that has ended")
    finally:
        db.close()
    return Vacuumed(bank=str(folder), bytes_before=before, bytes_after=_size(folder), vectors_dropped=dropped)


def _drop_other_vectors(db: Database, folder: Path) -> int:
    own = fingerprint_of(db)
    if own is None:
        raise ForeignFingerprint(
            f"{folder} has no embedder yet, so no vector in it is another one's: leave the option out"
        )
    return db.run("DELETE FROM vectors WHERE fingerprint <> ?", (own.digest,))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / FILE, folder / f"{FILE}-wal") if file.exists())
