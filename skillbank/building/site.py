"""Where a bank is built: a folder beside its place, locked for the one build, moved there whole or cleared away.

    .NAME.building/lock          held by the build for as long as it lives, however it dies
    .NAME.building/spool.sqlite  the rollouts and what was mined from them (`spool.py`, `harvest.py`)
    .NAME.building/bank/         the new bank; an existing one changes in its own place

A build that was killed leaves the folder. The next build of the same bank takes nothing from it but the ledger of its
finished calls, and so ends in the very bank that the first would have made.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from skillbank.errors import BankBusy, BankExists, SkillBankError
from skillbank.store import FILE, Bank
from skillbank.store.database import Database

REJECTED_FILE = "rejected.jsonl"
"""In the bank's folder: the lines that the last build could not use. Absent when it could use all."""


def building_bank(target: Path) -> Path:
    """Where a new bank grows until it is moved to its place."""
    return target.parent / f".{target.name}.building" / "bank"


class Site:
    """The building folder of one bank. Raises BankBusy when another build holds it, BankExists when the bank's place is
    taken by something else."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = building_bank(target).parent
        target.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder, target)
        try:
            self._rubbish = target.parent / f".{target.name}.building.old"
            shutil.rmtree(self._rubbish, ignore_errors=True)
            for leftover in (self.spool, self.folder / REJECTED_FILE):
                leftover.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "merging", ignore_errors=True)
            self.new = not (target / FILE).exists()
            if self.new and target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise BankExists(f"{target} exists and is no bank; name an empty or a new folder")
            self.bank = building_bank(target) if self.new else target
            """The folder in which the bank grows."""
        except BaseException:
            self._clear()
            raise

    @property
    def spool(self) -> Path:
        return self.folder / "spool.sqlite"

    def open_bank(self) -> Bank:
        """The bank to build into: the existing one, or a new one that has the finished calls of a killed build."""
        if not self.new:
            return Bank.open(self.bank)
        left = self.folder / "left"
        if (self.bank / FILE).exists():  # of a killed build; one that was killed here has a `left` already
            if left.exists():
                shutil.rmtree(self.bank)
            else:
                os.replace(self.bank, left)
        else:
            shutil.rmtree(self.bank, ignore_errors=True)
        bank = Bank.create(self.bank)
        if left.exists():
            _take_calls(bank, left)
            shutil.rmtree(left)
        return bank

    def finish(self) -> None:
        """Moves a new bank to its place."""
        rejected = self.folder / REJECTED_FILE
        if rejected.exists():
            os.replace(rejected, self.bank / REJECTED_FILE)
        else:
            (self.bank / REJECTED_FILE).unlink(missing_ok=True)
        if self.new:
            os.replace(self.bank, self.target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Clears the folder away, unless the build failed after calls that the next one can use."""
        if kind is not None and self.new and self._has_calls():
            self.spool.unlink(missing_ok=True)
            self._lock.close()
        else:
            self._clear()

    def _has_calls(self) -> bool:
        with suppress(SkillBankError, OSError), Bank.open(self.bank, readonly=True) as bank:
            return bool(bank.db.value("SELECT count(*) FROM calls"))
        return False

    def _clear(self) -> None:
        """Out of the way in one step first: another build may begin a new folder while this one is being removed."""
        os.replace(self.folder, self._rubbish)
        shutil.rmtree(self._rubbish, ignore_errors=True)
        self._lock.close()


def _locked(folder: Path, target: Path) -> IO[str]:
    """The open lock file in the building folder, which is made."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = (folder / "lock").open("w")
        except FileNotFoundError:
            continue  # another build has just cleared the folder away
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise BankBusy(f"{target} is being built by another process: wait for it, or name another bank") from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), (folder / "lock").stat()):
                return lock
        lock.close()


def _take_calls(bank: Bank, left: Path) -> None:
    """The ledger of a killed build's bank."""
    try:
        Database(left / FILE).close()  # finishes what its write-ahead log holds
    except SkillBankError:
        return  # killed before it was a bank
    bank.db.run("ATTACH DATABASE ? AS killed", (str(left / FILE),))
    with bank.db.transaction():
        bank.db.run("INSERT OR IGNORE INTO calls SELECT * FROM killed.calls")
    bank.db.run("DETACH DATABASE killed")
