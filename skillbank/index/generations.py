"""Index files on disk: a cache beside the bank, in generations that are written whole and never changed.

    index/gen-7/{skill,mistake}.faiss, manifest.json     one generation
    index/CURRENT                                        the name of the generation in use, replaced atomically
    index/.building-*                                    one that is being written, or that a killed process left

A reader that finds a generation missing, damaged or of another bank goes on without: the vectors are in the bank.
A process that is killed at any moment leaves the old generation or the new one in use, never half of one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import NonNegativeInt, ValidationError

from skillbank.index.embed import Fingerprint
from skillbank.index.nearest import Nearest
from skillbank.records import Kind, Record
from skillbank.store.query import SIDES

log = logging.getLogger(__name__)

MAX_BYTES = 2**40
"""Of one file. A manifest that states more is no manifest of ours."""
OVERHEAD_BYTES = 4096
"""What FAISS writes in a file besides ids, vectors and lists."""


class Manifest(Record):
    """What a generation was built from, and what its files must be."""

    bank_id: str
    revision: int
    revised_at: str
    """When the bank made that revision: tells it from the same number in a bank restored from an older copy."""
    counts: dict[Kind, NonNegativeInt]
    fingerprint: Fingerprint
    checksum: dict[str, str]
    """SHA-256 of each file."""
    probes: dict[Kind, NonNegativeInt]
    """Lists that an approximate search reads; 0 for exact search."""
    recall: dict[Kind, float | None]
    """Of approximate search when it was built, against exact search."""


def read(root: Path, fits: Callable[[Manifest], bool]) -> tuple[Manifest, dict[Kind, Nearest]] | None:
    """The generation in use; None, with the reason logged, when there is none that can be used."""
    while True:
        name = _current(root)
        if name is None:
            log.info("%s has no index yet", root.parent)
            return None
        try:
            if not re.fullmatch(r"gen-\d+", name):
                raise ValueError(f"CURRENT names {name!r} and no generation")
            return _read(root / name, fits)
        except (OSError, ValueError, RuntimeError) as error:  # files gone, or cut off, or not FAISS's (its own error)
            if _current(root) not in (name, None):
                continue  # replaced while it was read
            log.warning("the index %s cannot be used and is built again: %s", root / name, error)
            return None


def _read(folder: Path, fits: Callable[[Manifest], bool]) -> tuple[Manifest, dict[Kind, Nearest]] | None:
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    if not fits(manifest):
        log.info("%s is of another bank, embedder or history and is built again", folder)
        return None
    faults = check(folder, manifest)
    if faults:
        raise ValueError(faults[0])
    return manifest, {
        kind: Nearest.read(folder / file_of(kind), probes=manifest.probes[kind], recall=manifest.recall[kind])
        for kind in SIDES
    }


def check(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with a generation's files, told before FAISS reads a byte of them."""
    faults = []
    for kind in SIDES:
        file = folder / file_of(kind)
        if not file.is_file():
            faults.append(f"{file.name} is missing")
            continue
        if kind not in manifest.counts or kind not in manifest.probes or kind not in manifest.recall:
            faults.append(f"manifest.json says nothing of {kind}s")
            continue
        count, dim = manifest.counts[kind], manifest.fingerprint.dim
        least = count * (4 * dim + 8)
        most = least + OVERHEAD_BYTES
        if manifest.probes[kind]:  # the lists' centres, and where each id lies
            most += 16 * count + (4 * dim + 64) * max(1024, count)
        size = file.stat().st_size
        if dim < 1 or least > MAX_BYTES or not least <= size <= most:
            faults.append(f"{file.name} has {size} bytes, not {least} for {count} vectors of {dim} numbers")
        elif _sha256(file) != manifest.checksum.get(file.name):
            faults.append(f"{file.name} is damaged: its checksum is another than manifest.json's")
    return faults


def write(
    root: Path,
    *,
    bank_id: str,
    revision: int,
    revised_at: str,
    fingerprint: Fingerprint,
    indexes: Mapping[Kind, Nearest],
) -> Path | None:
    """Writes a generation and puts it in use; None when a later revision's is in use already."""
    root.mkdir(exist_ok=True)
    _sweep(root)
    with _building(root) as building:
        for kind, index in indexes.items():
            index.write(building / file_of(kind))
        manifest = Manifest(
            bank_id=bank_id,
            revision=revision,
            revised_at=revised_at,
            counts={kind: index.count for kind, index in indexes.items()},
            fingerprint=fingerprint,
            checksum={name: _sha256(building / name) for name in map(file_of, indexes)},
            probes={kind: index.probes for kind, index in indexes.items()},
            recall={kind: index.recall for kind, index in indexes.items()},
        )
        text = json.dumps(manifest.model_dump(), indent=2) + "\n"
        (building / "manifest.json").write_text(text, encoding="utf-8")
        for file in building.iterdir():
            _sync(file)
        building.chmod(0o755)
        with _held(root):  # one swap at a time
            return _swap(root, building, manifest)


def _swap(root: Path, building: Path, manifest: Manifest) -> Path | None:
    """Points CURRENT to a finished generation and removes the others."""
    name = _current(root)
    if name is not None:
        with_us = _manifest(root / name)
        ours = (manifest.bank_id, manifest.fingerprint)
        if with_us and (with_us.bank_id, with_us.fingerprint) == ours and with_us.revision > manifest.revision:
            return None
    others = list(root.glob("gen-*"))
    folder = root / f"gen-{max(map(_number, others), default=0) + 1}"
    pointer = building / "CURRENT"
    pointer.write_text(folder.name + "\n", encoding="utf-8")
    _sync(pointer)
    _sync(building)
    building.rename(folder)
    _sync(root)
    os.replace(folder / "CURRENT", root / "CURRENT")
    _sync(root)
    for old in others:
        shutil.rmtree(old, ignore_errors=True)  # a reader may hold a file of it: the next swap removes the rest
    return folder


@contextmanager
def _building(root: Path) -> Iterator[Path]:
    """A folder to write into, locked while its writer lives, and gone if it was not put in its place."""
    while True:
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=root))
        with _held(building):
            if not building.exists():
                continue  # swept between its making and its lock
            try:
                yield building
            finally:
                if building.exists():
                    shutil.rmtree(building)
            return


def _sweep(root: Path) -> None:
    """Removes what killed writers left; a living one holds its folder's lock."""
    for leftover in root.glob(".building-*"):
        with _held(leftover, wait=False) as free:
            if free:
                shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _held(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """The lock of a folder, let go when the process ends however it ends. False when it is another's, or gone."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _current(root: Path) -> str | None:
    try:
        return (root / "CURRENT").read_bytes().decode("utf-8", errors="replace").strip()
    except OSError:
        return None


def _manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    except (OSError, ValidationError):
        return None


def _number(folder: Path) -> int:
    digits = folder.name.removeprefix("gen-")
    return int(digits) if digits.isdecimal() else 0


def file_of(kind: Kind) -> str:
    """Name of a kind's file in a generation."""
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
