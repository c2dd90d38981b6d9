"""`doctor`: all checks in order, mending, and the checks again. What each looks for is in the files beside this."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from skillbank.doctor import problems
from skillbank.doctor.embedding import check_embedder, check_sample, check_vectors
from skillbank.doctor.file import check_pages, check_schema, check_search
from skillbank.doctor.index import check_index
from skillbank.doctor.leftovers import check_leftovers
from skillbank.doctor.mending import mend
from skillbank.doctor.replay import check_replay
from skillbank.doctor.report import Findings, Report
from skillbank.doctor.rows import check_ledgers, check_rows, prepare
from skillbank.errors import BankBusy, BankCorrupt, BankNotFound, ForeignFingerprint, SkillBankError
from skillbank.index import VectorIndex
from skillbank.store import FILE, Bank
from skillbank.store.database import Database

if TYPE_CHECKING:
    from skillbank.index.embed import Embedder

ROUNDS = 3
"""Of mending: behind what was mended, something else may come to light."""
_DAMAGE = (problems.UNREADABLE, problems.DAMAGED, problems.ROW_OR_TREE, problems.TABLE)
"""A database with one of these is not written to: what is left of it may be all there is."""
OnPhase = Callable[[str, int, int | None], None]
"""(phase, done, total or None when it is not known beforehand)"""


def doctor(
    bank: str | Path, *, embedder: Embedder | None = None, fix: bool = False, on_progress: OnPhase | None = None
) -> Report:
    """Looks the whole bank over; with `fix` mends what can be computed again, and looks again.

    With its `embedder` at hand some texts are embedded again and compared. Others may go on reading and writing; they
    wait while the search index is checked and while something is mended. Raises BankNotFound, BankBusy when it cannot
    mend, SkillBankError when the folder is for reading only and `fix` is wanted.
    """
    folder = Path(bank)
    if not (folder / FILE).is_file():
        raise BankNotFound(f"no bank at {folder}: name the folder that has a {FILE}")
    writable = os.access(folder, os.W_OK) and os.access(folder / FILE, os.W_OK)
    if fix and not writable:
        raise SkillBankError(f"{folder} is for reading only: nothing can be mended there")
    started = time.monotonic()
    examination = _Examination(folder, writable, embedder, on_progress or (lambda phase, done, total: None))
    found = examination.run()
    left = found
    for _ in range(ROUNDS if fix else 0):
        wanted = {finding.repair for finding in left.listed() if finding.repair is not None}
        if left.has(*_DAMAGE):
            wanted &= {"index", "leftovers"}
        if not wanted or not examination.mend(wanted):
            break
        left = examination.run()
    remaining = {(finding.check, finding.severity) for finding in left.listed()}
    fixed = tuple(f for f in found.listed() if (f.check, f.severity) not in remaining)
    return Report(
        bank=str(folder),
        revision=examination.revision,
        entries=examination.entries,
        findings=left.listed(),
        fixed=fixed,
        seconds=time.monotonic() - started,
    )


class _Examination:
    """The checks, which can be run again after mending."""

    def __init__(self, folder: Path, writable: bool, embedder: Embedder | None, on_progress: OnPhase) -> None:
        self.folder, self.writable, self.embedder, self.on_progress = folder, writable, embedder, on_progress
        self.revision: int | None = None
        self.entries: int | None = None

    def run(self) -> Findings:
        findings = Findings()
        try:
            db = Database(self.folder / FILE, readonly=not self.writable)
        except BankBusy:
            raise
        except SkillBankError as error:
            findings.add(problems.UNREADABLE, FILE, detail=str(error))
            return findings
        try:
            self._look(db, findings)
        except BankCorrupt as error:
            findings.add(problems.UNREADABLE, FILE, detail=str(error))
        finally:
            db.close()
        self._progress("leftovers")(0)
        check_leftovers(self.folder, findings)
        return findings

    def mend(self, wanted: set[problems.Repair]) -> bool:
        """False when the database cannot be opened, or is too damaged for any of it."""
        try:
            db = Database(self.folder / FILE)
        except BankCorrupt:
            return False
        try:
            self._progress("mend")(0)
            mend(db, self.folder, wanted)
        except BankCorrupt:
            return False
        finally:
            db.close()
        if self.embedder is not None and wanted & {"index", "vectors", "embed"}:
            with Bank.open(self.folder) as bank, suppress(ForeignFingerprint):  # which the next look tells
                VectorIndex.open(bank, self.embedder)
        return True

    def _look(self, db: Database, findings: Findings) -> None:
        """Every check that the state of the file allows: behind a damaged page the others would find nonsense."""
        self._check("pages", lambda: check_pages(db, findings), findings)
        self._check("schema", lambda: check_schema(db, findings), findings)
        if findings.has(problems.UNREADABLE, problems.TABLE):
            return
        self._check("search", lambda: check_search(db, findings, writable=self.writable), findings)
        with db.snapshot():
            self._check("count", lambda: self._count(db), findings)
            self._check("rows", lambda: self._rows(db, findings), findings)
            self._check("events", lambda: check_replay(db, findings, self._progress("events")), findings)
            self._check("ledgers", lambda: check_ledgers(db, findings), findings)
            self._check("embedder", lambda: check_embedder(db, self.folder, findings), findings)
            self._check("vectors", lambda: check_vectors(db, findings), findings)
            self._check("index", lambda: check_index(db, self.folder, findings), findings)
            embedder = self.embedder
            if embedder is not None:
                self._check("embed", lambda: check_sample(db, embedder, findings), findings)

    def _rows(self, db: Database, findings: Findings) -> None:
        prepare(db)
        check_rows(db, findings)

    def _count(self, db: Database) -> None:
        self.revision = int(db.value("SELECT coalesce(max(revision), 0) FROM revisions"))
        self.entries = int(db.value("SELECT count(*) FROM entries"))

    def _progress(self, phase: str) -> Callable[[int], None]:
        return lambda done: self.on_progress(phase, done, self.entries if done else None)

    def _check(self, phase: str, check: Callable[[], None], findings: Findings) -> None:
        self._progress(phase)(0)
        try:
            check()
        except BankBusy:
            raise
        except SkillBankError as error:
            findings.add(problems.UNREADABLE, phase, detail=str(error))
