"""Torture a bank: kill what works on it, spoil its files, let many write at once; and see that nothing is lost.

    python scripts/torture_bank.py                                 # 50 kills of each kind of work, a table
    python scripts/torture_bank.py --kills 5 --only undo "index swap" --seed 7 --json
    python scripts/torture_bank.py --kills 0 --flips 1000          # bytes changed in the files at random places
    python scripts/torture_bank.py --kills 0 --interleavings 1000  # schedules of writers and readers at once

Exits with 1 when anything was lost, doubled, not noticed or ended in a traceback. docs/robustness.md has the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from torture_flips import flip
from torture_interleavings import interleave
from torture_kills import WORKS, Outcome, torture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each kind of work")
    parser.add_argument("--only", nargs="+", choices=[work.name for work in WORKS], help="these kinds of work")
    parser.add_argument("--flips", type=int, default=0, help="of bytes in the bank's files")
    parser.add_argument("--interleavings", type=int, default=0, help="schedules of writers and readers at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder without it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        killed = []
        for work in WORKS if args.kills else ():
            if args.only is None or work.name in args.only:
                killed.append(torture(work, args.kills, args.seed, Path(folder) / work.name))
                if not args.json:
                    print(_line(killed[-1]), flush=True)
        flipped = flip(args.flips, args.seed, Path(folder) / "flips") if args.flips else None
        scheduled = interleave(args.interleavings, args.seed, Path(folder)) if args.interleavings else None
    failures = [failure for outcome in (*killed, flipped, scheduled) if outcome for failure in outcome.failures]
    if not args.json:
        for others in (flipped, scheduled):
            if others is not None:
                print("\n".join(f"{name}: {value}" for name, value in dataclasses.asdict(others).items()))
    result = {
        "kills": [dataclasses.asdict(outcome) for outcome in killed],
        "flips": flipped and dataclasses.asdict(flipped),
        "interleavings": scheduled and dataclasses.asdict(scheduled),
        "failures": len(failures),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result, indent=2) if args.json else f"{len(failures)} failures, {result['seconds']} s")
    sys.exit(bool(failures))


def _line(outcome: Outcome) -> str:
    found = ", ".join(f"{times} at {revision}" for revision, times in sorted(outcome.at_revision.items()))
    notes = ", ".join(f"{times} {check}" for check, times in sorted(outcome.notes.items()))
    lines = [
        f"{outcome.work:18} {outcome.span_s:6.2f} s  {outcome.kills:3} kills ({outcome.outlived} came too late)"
        f"  revisions found: {found or '-'}  notes: {notes or '-'}  failures: {len(outcome.failures)}"
    ]
    return "\n".join([*lines, *(f"    {failure}" for failure in outcome.failures)])


if __name__ == "__main__":
    main()
