"""Any history of a bank: whatever is done in whatever order, the bank agrees with itself, every step can be undone to
the very state before it and back, and every revision can be checked out."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skillbank.doctor import doctor
from skillbank.doctor.replay import check_replay
from skillbank.doctor.report import Findings
from skillbank.doctor.rows import check_ledgers, check_rows, prepare
from skillbank.errors import EntryNotFound, InvalidEntry
from skillbank.records import Evidence, Flag, MinedEntry, MinedPair, Mistake, Pair, Skill, Status
from skillbank.store import Bank
from skillbank.store.change import Change

STATUSES: tuple[Status, ...] = ("active", "disabled", "quarantined", "retired")
SMALL = st.integers(0, 11)


@dataclass(frozen=True)
class Step:
    """One operation of a change; numbers stand for entries, words, rollouts, as far as there are so many."""

    name: str
    a: int
    b: int
    c: int


NAMES = (
    *("add_skill", "add_mistake", "add_pair", "edit", "status", "flag", "release", "tag", "untag", "pin", "unpin"),
    *("evidence", "drop", "supersede", "merge", "merge_two", "split", "retract"),
)
STEPS = st.builds(Step, st.sampled_from(NAMES), SMALL, SMALL, SMALL)


def skill(n: int) -> Skill:
    return Skill(title=f"Skill {n % 6}", principle="p")


def mistake(n: int) -> Mistake:
    return Mistake(description=f"Mistake {n % 6}")


def places(*numbers: int) -> tuple[Evidence, ...]:
    """Places in four rollouts of two problems."""
    return tuple(
        Evidence(
            rollout_id=f"r{n % 4}",
            problem_id=f"p{n % 2}",
            outcome="wrong" if n % 2 else "correct",
            quote=f"so it is {n % 3}",
            span=(0, 10) if n % 5 else None,
        )
        for n in numbers
    )


def take(change: Change, step: Step) -> None:
    """Does one operation."""
    count = change.db.value("SELECT coalesce(max(id), 0) FROM entries")
    one, two, three = (1 + n % max(1, count) for n in (step.a, step.b, step.c))
    match step.name:
        case "add_skill":
            change.add(skill(step.a), evidence=places(step.b, step.c), tags=["new"] if step.b % 2 else [])
        case "add_mistake":
            change.add(mistake(step.a), evidence=places(step.b), status=STATUSES[step.c % 4])
        case "add_pair":
            change.add(Pair(skill_id=one, mistake_id=two))
        case "edit":
            kind = change.row(one)["kind"]
            change.edit(one, skill(step.b) if kind == "skill" else mistake(step.b))
        case "status":
            change.set_status({one, two}, STATUSES[step.c % 4])
        case "flag":
            change.flag(one, [Flag(rule=f"rule {step.b % 2}", reason=f"reason {step.c % 2}")])
        case "release":
            change.release({one, two})
        case "tag":
            change.tag({one, two}, add=[f"tag {step.c % 3}"])
        case "untag":
            change.tag({one, two}, remove=[f"tag {step.c % 3}"])
        case "pin":
            change.pin([one])
        case "unpin":
            change.pin([one], False)
        case "evidence":
            change.add_evidence(one, places(step.b, step.c))
        case "drop":
            rows = change.db.rows("SELECT id FROM evidence WHERE entry_id = ? ORDER BY id", (one,))
            change.drop_evidence([row[0] for row in rows[: 1 + step.c % 2]])
        case "supersede":
            change.supersede(one, by=two)
        case "merge":
            change.merge([one], into=two)
        case "merge_two":
            change.merge_all({one: three, two: three})
        case "split":
            kind = change.row(one)["kind"]
            parts = [skill(step.b), skill(step.c + 1)] if kind == "skill" else [mistake(step.b), mistake(step.c + 1)]
            change.split(one, parts)
        case "retract":
            change.retract([f"r{step.a % 4}"])


def state(bank: Bank) -> dict[str, Any]:
    """All that a change can change, but for the numbers that only ever grow."""
    entries = {
        row["id"]: {
            "content": json.loads(row["content"]),
            "status": row["status"],
            "superseded_by": row["superseded_by"],
            "withdrawn": row["withdrawn"],
            "pinned": row["pinned"],
            "tags": json.loads(row["tags"]),
            "flags": sorted(row["flags"] and map(str, json.loads(row["flags"]))),
        }
        for row in bank.db.rows("SELECT * FROM entries ORDER BY id")
    }
    used = {row[0] for row in bank.db.rows("SELECT id FROM evidence WHERE active")}
    owners = {row[0]: row[1] for row in bank.db.rows("SELECT id, entry_id FROM evidence")}
    retracted = {row[0] for row in bank.db.rows("SELECT rollout_id FROM retractions WHERE active")}
    return {"entries": entries, "used": used, "owners": owners, "retracted": retracted}


def of_before(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The part of a state that was there before; what came since must be withdrawn, and its places do not matter."""
    new = {i: entry for i, entry in now["entries"].items() if i not in before["entries"]}
    assert all(entry["withdrawn"] and entry["status"] == "retired" for entry in new.values()), new
    return {
        "entries": {i: entry for i, entry in now["entries"].items() if i in before["entries"]},
        "used": {i for i in now["used"] if now["owners"][i] in before["entries"]},
        "retracted": now["retracted"],
    }


def without_flags(part: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What a checkout brings back: flags stay, and hold what would be active."""
    entries = {}
    for i, entry in part["entries"].items():
        held = any("'released': False" in flag for flag in now["entries"][i]["flags"])
        status = "quarantined" if held and entry["status"] == "active" else entry["status"]
        entries[i] = {name: value for name, value in entry.items() if name != "flags"} | {"status": status}
    return part | {"entries": entries}


class Histories(RuleBasedStateMachine):
    """A bank, and what it was at every revision."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.bank = Bank.create(Path(self.folder.name) / "bank")
        self.bank.db.run("PRAGMA synchronous = OFF")
        self.states = [state(self.bank)]

    def attempt(self, act: Any) -> None:
        """What is refused changes nothing; what is done makes one revision, or none when it changes nothing."""
        before, revision = state(self.bank), self.bank.revision
        try:
            act()
        except (InvalidEntry, EntryNotFound):
            assert state(self.bank) == before
            assert self.bank.revision == revision
        now = state(self.bank)
        if self.bank.revision == revision:
            assert now == before
        else:
            assert self.bank.revision == revision + 1
            self.states.append(now)

    @rule(steps=st.lists(STEPS, min_size=1, max_size=3))
    def change(self, steps: list[Step]) -> None:
        def act() -> None:
            with self.bank.change(actor="me") as change:
                for step in steps:
                    take(change, step)

        self.attempt(act)

    @rule(a=SMALL, b=SMALL, c=SMALL, single=st.booleans())
    def mine(self, a: int, b: int, c: int, single: bool) -> None:
        pair = MinedPair(skill=skill(a), mistake=mistake(b), skill_evidence=places(b, c), mistake_evidence=places(c))
        mined = MinedEntry(content=mistake(a), evidence=places(b, c)) if single else pair
        self.attempt(lambda: self.bank.add_mined([mined], actor="miner"))

    @precondition(lambda self: len(self.states) > 1)
    @rule(n=SMALL)
    def undo_some(self, n: int) -> None:
        self.attempt(lambda: self.bank.undo(max(1, self.bank.revision - n), actor="me"))

    @precondition(lambda self: len(self.states) > 1)
    @rule(n=SMALL)
    def undo_what_was_not_changed(self, n: int) -> None:
        self.attempt(lambda: self.bank.undo(max(1, self.bank.revision - n), actor="me", skip_changed=True))

    @precondition(lambda self: len(self.states) > 1)
    @rule()
    def undo_and_redo(self) -> None:
        """To the state before, and back to the very same."""
        before, after = self.states[-2:]
        if before == after:  # what came went in the same revision
            self.attempt(lambda: self.bank.undo(actor="me"))
            return
        self.bank.undo(actor="me")
        self.states.append(state(self.bank))
        assert of_before(self.states[-1], before) == of_before(before, before)
        self.agrees()
        self.bank.undo(actor="me")
        self.states.append(state(self.bank))
        assert self.states[-1] == after

    @rule(n=SMALL)
    def checkout(self, n: int) -> None:
        revision = max(0, self.bank.revision - n)

        def act() -> None:
            with self.bank.change(actor="me") as change:
                change.checkout(revision)

        self.attempt(act)
        now, then = state(self.bank), self.states[revision]
        assert without_flags(of_before(now, then), now) == without_flags(of_before(then, then), now)

    @invariant()
    def agrees(self) -> None:
        findings = Findings()
        prepare(self.bank.db)
        check_rows(self.bank.db, findings)
        check_ledgers(self.bank.db, findings)
        check_replay(self.bank.db, findings, lambda done: None)
        errors = [str(finding) for finding in findings.listed() if finding.severity == "error"]
        assert not errors, errors
        for entry in self.bank.entries():
            assert entry.evidence_count == len(self.bank.evidence(entry.id)), entry

    def teardown(self) -> None:
        assert [str(finding) for finding in doctor(self.bank.path).errors] == []
        self.bank.close()
        self.folder.cleanup()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
