"""Measure the demo over seeds and settings, one process a run, and print a Markdown table.

    python scripts/measure_arena.py --out runs/measure
    python scripts/measure_arena.py --out runs/measure --only misleading --seeds 0 1 2

Each run is `sgsd demo` with the arguments below; a run whose result lies in `--out` already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SETTINGS: dict[str, list[str]] = {
    "easy": ["--level", "easy"],
    "medium": ["--level", "medium"],
    "hard": ["--level", "hard"],
    "misleading": ["--level", "easy", "--misleading", "0.5"],
    "misleading, polarity off": ["--level", "easy", "--misleading", "0.5", "--set", "objective.polarity=off"],
    "polarity off": ["--level", "easy", "--set", "objective.polarity=off"],
    "gate off": ["--level", "easy", "--set", "objective.gate=quadratic"],
    "random retrieval": ["--level", "easy", "--set", "bank.mode=random"],
    "by the ledger": ["--level", "easy", "--set", "teacher.min_usefulness=0.5"],
    "by a prefix": ["--level", "easy", "--set", "teacher.screen_tokens=8"],
    "misleading, by the ledger": ["--level", "easy", "--misleading", "0.5", "--set", "teacher.min_usefulness=0.5"],
}

TEACHERS = 8
"""A problem."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = [(name, seed, measure(name, seed, args.out)) for name in args.only for seed in args.seeds]
    print("\n".join(table(results)))


def measure(name: str, seed: int, out: Path) -> dict[str, Any]:
    file = out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
    if not file.exists():
        folder = file.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was interrupted
        command = [sys.executable, "-m", "sgsd", "demo", *SETTINGS[name], "--seed", str(seed), "--out", str(folder)]
        done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
        file.write_text(done.stdout, encoding="utf-8")
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    metrics = (file.with_suffix("") / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [log for log in map(json.loads, metrics) if "loss" in log]
    asked = sum(log["examples"] - log["unverifiable"] for log in steps) * TEACHERS
    read, skipped = (sum(log[key] for log in steps) for key in ("read_tokens", "teachers_skipped"))
    return result | {"read_tokens": read, "skipped_share": skipped / asked}


def table(results: list[tuple[str, int, dict[str, Any]]]) -> list[str]:
    lines = [
        "| setting | seed | before | after | best | tokens | helpful / harmful / neutral | seconds "
        "| tokens read by teachers | teachers skipped |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, seed, r in results:
        shares = " / ".join(f"{r['polarity'][key]:.0%}" for key in ("helpful", "harmful", "neutral"))
        lines.append(
            f"| {name} | {seed} | {r['accuracy_before']:.1%} | {r['accuracy_after']:.1%} | {r['accuracy_best']:.1%} "
            f"| {r['generated_tokens']:,} | {shares} | {sum(r['seconds'].values()):.0f} "
            f"| {r['read_tokens']:,.0f} | {r['skipped_share']:.0%} |"
        )
    return lines


if __name__ == "__main__":
    main()
