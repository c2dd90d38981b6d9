"""The table of scripts/reproduce.sh: `reproduce_table.py FOLDER` reads what `sgsd eval` left in a folder and prints, as
Markdown and in per cent, the means over the sets with 95 % bootstrap intervals over problems, and each set."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    results = {
        str(file.relative_to(folder).with_suffix("")): json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(folder.rglob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    }
    if not results:
        sys.exit(f"no results in {folder}: run scripts/reproduce.sh first")
    sets = list(dict.fromkeys(one["name"] for result in results.values() for one in result["sets"]))
    rows = [["model/method", "k", "mean", "95 %", *sets], ["---"] * (4 + len(sets))]
    for name, result in results.items():
        accuracy = {one["name"]: f"{one['accuracy']:.1%}" for one in result["sets"]}
        low, high = result["ci"]
        mean = [str(result["k"]), f"{result['accuracy']:.1%}", f"{low:.1%} - {high:.1%}"]
        rows.append([name, *mean, *(accuracy.get(one, "-") for one in sets)])
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
