"""For a process of its own: `ledger_writer.py BANK STEPS` writes the usage of so many steps of a run named `run`.

After each step it prints what the run is called and the step's number.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from sgsd.ledger import UsageLedger
from skillbank.store import Bank, UsageRow

ROWS = 8
"""Of a step."""


def write_steps(ledger: UsageLedger, steps: Iterable[int]) -> None:
    """Writes a step after the other."""
    for step in steps:
        rows = [
            UsageRow(
                run=ledger.name, step=step, problem_id=f"p{step}", outcome="correct", skill_id=1, mistake_id=2,
                support=0.1 * k, polarity=1, gate_mass=0.1, weight=0.5, revision=1,
            )
            for k in range(ROWS)
        ]  # fmt: skip
        ledger.write(rows, patience_s=30)


if __name__ == "__main__":
    with Bank.open(sys.argv[1]) as bank:
        ledger = UsageLedger(bank, "run")
        for step in range(1, int(sys.argv[2]) + 1):
            write_steps(ledger, [step])
            print(ledger.run, step, flush=True)
