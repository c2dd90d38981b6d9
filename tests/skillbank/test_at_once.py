"""A trainer, curators, builds and readers on one bank at once, each a process: nothing is lost, nothing half seen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from skillbank.records import Skill
from skillbank.store import Bank
from skillbank.store.query import Query

from .at_once import TOGETHER, pair

SCRIPT = Path(__file__).with_name("at_once.py")
PROCESSES = ("trainer", "trainer", "curator", "curator", "builder", "builder", "reader", "reader")


@pytest.mark.slow
def test_one_writer_at_a_time_and_many_readers(bank: Bank) -> None:
    bank.add_mined([pair("shared", "first")], actor="miner")
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), role, str(bank.path), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, role in enumerate(PROCESSES)
    ]
    totals: Counter[str] = Counter()
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        totals.update(json.loads(out))
    assert (totals["halves"], totals["reads"]) == (0, 480)

    # Every operation that said it made a revision did, and no other did.
    assert bank.revision == 2 + totals["revisions"]
    assert [r.revision for r in bank.revisions()][::-1] == list(range(1, bank.revision + 1))
    # The ledger has every row, and its totals are those of its rows.
    assert bank.db.value("SELECT count(*) FROM usage") == totals["usage"] == 240
    assert sum(bank.usage(entry_id).total for entry_id in (1, 4, 7)) == 240
    # Every pair that was mined is there once, and the shared one has the places of all.
    assert bank.count(Query(kind="pair")) == 7 + totals["pairs"] == 127
    shared = bank.entries(Query.parse("kind:skill shared"))
    assert [entry.content for entry in shared] == [Skill(title="Do", principle="shared")]
    assert shared[0].evidence_count == len(bank.evidence(shared[0].id)) == 1 + 40
    # Every tag that a curator set is on every skill that was there.
    assert len(bank.get(10).tags) == 40
    # What was changed together stands together, and the state is what the history says.
    assert len({bank.get(entry_id).status for entry_id in TOGETHER}) == 1
    for entry_id in TOGETHER:
        last = [event.after.status for event in bank.history(entry_id) if event.after.status is not None]
        assert bank.get(entry_id).status == last[-1]
    assert (1 in bank.retrievable("skill")) == (bank.get(1).status == "active")
    assert bank.db.value("PRAGMA integrity_check") == "ok"
