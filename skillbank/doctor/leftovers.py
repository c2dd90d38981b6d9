"""What killed processes left in and beside a bank's folder. None of it does harm; some of it is somebody's at work."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skillbank.doctor import problems
from skillbank.doctor.index import current
from skillbank.doctor.report import Findings

UNTOUCHED_S = 3600
"""A folder without a lock is a killed process's when nothing in it has changed for so long."""


def check_leftovers(bank: Path, findings: Findings) -> None:
    for path in leftovers(bank):
        findings.add(problems.LEFTOVER, str(path.relative_to(bank)))
    building = bank.parent / f".{bank.name}.building"
    if building.is_dir():
        findings.add(problems.BUILDING, building.name, detail=None if free(building / "lock") else "it is at work")


def remove_leftovers(bank: Path) -> None:
    for path in leftovers(bank):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def leftovers(bank: Path) -> Iterator[Path]:
    """Files and folders that nobody uses and nobody writes."""
    for path in sorted(bank.iterdir()):
        writer = re.fullmatch(r".+\.tmp-(\d+)(-journal|-wal|-shm)?", path.name)
        dead = writer is not None and not _alive(int(writer[1]))
        if dead or (path.name.startswith(".embedder-") and _untouched(path)):
            yield path
    root = bank / "index"
    with _locked(root, wait=True) as ours:  # nobody swaps while we look
        used = current(root)
        for path in sorted(root.iterdir()) if ours else ():
            unused = path.name.startswith("gen-") and path.name != used
            if unused or (path.name.startswith(".building-") and free(path)):
                yield path


def free(path: Path) -> bool:
    """Whether nobody holds the lock of a file or folder."""
    with _locked(path, wait=False) as ours:
        return ours


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """The lock of a file or folder; False when it is another's, or there is no such file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = True
    except BlockingIOError:
        ours = False
    try:
        yield ours
    finally:
        os.close(handle)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _untouched(folder: Path) -> bool:
    times = [path.stat().st_mtime for path in (folder, *folder.rglob("*")) if path.exists()]
    return time.time() - max(times, default=0) > UNTOUCHED_S
