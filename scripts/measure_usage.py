"""How well the usage ledger of an arena's run tells true, misleading and irrelevant entries apart.

    sgsd demo --level easy --misleading 0.5 --irrelevant 0.15 --seed 0 --out runs/planted
    python scripts/measure_usage.py runs/planted/bank --steps 20 40 60

Prints, as a table of Markdown, the area under the ROC curve of five measures: the chance that of two entries drawn from
two groups the one of the better group has the higher value, ties counted half. Entries without a value are left out of
that measure and told. What was mined and is false belongs to no group.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sgsd.arena.tasks import TRUE_RULE, rule_line
from skillbank.records import Entry, Mistake, Skill
from skillbank.store import Bank
from skillbank.store.usage import take_back
from skillbank.usage import MEASURES, estimates

TRUTHS = {rule_line(operation, rule) for operation, rule in TRUE_RULE.items()}
SHOWN = {
    "utility": "utility",
    "correlation": "correlation",
    "z": "its z",
    "placebo": "beyond placebo",
    "credit": "credit",
}
CONTESTS = (("true", "misleading"), ("true", "irrelevant"), ("irrelevant", "misleading"))


def group(entry: Entry) -> str:
    """true, misleading, irrelevant, or false for what was mined from a wrong idea that came out right."""
    if entry.origin in ("misleading", "irrelevant"):
        return entry.origin
    content = entry.content
    if isinstance(content, Skill):
        return "true" if content.principle in TRUTHS else "false"
    assert isinstance(content, Mistake)
    return "true" if content.how_to_avoid.removeprefix("Instead: ") in TRUTHS else "false"


def area(better: Sequence[float], worse: Sequence[float]) -> float | None:
    if not better or not worse:
        return None
    return sum((a > b) + (a == b) / 2 for a in better for b in worse) / (len(better) * len(worse))


def rows(bank: Bank, step: int) -> list[list[str]]:
    """A row a kind and contest, from the ledger as it stands."""
    found = list(estimates(bank, credit=True))
    groups = {entry.id: group(entry) for entry in bank.entries() if entry.kind != "pair"}
    table = []
    for kind in ("skill", "mistake"):
        for better, worse in CONTESTS:
            cells = [str(step), kind, f"{better} / {worse}"]
            of = {
                name: [one for one in found if one.kind == kind and groups[one.entry_id or 0] == name]
                for name in (better, worse)
            }
            cells.append(f"{len(of[better])} / {len(of[worse])}")
            for measure in SHOWN:
                values = {
                    name: [value for one in ones if (value := MEASURES[measure](one)) is not None]
                    for name, ones in of.items()
                }
                missing = sum(len(of[name]) - len(values[name]) for name in of)
                at = area(values[better], values[worse])
                cells.append("-" if at is None else f"{at:.3f}" + (f" ({missing} without)" if missing else ""))
            table.append(cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path, help="the bank of the run, which is only read")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 40, 60], help="optimiser steps to stop at")
    given = parser.parse_args()
    table = [["steps", "kind", "groups", "entries used", *SHOWN.values()]]
    for step in sorted(given.steps):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(given.bank, Path(folder) / "bank")
            with Bank.open(Path(folder) / "bank") as bank:
                for (run,) in bank.db.rows("SELECT DISTINCT run FROM usage"):
                    take_back(bank.db, run, after=step)
                table += rows(bank, step)
    print("\n".join(f"| {' | '.join(cells)} |" for cells in [table[0], ["---"] * len(table[0]), *table[1:]]))


if __name__ == "__main__":
    main()
