"""The SQLite file under a bank: opening it, transactions, and one clear line when it fails.

One writer, many readers: WAL mode, changes begin IMMEDIATE, everyone waits `BUSY_TIMEOUT_S` for a lock.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from skillbank.errors import BankBusy, BankCorrupt, InvalidEntry, SkillBankError
from skillbank.store.schema import APPLICATION_ID, FORMAT, SCHEMA

BUSY_TIMEOUT_S = 30.0


class Database:
    """A connection to a bank's file. Every failure of SQLite comes out as a SkillBankError that names the file.

    Raises: BankCorrupt when the file is no database, no bank, of a newer format, or damaged; BankBusy on a held lock.
    """

    def __init__(self, file: Path, *, readonly: bool = False, create: bool = False) -> None:
        self.file = file
        self._translated = _Translated(file)
        mode = "rwc" if create else "ro" if readonly else "rw"
        uri = f"{file.resolve().as_uri()}?mode={mode}"
        if readonly and not os.access(file.parent, os.W_OK) and not _is_in_use(file):
            uri += "&immutable=1"  # WAL's shared-memory file could not be made
        with self._translated:
            self._connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        try:
            with self._translated:
                if create:
                    self._connection.execute("PRAGMA journal_mode = WAL")
                    self._connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
                self._check()
                self._connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            self._connection.close()
            raise

    def _check(self) -> None:
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION_ID:
            raise BankCorrupt(f"{self.file} is not a skill bank: it is empty or a database of something else")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            raise BankCorrupt(
                f"{self.file} has bank format {version}, this version reads {FORMAT}: install the version that wrote it"
            )
        self._connection.execute("SELECT count(*) FROM meta").fetchone()

    def close(self) -> None:
        self._connection.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._translated:
            return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Row | None:
        """The first row of a query, None when there is none."""
        with self._translated:
            row: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return row

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row, None when there is no row."""
        row = self.row(sql, parameters)
        return None if row is None else row[0]

    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Generator[sqlite3.Row, None, None]:
        """The rows of a query, one at a time, for results too large to hold twice."""
        with self._translated:
            yield from self._connection.execute(sql, parameters)

    def insert(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Runs an INSERT and returns the new row's id."""
        with self._translated:
            return int(self._connection.execute(sql, parameters).lastrowid or 0)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Runs a statement and returns how many rows it changed."""
        with self._translated:
            return self._connection.execute(sql, parameters).rowcount

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._translated:
            self._connection.executemany(sql, rows)

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Within it a lock that another process holds is waited for so long, in place of BUSY_TIMEOUT_S."""
        self._wait_at_most(seconds)
        try:
            yield
        finally:
            self._wait_at_most(BUSY_TIMEOUT_S)

    def _wait_at_most(self, seconds: float) -> None:
        self.run(f"PRAGMA busy_timeout = {round(1000 * seconds)}")
        self._translated.waited_s = seconds

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Takes the write lock at once; commits at the end, rolls everything back on any exception.

        Inside another transaction it is part of that one.
        """
        with self._begin("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see one state, whatever others commit meanwhile."""
        with self._begin("BEGIN"):
            yield

    @contextmanager
    def _begin(self, statement: str) -> Iterator[None]:
        if self._connection.in_transaction:
            yield
            return
        self.run(statement)
        try:
            yield
        except BaseException as error:
            if self._connection.in_transaction:  # SQLite itself rolls back when the disk is full
                self.run("ROLLBACK")
            if isinstance(error, UnicodeEncodeError):  # from a hash of the text, before SQLite was given it
                raise _half_a_character(error) from error
            raise
        self.run("COMMIT")


class _Translated:
    """What SQLite raises, as what we do. A class, as a generator a statement would cost as much as the statement.

    Mistakes of ours and not of the file (IntegrityError, ProgrammingError, InterfaceError) pass as they are.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.waited_s = BUSY_TIMEOUT_S

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and (ours := self._ours(error)) is not None:
            raise ours from error

    def _ours(self, error: BaseException) -> SkillBankError | None:
        if isinstance(error, sqlite3.OperationalError):
            if "locked" in str(error) or "busy" in str(error):
                return BankBusy(f"{self.file} is being written by another process: waited {self.waited_s:g} s")
            if "Could not decode" not in str(error):
                return SkillBankError(f"{self.file}: {error}")
        if isinstance(error, UnicodeEncodeError):
            return _half_a_character(error)
        if isinstance(error, sqlite3.DataError | OverflowError):
            return InvalidEntry(f"{self.file} cannot hold it ({error}): give a shorter text, or a smaller number")
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.InterfaceError):
            return None
        if isinstance(error, sqlite3.DatabaseError | UnicodeDecodeError):  # SQLite may tell it in the damaged words
            return BankCorrupt(f"{self.file} cannot be read ({error}): restore it from a copy")
        return None


def _is_in_use(file: Path) -> bool:
    """Whether somebody who may write beside a database has it open: then its write-ahead log can be read along.

    Raises SkillBankError when a writer died and left changes in the log that no reader can bring in.
    """
    log, shared = (file.with_name(f"{file.name}-{what}") for what in ("wal", "shm"))
    if not shared.exists() and log.exists() and log.stat().st_size:
        raise SkillBankError(
            f"{file} has changes in {log.name} that only somebody who may write in {file.parent} can bring in: "
            "let them open the bank once, or copy the folder to where you may write"
        )
    return shared.exists()


def _half_a_character(error: UnicodeEncodeError) -> InvalidEntry:
    found = ascii(error.object[error.start : error.end])
    return InvalidEntry(
        f"a text has {found} at {error.start}, which is half a character: remove it, or give the whole one"
    )
