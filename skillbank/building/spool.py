"""Rollouts on their way into a bank: on disk, so that a build's memory does not grow with their number.

Any problem's other outcome may come last, so all rollouts are read before the first is mined. They lie in a scratch
database beside the bank, each id once, and come back a problem at a time; what became of each is written next to it.
The scratch database is thrown away after the build; one that a killed build left is thrown away before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

from skillbank.records import Fate, ProblemText, Rollout, RolloutFate, rollout_hash

CACHE_KIB = 32_768
"""Of the scratch database's pages; what is over that is on the disk."""
BATCH = 512

SEEN_BEFORE = "rollout id seen before"
CONTRADICTS = "rollout id seen before with other content"
OTHER_SPLIT = "rollout of split "
NO_PLACE = "right attempt on which no lesson rests"

SCHEMA = """
CREATE TABLE rollouts (
    number INTEGER PRIMARY KEY,                     -- in the order they were read
    rollout_id TEXT NOT NULL UNIQUE,
    problem_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    file TEXT NOT NULL,
    body TEXT NOT NULL                              -- JSON of the Rollout
);
CREATE TABLE fates (                                -- of those that were not accepted
    rollout_id TEXT PRIMARY KEY,
    fate TEXT NOT NULL,
    reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE problems (problem_id TEXT PRIMARY KEY, problem TEXT NOT NULL, reference TEXT) WITHOUT ROWID;
"""

Taken = Literal["new", "seen before", "contradicts"]


def scratch(file: Path | str) -> sqlite3.Connection:
    """A database that need not survive a crash, and that keeps its large sorts on disk."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA temp_store = FILE")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN")
    return connection


class Spool:
    """The rollouts of one build."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.db = connection
        self.db.executescript(SCHEMA)
        self.db.execute("BEGIN")
        self.count = 0

    # Filling it

    def take(self, rollout: Rollout, file: str) -> Taken:
        """Keeps a rollout; one whose id is there already is not kept, whatever it says."""
        digest = rollout_hash(rollout)
        kept = self.db.execute(
            "INSERT INTO rollouts (rollout_id, problem_id, hash, file, body) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (rollout_id) DO NOTHING",
            (
                rollout.rollout_id,
                rollout.problem_id,
                digest,
                file,
                rollout.model_dump_json(exclude_defaults=True, exclude={"token_ids"}),
            ),
        )
        if kept.rowcount:
            self.count += 1
            return "new"
        known = self.db.execute("SELECT hash FROM rollouts WHERE rollout_id = ?", (rollout.rollout_id,)).fetchone()
        return "seen before" if known[0] == digest else "contradicts"

    def reject(self, fates: Iterable[tuple[str, str]]) -> None:
        """(rollout id, reason) of rollouts that give nothing. The last word holds."""
        self._write((rollout_id, "rejected", reason) for rollout_id, reason in fates)

    def bury(self, fates: Iterable[tuple[str, str]]) -> None:
        """(rollout id, reason) of rollouts whose call came to nothing and can be made again."""
        self._write((rollout_id, "dead", reason) for rollout_id, reason in fates)

    def _write(self, rows: Iterable[tuple[str, str, str]]) -> None:
        self.db.executemany("INSERT OR REPLACE INTO fates VALUES (?, ?, ?)", rows)

    # Reading it

    def groups(self) -> Iterator[list[Rollout]]:
        """The rollouts that were not rejected while reading, a problem at a time, in the order of problem ids; within
        a problem by rollout id. Notes the text of each problem on the way."""
        self.db.execute("CREATE INDEX IF NOT EXISTS by_problem ON rollouts (problem_id, rollout_id)")
        rows = self.db.execute(
            "SELECT problem_id, body FROM rollouts r"
            " WHERE NOT EXISTS (SELECT 1 FROM fates f WHERE f.rollout_id = r.rollout_id)"
            " ORDER BY problem_id, rollout_id"
        )
        for _, of_problem in groupby(rows, key=lambda row: row[0]):
            group = [Rollout.model_validate_json(body) for _, body in of_problem]
            reference = next((rollout.reference for rollout in group if rollout.reference is not None), None)
            self.db.execute(
                "INSERT OR REPLACE INTO problems VALUES (?, ?, ?)", (group[0].problem_id, group[0].problem, reference)
            )
            yield group

    def problems(self) -> Iterator[ProblemText]:
        """The problems that were mined, by id."""
        for problem_id, problem, reference in self.db.execute("SELECT * FROM problems ORDER BY problem_id"):
            yield ProblemText(problem_id=problem_id, problem=problem, reference=reference)

    def settle(self, bearing: str) -> None:
        """Says what became of each rollout, now that `bearing`, a table of rollout ids, is all that entries rest on.

        A rollout that an entry rests on is accepted, whatever was said before; any other has a reason by now.
        """
        self.db.execute(f"DELETE FROM fates WHERE rollout_id IN (SELECT rollout_id FROM {bearing})")
        self.db.execute(
            "INSERT INTO fates SELECT rollout_id, 'rejected', ? FROM rollouts r"
            f" WHERE rollout_id NOT IN (SELECT rollout_id FROM {bearing})"
            " AND NOT EXISTS (SELECT 1 FROM fates f WHERE f.rollout_id = r.rollout_id)",
            (NO_PLACE,),
        )

    def fates(self, miner: str) -> Iterator[RolloutFate]:
        """What became of every rollout, in the order they were read. After `settle`."""
        rows = self.db.execute(
            "SELECT body, hash, file, fate, reason FROM rollouts LEFT JOIN fates USING (rollout_id) ORDER BY number"
        )
        for body, digest, file, fate, reason in rows:
            rollout = Rollout.model_validate_json(body)
            yield RolloutFate(
                rollout_id=rollout.rollout_id,
                problem_id=rollout.problem_id,
                content_hash=digest,
                outcome=rollout.outcome,
                answer=rollout.answer,
                model=rollout.model,
                source=rollout.source,
                guided=rollout.guided,
                file=file,
                miner=miner,
                fate=fate or "accepted",
                reason=reason or "",
                completion=rollout.completion if fate is None else None,
            )

    def counts(self) -> dict[Fate, dict[str, int]]:
        """Of each fate: reason -> rollouts. After `settle`; they add up to `count`."""
        counts: dict[Fate, dict[str, int]] = {"accepted": {}, "rejected": {}, "dead": {}}
        rows = self.db.execute(
            "SELECT coalesce(fate, 'accepted'), coalesce(reason, ''), count(*)"
            " FROM rollouts LEFT JOIN fates USING (rollout_id) GROUP BY 1, 2 ORDER BY 1, 2"
        )
        for fate, reason, count in rows:
            counts[fate][reason] = count
        return counts
