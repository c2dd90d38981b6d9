"""One of several processes that use a bank at once: `python at_once.py ROLE BANK NUMBER`. Prints what it did as JSON.

Not a test: test_at_once.py starts these and adds up.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from skillbank import curate
from skillbank.errors import InvalidEntry
from skillbank.records import Evidence, MinedPair, Mistake, Skill
from skillbank.store import Bank, UsageRow
from skillbank.store.query import Query

TOGETHER = [1, 4]
"""Entries that the curator always changes in one operation."""
ROUNDS = 40


def trainer(bank: Bank, number: int) -> dict[str, int]:
    """Appends to the ledger, as a run does at every step."""
    for step in range(ROUNDS):
        bank.record_usage(
            UsageRow(
                run=f"run-{number}", step=step, problem_id="p", outcome="correct", skill_id=skill, mistake_id=skill + 1,
                support=0.25, polarity=1 if step % 2 else -1, gate_mass=0.1, weight=0.5, revision=bank.revision,
            )
            for skill in (1, 4, 7)
        )  # fmt: skip
    return {"usage": 3 * ROUNDS}


def curator(bank: Bank, number: int) -> dict[str, int]:
    """Disables two entries together and undoes that; tags all skills; previews in between."""
    done = refused = 0
    for turn in range(ROUNDS // 2):
        curate.disable(bank, Query(kind="skill"), actor=f"curator-{number}", preview=True)
        disabled = curate.disable(bank, TOGETHER, actor=f"curator-{number}")
        done += disabled.revision is not None
        done += curate.tag(bank, Query(kind="skill"), [f"t{number}-{turn}"], actor="me").revision is not None
        if disabled.revision is not None:
            try:
                done += curate.undo(bank, disabled.revision, actor="me").revision is not None
            except InvalidEntry:  # another curator was there in between
                refused += 1
    return {"revisions": done, "refused": refused}


def builder(bank: Bank, number: int) -> dict[str, int]:
    """Mines in batches: new pairs, and each time more evidence for one that every builder finds."""
    for batch in range(ROUNDS // 2):
        place = f"b{number}-{batch}"
        mined = [pair("shared", place), *(pair(f"own {number} {batch} {n}", place) for n in range(3))]
        bank.add_mined(mined, actor=f"builder-{number}", reason=place)
    return {"revisions": ROUNDS // 2, "pairs": 3 * (ROUNDS // 2)}


def reader(bank: Bank, number: int) -> dict[str, int]:
    """Looks again and again; counts what it saw half done."""
    halves = reads = 0
    for _ in range(6 * ROUNDS):
        statuses = {entry.status for entry in bank.entries(ids=TOGETHER)}
        halves += len(statuses) != 1
        with bank.db.snapshot():  # several reads of one state
            first, last = (bank.get(entry_id) for entry_id in TOGETHER)
            halves += first.status != last.status
            halves += (1 in bank.retrievable("skill")) != (first.status == "active")
            halves += first.revision > bank.revision
            pairs = bank.count(Query(kind="pair"))
            halves += not pairs == bank.count(Query(kind="skill")) == bank.count(Query(kind="mistake"))
            usage = bank.db.row("SELECT count(*), sum(support) FROM usage")
            totals = bank.db.row("SELECT sum(helpful + harmful + neutral), sum(support_sum) FROM usage_totals")
            halves += tuple(usage or ()) != tuple(totals or ()) and usage is not None and usage[0] > 0
        reads += 1
    return {"reads": reads, "halves": halves}


def pair(words: str, place: str) -> MinedPair:
    return MinedPair(
        skill=Skill(title="Do", principle=words),
        mistake=Mistake(description=words),
        skill_evidence=(Evidence(rollout_id=f"{place}-right", problem_id=place, outcome="correct", quote=words),),
        mistake_evidence=(Evidence(rollout_id=f"{place}-wrong", problem_id=place, outcome="wrong", quote=words),),
    )


ROLES: dict[str, Callable[[Bank, int], dict[str, int]]] = {
    "trainer": trainer,
    "curator": curator,
    "builder": builder,
    "reader": reader,
}

if __name__ == "__main__":
    role, path, number = sys.argv[1:]
    with Bank.open(path, readonly=role == "reader") as opened:
        print(json.dumps(ROLES[role](opened, int(number))))
