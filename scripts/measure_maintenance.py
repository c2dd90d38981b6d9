"""What a misleading bank costs on the arena, and what maintenance gives back; one run after another, over seeds.

    python scripts/measure_maintenance.py --out runs/maintenance
    python scripts/measure_maintenance.py --out runs/maintenance --only clean misleading --seeds 0

Each run is `sgsd demo` with the arguments below: 30 steps, in which a clean bank teaches most operations and a
misleading one costs what it has not made up for yet. A run whose result lies in `--out` already is not repeated. Each
result is a JSON line on stdout as it comes; the Markdown table follows on stderr and lies in `--out`/table.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

STEPS = ["--level", "easy", "--set", "train.max_steps=30", "--set", "eval.every_steps=5"]
MISLEADING = ["--misleading", "0.85"]
MAINTAINED = ["--set", "maintain.every_steps=3", "--set", "maintain.prune=correlation_high:<0.5"]
SETTINGS: dict[str, list[str]] = {
    "clean": STEPS,
    "misleading": [*STEPS, *MISLEADING],
    "misleading, maintained": [*STEPS, *MISLEADING, *MAINTAINED],
    "clean, maintained": [*STEPS, *MAINTAINED],
}


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
    folder = out / f"{name.replace(', ', '-')}-{seed}"
    file = folder.with_suffix(".json")
    if not file.exists():
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was interrupted
        command = [sys.executable, "-m", "sgsd", "demo", *SETTINGS[name], "--seed", str(seed), "--out", str(folder)]
        done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
        report = json.loads(done.stdout[done.stdout.index("{") :])
        curve = {point["step"]: point["accuracy"] for point in report["curve"]}
        result = {"setting": name, "seed": seed, "after": report["accuracy_after"], "curve": curve}
        file.write_text(json.dumps(result | _entries(folder / "bank") | _looks(folder / "run")), encoding="utf-8")
    row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return row


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
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["maintain/seconds"] for line in lines if "maintain/seconds" in line]
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
    by_setting = {name: [row["after"] for row in rows if row["setting"] == name] for name in SETTINGS}
    lines += ["", *(f"{name}: mean {mean(after):.1%}" for name, after in by_setting.items() if after)]
    clean, misleading, maintained = (by_setting[name] for name in list(SETTINGS)[:3])
    if clean and misleading and maintained:
        cost, back = mean(clean) - mean(misleading), mean(maintained) - mean(misleading)
        lines.append(f"The misleading bank costs {100 * cost:.1f} points; maintenance gives back {100 * back:.1f}.")
    return lines


if __name__ == "__main__":
    main()
