"""What the bank was mined from: the problems, and what became of every rollout. Facts, so they make no revision."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from skillbank.errors import BankCorrupt
from skillbank.records import ProblemText, RolloutFate
from skillbank.store.database import Database


def record_problems(db: Database, problems: Iterable[ProblemText]) -> None:
    """A problem that is known keeps its text, and gets a reference answer when it had none."""
    sql = (
        "INSERT INTO problems VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET reference = excluded.reference WHERE reference IS NULL"
    )
    with db.transaction():
        db.run_many(sql, ((p.problem_id, p.problem, p.reference) for p in problems))


def problem(db: Database, problem_id: str) -> ProblemText | None:
    row = db.row("SELECT problem_id, problem, reference FROM problems WHERE problem_id = ?", (problem_id,))
    return None if row is None else ProblemText(**dict(row))


_COLUMNS = tuple(RolloutFate.model_fields)


def record_rollouts(db: Database, fates: Iterable[RolloutFate]) -> None:
    """One row a rollout and miner; a text that was kept stays when it comes again without."""
    kept = ("rollout_id", "miner", "completion")
    updates = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in kept)
    sql = (
        f"INSERT INTO rollouts ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT DO UPDATE"
        f" SET {updates}, completion = coalesce(excluded.completion, completion)"
    )
    with db.transaction():
        db.run_many(sql, (_row(fate) for fate in fates))


def _row(fate: RolloutFate) -> list[object]:
    packed = None if fate.completion is None else zlib.compress(fate.completion.encode(), 1)
    return [packed if name == "completion" else getattr(fate, name) for name in _COLUMNS]


def rollout(db: Database, rollout_id: str) -> list[RolloutFate]:
    rows = db.rows(f"SELECT {', '.join(_COLUMNS)} FROM rollouts WHERE rollout_id = ? ORDER BY miner", (rollout_id,))
    return [_fate({name: row[name] for name in _COLUMNS}) for row in rows]


def _fate(values: dict[str, object]) -> RolloutFate:
    packed = values["completion"]
    try:
        text = zlib.decompress(packed).decode() if isinstance(packed, bytes) else None
        return RolloutFate.model_validate({**values, "completion": text})
    except (zlib.error, ValueError) as error:
        raise BankCorrupt(
            f"rollout {values['rollout_id']} cannot be read: look the bank over with `sgsd bank doctor`"
        ) from error
