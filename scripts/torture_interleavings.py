"""Schedules of several writers and readers of one bank, step by step: nothing is lost, nobody sees half a change.

One process, one thread, several connections: a schedule is a list of steps, each by one of them, so what happens is the
same every time. A model beside it knows what was committed. Waiting for a lock is turned off, so a held lock answers
at once, with BankBusy and nothing else.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from skillbank.doctor import doctor
from skillbank.errors import BankBusy, InvalidEntry
from skillbank.records import Skill
from skillbank.store import Bank, UsageRow, database
from skillbank.store.change import Change

Action = Literal[
    "begin", "add", "status", "tag", "commit", "fail", "read", "open snapshot", "close snapshot", "usage", "undo"
]
ACTIONS: tuple[Action, ...] = Action.__args__  # type: ignore[attr-defined]
WEIGHTS = tuple(3 if action in ("begin", "add", "status", "tag", "commit") else 1 for action in ACTIONS)
HANDLES = 4
Snapshot = tuple[tuple[object, ...], ...]


class Step(NamedTuple):
    """One handle does one thing."""

    handle: int
    action: Action
    number: int


@dataclass
class Interleavings:
    """What came of a number of schedules."""

    schedules: int = 0
    committed: int = 0
    busy: int = 0
    """Writes that were told that another writer is at work."""
    failures: list[str] = field(default_factory=list)


def interleave(times: int, seed: int, folder: Path) -> Interleavings:
    outcome = Interleavings()
    for n in range(times):
        chance = random.Random(f"{seed} {n}")
        steps = [
            Step(chance.randrange(HANDLES), chance.choices(ACTIONS, WEIGHTS)[0], chance.randrange(12))
            for _ in range(100)
        ]
        place = folder / "interleaved"
        try:
            done = Schedule(place, HANDLES).run(steps)
            outcome.committed += done.committed
            outcome.busy += done.busy
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            outcome.failures.append(f"seed {seed} {n}: {type(error).__name__}: {error}")
        outcome.schedules += 1
        shutil.rmtree(place)
    return outcome


class Schedule:
    """A bank under several handles, and the model of what it must hold."""

    def __init__(self, folder: Path, handles: int) -> None:
        Bank.create(folder / "bank").close()
        self.folder = folder
        with impatient():
            self.banks = [Bank.open(folder / "bank") for _ in range(handles)]
        self.banks[0].db.run("PRAGMA synchronous = OFF")
        self.changes: dict[int, tuple[ExitStack, Change, dict[int, list[object]]]] = {}
        self.snapshots: dict[int, tuple[ExitStack, Snapshot]] = {}
        self.entries: dict[int, list[object]] = {}
        """Id -> [status, tags], as committed."""
        self.past = [self._copy(self.entries)]
        self.usage = self.committed = self.busy = 0

    def run(self, steps: list[Step]) -> Schedule:
        try:
            for step in steps:
                self.take(step)
            for handle in list(self.changes):
                self.take(Step(handle, "commit", 0))
            for handle in list(self.snapshots):
                self.take(Step(handle, "close snapshot", 0))
            self.check()
        finally:
            for stack, *_ in (*self.changes.values(), *self.snapshots.values()):
                stack.close()
            for bank in self.banks:
                bank.close()
        return self

    def take(self, step: Step) -> None:
        """Does a step, where it makes sense, and looks at the bank through the same handle."""
        handle, bank = step.handle, self.banks[step.handle]
        if handle in self.changes:
            self._within(handle, step)
            return
        if step.action == "open snapshot" and handle not in self.snapshots:
            stack = ExitStack()
            stack.enter_context(bank.db.snapshot())
            self.snapshots[handle] = (stack, seen(bank))
        elif step.action == "close snapshot" and handle in self.snapshots:
            self.snapshots.pop(handle)[0].close()
        elif handle not in self.snapshots and step.action in ("begin", "usage", "undo"):
            self._write(handle, step)
        expected = self.snapshots[handle][1] if handle in self.snapshots else self._committed()
        assert seen(bank) == expected, f"handle {handle} sees {seen(bank)}, not {expected}"

    def _write(self, handle: int, step: Step) -> None:
        bank = self.banks[handle]
        free = not self.changes
        try:
            if step.action == "begin":
                stack = ExitStack()
                change = stack.enter_context(bank.change(actor=f"handle {handle}"))
                self.changes[handle] = (stack, change, self._copy(self.entries))
            elif step.action == "usage":
                bank.record_usage([usage_row(step.number)])
                self.usage += 1
            elif len(self.past) > 1:
                bank.undo(actor=f"handle {handle}")
                self._commit(self._undone())
        except InvalidEntry:
            assert self.past[-1] == self.past[-2], "what changed something cannot be undone"
            return
        except BankBusy:
            assert not free, "told that another is writing, and none is"
            self.busy += 1
            return
        assert free or (step.action == "undo" and len(self.past) == 1), "two write at once"

    def _within(self, handle: int, step: Step) -> None:
        """A step inside a change that a handle has open."""
        stack, change, entries = self.changes[handle]
        ids = sorted(entries)
        if step.action == "add":
            entries[change.add(Skill(title=f"of {handle}", principle=str(step.number)))] = ["active", ()]
        elif step.action == "status" and ids:
            entry_id, status = ids[step.number % len(ids)], ("active", "disabled", "retired")[step.number % 3]
            change.set_status([entry_id], status)  # type: ignore[arg-type]
            entries[entry_id][0] = status
        elif step.action == "tag" and ids:
            entry_id = ids[step.number % len(ids)]
            change.tag([entry_id], add=[f"t{handle}"])
            entries[entry_id][1] = tuple(sorted({*entries[entry_id][1], f"t{handle}"}))  # type: ignore[misc]
        elif step.action in ("commit", "fail"):
            del self.changes[handle]
            if step.action == "commit":
                stack.close()
                if entries != self.entries or change.events:
                    self._commit(entries)
            else:
                try:
                    with stack:
                        raise _Failed
                except _Failed:
                    pass

    def _commit(self, entries: dict[int, list[object]]) -> None:
        self.entries = entries
        self.past.append(self._copy(entries))
        self.committed += 1

    def _undone(self) -> dict[int, list[object]]:
        """What the bank holds when its last revision is undone: what came with that is retired and stays."""
        before = self._copy(self.past[-2])
        return before | {i: ["retired", self.entries[i][1]] for i in self.entries if i not in before}

    def _committed(self) -> Snapshot:
        return tuple((i, *state) for i, state in sorted(self.entries.items()))

    def check(self) -> None:
        bank = self.banks[0]
        assert bank.revision == self.committed, f"revision {bank.revision} after {self.committed} commits"
        assert bank.stats().usage == self.usage, "rows of the usage ledger are lost"
        report = doctor(self.folder / "bank")
        assert report.sound, "; ".join(map(str, report.errors))

    @staticmethod
    def _copy(entries: dict[int, list[object]]) -> dict[int, list[object]]:
        return {i: list(state) for i, state in entries.items()}


class _Failed(Exception):
    pass


def seen(bank: Bank) -> Snapshot:
    """What a reader sees."""
    return tuple((entry.id, entry.status, entry.tags) for entry in bank.entries())


def usage_row(n: int) -> UsageRow:
    return UsageRow(
        run="run",
        step=n,
        problem_id="p",
        outcome="correct",
        skill_id=1,
        mistake_id=2,
        support=0.5,
        polarity=n % 3 - 1,
        gate_mass=0.5,
        weight=0.1,
        revision=0,
    )


@contextmanager
def impatient() -> Iterator[None]:
    """Connections that are opened inside do not wait for a lock."""
    patience, database.BUSY_TIMEOUT_S = database.BUSY_TIMEOUT_S, 0.0
    try:
        yield
    finally:
        database.BUSY_TIMEOUT_S = patience
