"""The ledger of mining by a model (table `calls`): what was asked and what came back. No finished call is repeated.

A call is known by its key: a hash of the rollouts' content, the prompt, the model and the settings that change the
reply. Replies are kept as the model wrote them and are read anew in every build, so a better reader profits from old
calls. Left out: calls that ended because no server could be reached; they are simply made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from sqlite3 import Row
from typing import Literal

from skillbank.mine.model.calls import Call
from skillbank.records import Record
from skillbank.store.database import Database

State = Literal["done", "dead"]
COLUMNS = (
    "key, kind, rollouts, prompt_hash, model, state, reply, error, attempts, prompt_tokens, completion_tokens, seconds"
)


class FinishedCall(Record):
    """A call that came to an end: its replies, and why it is dead if it is."""

    key: str
    kind: str
    """What was asked for: skills, mistakes or pairs."""
    rollouts: tuple[str, ...]
    """Ids of the rollouts it showed."""
    prompt_hash: str
    model: str
    state: State
    replies: tuple[str, ...] = ()
    """Raw texts in their order: the first reply, and the repaired one if there was a repair."""
    call: Call | None = None
    """The call itself, kept with a dead one so that it can be made again without the file of its rollouts."""
    error: str | None = None
    attempts: int = 1
    """How often it was made, over all builds and retries."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    at: str | None = None
    """When it ended: UTC, ISO 8601. The database sets it."""


class Ledger:
    """The calls in a bank's database. Every record is committed when `record` returns."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def again(self) -> Ledger:
        """The same ledger over a connection of its own, for another thread. Close it there."""
        return Ledger(Database(self.db.file))

    def close(self) -> None:
        self.db.close()

    def get(self, keys: Iterable[str]) -> dict[str, FinishedCall]:
        """The finished calls among the keys."""
        found = self.db.rows(
            f"SELECT {COLUMNS}, at FROM calls WHERE key IN (SELECT value FROM json_each(?))", (json.dumps([*keys]),)
        )
        return {row["key"]: _call(row) for row in found}

    def record(self, calls: Sequence[FinishedCall]) -> None:
        """Writes calls in one transaction; a key that is there already gets the new outcome."""
        sql = (
            f"INSERT INTO calls ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET state = excluded.state, reply = excluded.reply, error = excluded.error,"
            " attempts = excluded.attempts, prompt_tokens = excluded.prompt_tokens,"
            " completion_tokens = excluded.completion_tokens, seconds = excluded.seconds,"
            " at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
        )
        with self.db.transaction():
            self.db.run_many(sql, [_row(call) for call in calls])

    def forget(self, keys: Iterable[str]) -> None:
        """Takes calls out, so that they are made again."""
        with self.db.transaction():
            self.db.run("DELETE FROM calls WHERE key IN (SELECT value FROM json_each(?))", (json.dumps([*keys]),))

    def dead(self) -> Iterator[FinishedCall]:
        """The dead letters, oldest first."""
        for row in self.db.stream(f"SELECT {COLUMNS}, at FROM calls WHERE state = 'dead' ORDER BY at, key"):
            yield _call(row)

    def counts(self) -> dict[State, int]:
        """Number of calls by state."""
        counts: dict[State, int] = {"done": 0, "dead": 0}
        for row in self.db.rows("SELECT state, count(*) AS n FROM calls GROUP BY state"):
            counts[row["state"]] = row["n"]
        return counts


def _row(call: FinishedCall) -> tuple[object, ...]:
    kept = {} if call.call is None else {"call": call.call.model_dump(mode="json", exclude_defaults=True)}
    reply = json.dumps({"replies": call.replies} | kept, ensure_ascii=False)
    return (
        call.key,
        call.kind,
        json.dumps(call.rollouts, ensure_ascii=False),
        call.prompt_hash,
        call.model,
        call.state,
        reply,
        call.error,
        call.attempts,
        call.prompt_tokens,
        call.completion_tokens,
        call.seconds,
    )


def _call(row: Row) -> FinishedCall:
    values = dict(row)
    values["rollouts"] = tuple(json.loads(values["rollouts"]))
    return FinishedCall(**values | json.loads(values.pop("reply")))
