"""The usage ledger of a run: what each teacher did in each step, on its way to the bank (docs/usage.md).

A step's rows are written when it ends, before the checkpoint that covers it, in one transaction of the main process. So
a crash loses the step that was under way, and a resumed run takes back what was written beyond its checkpoint: those
steps are measured again, and none counts twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sgsd.errors import ConfigError
from skillbank.curate.runs import differs
from skillbank.errors import BankBusy
from skillbank.store import Bank
from skillbank.store.database import BUSY_TIMEOUT_S
from skillbank.store.usage import UsageRow, take_back, unused_run

if TYPE_CHECKING:
    from sgsd.methods.base import MethodResult
    from sgsd.objectives.gated import GatedDiagnostics
    from sgsd.teachers import Example

PATIENCE_S = 1.0
"""How long a step waits for a bank that another process holds; what could not be written waits for the next step."""
NOBODY = 0
"""In the place of skill and mistake of a placebo's row: ids of entries begin at 1."""


class UsageLedger:
    """Notes what teachers did and writes it to a bank. A bank that is open for reading alone gets none, with a warning.

    `name` is the run's. Where the bank has rows of another run of that name, this one's go by `name#2` and so on: two
    runs are never mixed, and resuming one leaves the other alone.
    """

    def __init__(self, bank: Bank, name: str) -> None:
        self.bank = bank
        self.name = name
        self.run: str | None = None
        """What the run is called in the bank, from its first row on."""
        self._noted: list[UsageRow] = []
        self._waiting: list[UsageRow] = []
        if bank.readonly:
            warnings.warn(f"{bank.path} cannot be written to: it will not learn how its entries did", stacklevel=3)

    def record(self, step: int, result: MethodResult) -> None:
        """Note a micro-batch of optimiser step `step` (from 1): one row for each teacher of a judged example."""
        seen = result.diagnostics
        if seen is None:
            return
        values = zip(seen.support_BK.tolist(), seen.polarity_BK.tolist(), seen.gate_mass_BK.tolist(), strict=True)
        for example, (supports, polarities, masses) in zip(result.judged, values, strict=True):
            for k, teacher in enumerate(example.teachers):
                said = {"support": supports[k], "polarity": round(polarities[k]), "gate_mass": masses[k]}
                self._noted.append(self._row(step, example, weight=teacher.weight, **said, **teacher.label))
        if result.placebo is not None:
            self._record_placebos(step, result.judged, result.placebo)

    def _record_placebos(self, step: int, judged: Sequence[Example], seen: GatedDiagnostics) -> None:
        values = zip(seen.support_BK.tolist(), seen.polarity_BK.tolist(), seen.gate_mass_BK.tolist(), strict=True)
        for example, ([support], [polarity], [mass]) in zip(judged, values, strict=True):
            if example.placebo is not None:
                said = {"support": support, "polarity": round(polarity), "gate_mass": mass, "weight": 0.0}
                revision = example.teachers[0].label["revision"]
                row = self._row(
                    step, example, skill_id=NOBODY, mistake_id=NOBODY, revision=revision, placebo=True, **said
                )
                self._noted.append(row)

    def _row(self, step: int, example: Example, **values: Any) -> UsageRow:
        rollout = example.rollout
        return UsageRow(
            run=self.name,
            step=step,
            problem_id=rollout.problem.problem_id,
            outcome=rollout.verdict.outcome,
            **values,
        )

    def take(self) -> list[UsageRow]:
        """What was noted since the last time, to be written here or handed to the process that writes."""
        noted, self._noted = self._noted, []
        return noted

    def write(self, rows: Sequence[UsageRow], *, patience_s: float = PATIENCE_S) -> None:
        """Write a step's rows, of all ranks. A bank that is held too long is a warning, and the rows wait."""
        if self.bank.readonly or not (rows or self._waiting):
            return
        self._waiting += rows
        try:
            with self.bank.db.patience(patience_s), self.bank.db.transaction():
                run = self.run or unused_run(self.bank.db, self.name)
                self.bank.record_usage(row.model_copy(update={"run": run}) for row in self._waiting)
        except BankBusy as error:
            warnings.warn(f"{len(self._waiting)} rows of usage wait: {error}", stacklevel=2)
            return
        self.run, self._waiting = run, []

    def close(self, *, patience_s: float = BUSY_TIMEOUT_S) -> None:
        """Write what still waits, with the patience of any other change. Raises BankBusy, and then it is lost."""
        self.write([], patience_s=patience_s)
        if self._waiting:
            raise BankBusy(f"{self.bank.path} is held by another process: {len(self._waiting)} rows of usage are lost")

    def state(self, step: int) -> dict[str, Any]:
        """The bank that a checkpoint after `step` was trained under, and what the run is called there."""
        return {
            "bank_id": self.bank.meta("bank_id"),
            "bank_revision": self.bank.revision,
            "usage_run": self.run,
            "usage_step": step,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's `state`: rows of later steps are taken back. A run follows its bank as that is
        curated, so a newer revision is a warning; an older one, or another bank, is a stale file: ConfigError
        (docs/method.md, pitfall 7)."""
        path, then, now = self.bank.path, state["bank_revision"], self.bank.revision
        if self.bank.meta("bank_id") != state["bank_id"]:
            raise ConfigError(f"{path} is not the bank that the checkpoint was trained with: give that, or run anew")
        if now < then:
            raise ConfigError(
                f"{path} is at revision {now}, the checkpoint was trained at {then}: give the newer copy, or run anew"
            )
        if differs(self.bank, then):
            warnings.warn(
                f"{path} went from revision {then} to {now} since the checkpoint: the run goes on with it as "
                "it is now, and so differently",
                stacklevel=2,
            )
        run = state["usage_run"]
        # A run folder that was copied under another name goes on under that name, and leaves the first one its rows.
        if run is not None and run.partition("#")[0] == self.name and not self.bank.readonly:
            self.run = run
            take_back(self.bank.db, run, after=state["usage_step"])
