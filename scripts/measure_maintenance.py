"""What a misleading bank costs on the arena, and what maintenance gives back; one run after another, over seeds.

    python scripts/measure_maintenance.py --out runs/maintenance
    python scripts/measure_maintenance.py --out runs/maintenance --only clean misleading --seeds 0

Each run is a demo with the settings below: 30 steps, in which a clean bank teaches most operations and a misleading one
costs what it has not made up for yet; over the first six the rate rises, while the ledger learns. `at random` retires
in each look as many skills and as many mistakes as `maintained` did there with the same seed, whichever they are: what
it gives back is not the rule's doing. A run whose result lies in `--out` already is not repeated. Each result is a JSON
line on stdout as it comes; the Markdown table follows on stderr and lies in `--out`/table.md.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillbank.store import Bank
    from skillbank.usage import KeepRule

ENOUGH = "problems:>=4"
"""Of the rule `misleading`: what could be retired."""
STEPS = ["train.max_steps=30", "train.warmup_steps=6", "eval.every_steps=10"]
MAINTAINED = [*STEPS, "maintain.every_steps=2", "maintain.prune=misleading"]
SETTINGS: dict[str, tuple[float, list[str]]] = {
    "clean": (0.0, STEPS),
    "misleading": (0.85, STEPS),
    "misleading, maintained": (0.85, MAINTAINED),
    "misleading, at random": (0.85, MAINTAINED),
    "clean, maintained": (0.0, MAINTAINED),
}
"""Share of misleading skills, and what is set."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in args.seeds:
        for name in args.only:
            rows.append(row := measure(name, seed, args.out))
            print(json.dumps(row), flush=True)
    text = "\n".join(table(rows)) + "\n"
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text, file=sys.stderr)


def measure(name: str, seed: int, out: Path) -> dict[str, Any]:
    """Accuracies of a run, and of its looks the totals: what was retired, by origin and truth."""
    folder = _folder(name, seed, out)
    file = folder.with_suffix(".json")
    if not file.exists():
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was interrupted
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:  # nothing is left of the run before
            result = alone.submit(run, name, seed, out).result()
        file.write_text(json.dumps(result | _entries(folder / "bank") | _looks(folder / "run")), encoding="utf-8")
    row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return row


def run(name: str, seed: int, out: Path) -> dict[str, Any]:
    from sgsd.arena.demo import run_demo

    share, overrides = SETTINGS[name]
    if name == "misleading, at random":
        _retire_at_random(_folder("misleading, maintained", seed, out), seed)
    report = run_demo("easy", seed=seed, out=_folder(name, seed, out), misleading=share, overrides=overrides)
    curve = {point["step"]: point["accuracy"] for point in report.curve}
    return {"setting": name, "seed": seed, "after": report.accuracy_after, "curve": curve}


def _folder(name: str, seed: int, out: Path) -> Path:
    return out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"


def _retire_at_random(maintained: Path, seed: int) -> None:
    """Have the looks of this process retire as many of each kind as those of another run did, drawn at random from
    what was used often enough."""
    from skillbank.curate import runs
    from skillbank.usage import KeepRule

    counts = iter(_retired_by_look(maintained))
    rng = random.Random(f"at random/{seed}")
    ruled_out = runs.ruled_out

    def drawn(bank: Bank, rule: KeepRule, *, young: Collection[int]) -> list[int]:
        used = bank.entries(ids=ruled_out(bank, KeepRule.parse(ENOUGH), young=young))
        chosen: list[int] = []
        for kind, count in sorted(next(counts).items()):
            of_kind = [entry.id for entry in used if entry.kind == kind]
            chosen += rng.sample(of_kind, min(count, len(of_kind)))
        return sorted(chosen)

    runs.ruled_out = drawn


def _retired_by_look(maintained: Path) -> list[Counter[str]]:
    from skillbank.store import Bank

    with Bank.open(maintained / "bank") as bank:
        made = {
            int(revision.reason.rpartition(" ")[2]): revision.revision
            for revision in bank.revisions()
            if revision.actor.startswith("train ")
        }
        counts = []
        for line in _logged(maintained / "run"):
            retired: Counter[str] = Counter()
            if "maintain/pruned" in line and line["step"] in made:
                revision = made[line["step"]]
                for change in bank.net_changes(revision - 1, revision):
                    if change.before is not None and change.after.status == "retired":
                        retired[change.kind] += 1
            if "maintain/pruned" in line:
                counts.append(retired)
        return counts


def _logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _entries(bank_dir: Path) -> dict[str, int]:
    """Skills and mistakes at the start, and those that were retired, planted ones apart."""
    from skillbank.store import Bank

    counts = dict.fromkeys(("right", "false", "right_retired", "false_retired", "online"), 0)
    with Bank.open(bank_dir) as bank:
        for entry in bank.entries():
            if entry.kind == "pair":
                continue
            if entry.origin == "online":
                counts["online"] += 1
                continue
            kind = "false" if entry.origin == "misleading" else "right"
            counts[kind] += 1
            counts[f"{kind}_retired"] += entry.status == "retired"
    return counts


def _looks(run: Path) -> dict[str, float]:
    seconds = [line["maintain/seconds"] for line in _logged(run) if "maintain/seconds" in line]
    return {"looks": len(seconds), "look_seconds": round(mean(seconds), 2) if seconds else 0.0}


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| bank | seed | after 10 steps | 20 | 30 | misleading entries retired | other entries retired | new |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        curve = {int(step): accuracy for step, accuracy in row["curve"].items()}
        points = " | ".join(f"{curve[step]:.1%}" if step in curve else "" for step in (10, 20, 30))
        retired = f"{row['false_retired']} of {row['false']} | {row['right_retired']} of {row['right']}"
        lines.append(f"| {row['setting']} | {row['seed']} | {points} | {retired} | {row['online']} |")
    after = {(row["setting"], row["seed"]): 100 * row["after"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    lines.append("")
    for name in SETTINGS:
        if found := [after[name, seed] for seed in seeds if (name, seed) in after]:
            lines.append(f"{name}: {_with_error(found)} %")
    for name in list(SETTINGS)[2:4]:
        paired = [seed for seed in seeds if all((n, seed) in after for n in ("clean", "misleading", name))]
        if paired:
            cost = [after["clean", seed] - after["misleading", seed] for seed in paired]
            back = [after[name, seed] - after["misleading", seed] for seed in paired]
            lines.append(
                f"{name}: {_with_error(back)} points of {_with_error(cost)} are given back, {sum(back) / sum(cost):.0%}"
            )
    return lines


def _with_error(values: Sequence[float]) -> str:
    """The mean, and its standard error over seeds."""
    error = f" +- {stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{error}"


if __name__ == "__main__":
    main()
