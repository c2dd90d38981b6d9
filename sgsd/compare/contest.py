"""Runs the entrants of a comparison, one process each. A run whose result is there is not repeated.

A failed run leaves its log and no result; the others go on, and the table says which are missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from sgsd.compare.entrants import Entrant

RESULT, ENTRANT, LOG = "result.json", "entrant.json", "log.txt"


@dataclass(frozen=True)
class Outcome:
    """What came of an entrant."""

    entrant: Entrant
    row: dict[str, Any] | None
    """None when it failed."""
    error: str = ""
    """The last line of its log."""


def run_all(
    entrants: Sequence[Entrant], *, workers: int, on_done: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Outcomes in the entrants' order. `workers` processes at a time; those that share a past run one after the other
    until it is made."""
    outcomes: dict[int, Outcome] = {}
    with ThreadPoolExecutor(workers) as pool:
        first: dict[object, int] = {}
        for index, entrant in enumerate(entrants):
            first.setdefault(entrant.past or index, index)
        for wave in (sorted(first.values()), [i for i in range(len(entrants)) if i not in first.values()]):
            running = {pool.submit(_run, entrants[index]): index for index in wave}
            for future in as_completed(running):
                outcome = outcomes[running[future]] = future.result()
                on_done(outcome)
    return [outcomes[index] for index in range(len(entrants))]


def _run(entrant: Entrant) -> Outcome:
    row = stored(entrant)
    if row is not None:
        return Outcome(entrant, row)
    entrant.folder.mkdir(parents=True, exist_ok=True)
    (entrant.folder / ENTRANT).write_text(entrant.model_dump_json(indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "sgsd.compare.child", str(entrant.folder / ENTRANT)]
    threads = str(entrant.config.threads or "")
    environment = {**os.environ, **({"OMP_NUM_THREADS": threads} if threads else {})}
    log = entrant.folder / LOG
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    row = stored(entrant)
    if code == 0 and row is not None:
        return Outcome(entrant, row)
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return Outcome(entrant, None, f"exit {code}: {lines[-1] if lines else 'no output'}; see {log}")


def stored(entrant: Entrant) -> dict[str, Any] | None:
    """The result of an earlier call, when it was made with the same settings."""
    file = entrant.folder / RESULT
    if not file.exists():
        return None
    row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return row if row["config"] == entrant.config_hash else None
