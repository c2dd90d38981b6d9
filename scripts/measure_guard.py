"""How fast is the guard? Entries a second through all rules that need no embedder, on one core; what each rule takes.

Texts are the clean entries of poison_bank.json and, with SGSD_DATA, those of the released banks. Seconds are the
process's own, so that a busy machine disturbs them less.

python scripts/measure_guard.py [--json] [--rounds 20]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poison_bank import clean, released

from skillbank.guard import RULES, Guard
from skillbank.guard.context import Context
from skillbank.records import Mistake, Skill


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Of one round, the least of five measurements."""
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(rounds):
            work()
        best = min(best, (time.process_time() - started) / rounds)
    return best


def speed(contents: list[Skill | Mistake], rounds: int) -> dict[str, Any]:
    guard = Guard(language="English")
    whole = seconds(lambda: [guard.check(content) for content in contents], rounds)
    each = {}
    for name, rule in RULES.items():
        contexts = [Context(content=content, language="English") for content in contents]
        for context in contexts:
            _ = context.plain, context.words, context.squeezed, context.long_words  # shared by the rules
        spent = seconds(lambda r=rule.check, cs=contexts: [list(r(c.content, c)) for c in cs], rounds)
        each[name] = round(spent / len(contents) * 1e6, 1)
    return {
        "entries": len(contents),
        "characters": round(sum(len(content.text()) for content in contents) / len(contents)),
        "entries_per_s": round(len(contents) / whole),
        "microseconds": each,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Entries a second through the guard.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all texts in a measurement")
    options = parser.parse_args()
    texts = {"clean": [case.content for case in clean()]}
    if given := os.environ.get("SGSD_DATA"):
        texts["released"] = [case.content for case in released(Path(given))]
    found = {name: speed(contents, options.rounds) for name, contents in texts.items()}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, numbers in found.items():
        print(f"{name}: {numbers['entries_per_s']:,} entries a second ({numbers['characters']} characters each)")
        for rule, taken in sorted(numbers["microseconds"].items(), key=lambda item: -item[1]):
            print(f"  {rule:<16} {taken:>7.1f} µs")


if __name__ == "__main__":
    main()
