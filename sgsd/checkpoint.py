"""Checkpoints that are whole or absent.

A checkpoint is written into `.incomplete/` beside its place, its files are flushed to the disk and listed with sizes
and checksums in `sgsd.json`, and one rename makes it `checkpoint-N`. What a kill leaves in `.incomplete/` is rubbish:
the next save or resume removes it. The newest checkpoint is given up only when the next is in place.

What is in a checkpoint is the trainer's to say; here is how it gets there and how it is found again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EDQUOT, EFBIG, ENOSPC, EROFS
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safetensors import SafetensorError

from sgsd.errors import SGSDError, SGSDWarning, TrainingError

if TYPE_CHECKING:
    from torch import nn

ABOUT_FILE = "sgsd.json"
"""In a checkpoint: method, bank, what was counted so far, and under `files` the size and CRC-32 of every other file."""

STAGING = ".incomplete"
"""In a run folder: what is being written. Never read."""

ROOM_FOR_SMALL_FILES = 32 * 2**20
"""Tokenizer, configuration, the trainer's log and random states, in bytes."""

_NO_ROOM = (ENOSPC, EDQUOT, EFBIG, EROFS)


class CheckpointPart(Protocol):
    """Something of a run with a state of its own that a resumed run needs: in a folder, as files of its own."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None:
        """Raises TrainingError when the folder lacks what this part needs."""
        ...


def numbered_checkpoints(out: Path) -> dict[int, Path]:
    """`checkpoint-N` folders of a run by step, oldest first, whether they are sound or not."""
    found = {path.name.removeprefix("checkpoint-"): path for path in out.glob("checkpoint-*") if path.is_dir()}
    return {int(number): found[number] for number in sorted(filter(str.isdecimal, found), key=int)}


def newest_checkpoint(out: Path) -> Path:
    """The newest sound checkpoint.

    Every file is read and compared with the list in `sgsd.json`. A damaged checkpoint is passed over with a warning
    that names it. Raises TrainingError when there is none, or all are damaged.
    """
    there = numbered_checkpoints(out)
    faults: list[str] = []
    for path in reversed(there.values()):
        fault = damage(path)
        if fault is None:
            if faults:
                warnings.warn(f"{'; '.join(faults)}: going on from {path.name}", SGSDWarning, stacklevel=2)
            return path
        faults.append(f"{path} is damaged ({fault})")
    what = f"{'; '.join(faults)}; remove {out} to start anew" if faults else f"{out} holds no checkpoint"
    raise TrainingError(f"nothing to resume: {what}")


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None when each is as it was written."""
    try:
        files: dict[str, list[int]] = read_about(folder)["files"]
    except TrainingError:
        return f"{ABOUT_FILE} cannot be read"
    for name, (size, checksum) in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes, {size:,} were written"
        if _checksum(file) != checksum:
            return f"{name} does not hold what was written"
    return None


def read_about(folder: Path) -> dict[str, Any]:
    """What `sgsd.json` says. Raises TrainingError when it is not there or cannot be read."""
    file = folder / ABOUT_FILE
    try:
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {"files": about["files"], **about}
    except FileNotFoundError as error:
        raise TrainingError(f"{folder} has no {ABOUT_FILE}: it is no checkpoint of this trainer") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{file} cannot be read: take another checkpoint") from error


def checkpoint_bytes(model: nn.Module, *, teachers_copy: bool) -> int:
    """An estimate: the stored weights, two moments of AdamW for those that are trained, and the teachers' copy of them.

    With an adapter the trained weights alone are stored.
    """
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return trained * (4 if teachers_copy else 3) + ROOM_FOR_SMALL_FILES


class CheckpointWriter:
    """Puts checkpoints into a run folder.

    `keep` is how many stay, None for all. On several ranks, `main` is the one that cleans, seals and removes, and
    `wait` lets the ranks meet.
    """

    def __init__(self, out: Path, *, keep: int | None, main: bool, wait: Callable[[], None]) -> None:
        self.out = out
        self.keep = keep
        self.main = main
        self.wait = wait

    def check(self, bytes_needed: int) -> None:
        """Raise TrainingError when the run folder takes no files, or has no room for a checkpoint of that size."""
        if not self.main:
            return
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.out):
                pass
        except OSError as error:
            raise TrainingError(f"{self.out} cannot be written ({error.strerror}): name another output_dir") from error
        self._clean()
        self._check_room(bytes_needed)

    @contextmanager
    def writing(self, step: int, about: Mapping[str, Any], bytes_needed: int) -> Iterator[Path]:
        """A folder to fill; at the end of the context it is the checkpoint of `step`, after an error it is gone.

        `bytes_needed` is an estimate, which the size of an earlier checkpoint replaces. Raises TrainingError when there
        is not that much room, for which checkpoints that `keep` would remove afterwards go first, or when the disk
        fills all the same.
        """
        folder = self.out / STAGING / f"checkpoint-{step}"
        with no_room_is_an_error(folder.name, self.out):
            if self.main:
                self._make_room(bytes_needed)
                folder.mkdir(parents=True)
            self.wait()
            try:
                yield folder
                self.wait()
                if self.main:
                    _seal(folder, about)
                    put_in_place(folder, self.out / folder.name)
                    self._rotate(self.keep, newest=step)
                self.wait()
            finally:
                if self.main:
                    self._clean()

    def _make_room(self, needed: int) -> None:
        self._clean()
        there = list(numbered_checkpoints(self.out).values())
        needed = _size(there[-1]) if there else needed
        if self.keep is not None and shutil.disk_usage(self.out).free < needed:
            self._rotate(max(1, self.keep - 1))
        self._check_room(needed)

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.out).free
        if free < needed:
            raise TrainingError(
                f"{self.out} has {_megabytes(free)} free, a checkpoint takes about {_megabytes(needed)}: "
                "free some space, or set output_dir to another disk"
            )

    def _clean(self) -> None:
        """Remove what an end in the midst of writing left."""
        shutil.rmtree(self.out / STAGING, ignore_errors=True)

    def _rotate(self, keep: int | None, newest: int | None = None) -> None:
        """Leave the `keep` newest. Those of later steps than `newest` are of a future that a resume took back."""
        there = numbered_checkpoints(self.out)
        beyond = [path for step, path in there.items() if newest is not None and step > newest]
        others = [path for path in there.values() if path not in beyond]
        for path in beyond + (others[:-keep] if keep else []):
            staged = self.out / STAGING / path.name  # first out of sight: half a checkpoint is never seen
            staged.parent.mkdir(exist_ok=True)
            path.rename(staged)
        self._clean()


def _seal(folder: Path, about: Mapping[str, Any]) -> None:
    files = {
        str(file.relative_to(folder)): [file.stat().st_size, _checksum(file)]
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    (folder / ABOUT_FILE).write_text(json.dumps({**about, "files": files}), encoding="utf-8")


def put_in_place(made: Path, target: Path) -> None:
    """Flush a folder to the disk and rename it to `target`, in exchange for what may be there; `made` is in STAGING."""
    for path in sorted(made.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(made)
    if target.exists():
        target.rename(made.with_name(f"{made.name}-replaced"))
    made.rename(target)
    _sync_folder(target.parent)


@contextmanager
def no_room_is_an_error(what: str, out: Path) -> Iterator[None]:
    """Turns what libraries raise when a disk takes no more into a TrainingError of one line."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = None if isinstance(error, SGSDError) else _disk_refused(error)
        if reason is None:
            raise
        kept = list(numbered_checkpoints(out).values())
        rest = f"{kept[-1].name} is whole: go on from there with --resume" if kept else "there is no checkpoint yet"
        there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        free = _megabytes(shutil.disk_usage(there).free)
        raise TrainingError(f"{what} could not be written ({reason}; {free} free in {there}): {rest}") from error


def _disk_refused(error: BaseException | None) -> str | None:
    """Why the disk took no more, if that is what an error is of: safetensors and torch hide the system's number."""
    while error is not None:
        number, text = getattr(error, "errno", None), str(error)
        if number in _NO_ROOM:
            return os.strerror(number)
        if isinstance(error, SafetensorError) and "os error" in text:
            return text.rpartition(": ")[2]
        if type(error) is RuntimeError and ("iostream error" in text or "inline_container" in text):
            return "the disk took no more"  # torch.save, in the midst of its archive
        error = error.__context__
    return None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems flush no folders
            os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            value = zlib.crc32(chunk, value)
    return value


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
