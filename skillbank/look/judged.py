"""What the usage ledger holds of a rollout that training judged: who its teachers were, what they said of it, in the
words that they had then, though the bank was curated since.

A rollout is known by run, optimiser step and problem. A step that holds one problem more than once has its rows one
rollout after the other; their numbers (from 0) are those of its judged rollouts in the order of the rollout file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from skillbank.errors import BankCorrupt
from skillbank.records import Mistake, Outcome, Record, Skill
from skillbank.store import Bank
from skillbank.store.events import KINDS
from skillbank.store.query import json_list

if TYPE_CHECKING:
    from sqlite3 import Row


class Opinion(Record):
    """What one teacher made of one rollout, at the weights of that step."""

    support: float
    """Nats a token."""
    polarity: int
    """+1 helpful, -1 harmful, 0 neither."""
    gate_mass: float


class PastTeacher(Record):
    """A teacher of a rollout, as it was."""

    skill_id: int
    mistake_id: int
    pair_id: int | None
    skill: Skill
    mistake: Mistake
    weight: float
    revision: int
    """The bank revision whose words it read."""
    opinion: Opinion


class Judgement(Record):
    """All that was measured of one rollout."""

    teachers: tuple[PastTeacher, ...]
    """In the order of the pool: the heaviest first where retrieval ranked them."""
    placebo: Opinion | None
    """Of the neutral guidance, where it read the rollout too."""


class JudgedRollout(Record):
    """A rollout that the ledger knows of, and how much it taught."""

    step: int
    problem_id: str
    number: int
    outcome: Outcome
    gate_mass: float
    """Sum over its teachers of weight times mean gate."""


def judgements(bank: Bank, run: str, step: int, problem_id: str) -> list[Judgement]:
    """Of each rollout of a problem in a step, in their order; empty where the ledger has nothing of it."""
    rows = bank.db.rows(
        "SELECT * FROM usage WHERE run = ? AND step = ? AND problem_id = ? ORDER BY id", (run, step, problem_id)
    )
    teachers, placebos = (_apart([row for row in rows if bool(row["placebo"]) is which]) for which in (False, True))
    # Placebos are drawn by problem and step, so either all of these rollouts have one or none has.
    return [
        Judgement(
            teachers=tuple(_teacher(bank, row) for row in group),
            placebo=_opinion(placebos[n][0]) if n < len(placebos) else None,
        )
        for n, group in enumerate(teachers)
    ]


def judged_rollouts(bank: Bank, run: str, steps: Iterable[int] | None = None) -> list[JudgedRollout]:
    """Every rollout of a run that was judged, or of some of its steps, in the order of steps."""
    among = "1" if steps is None else "step IN (SELECT value FROM json_each(?))"
    rows = bank.db.rows(
        f"SELECT * FROM usage WHERE run = ? AND {among} AND NOT placebo ORDER BY step, problem_id, id",
        [run, *([] if steps is None else [json_list(steps)])],
    )
    together: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row["step"], row["problem_id"]), []).append(row)
    return [
        JudgedRollout(
            step=step,
            problem_id=problem_id,
            number=number,
            outcome=group[0]["outcome"],
            gate_mass=sum(row["weight"] * row["gate_mass"] for row in group),
        )
        for (step, problem_id), found in together.items()
        for number, group in enumerate(_apart(found))
    ]


def words_at(bank: Bank, entry_id: int, revision: int) -> Skill | Mistake:
    """What a skill or a mistake said at a revision. Raises BankCorrupt when it was not there yet."""
    row = bank.db.row(
        "SELECT v.content, e.kind FROM versions v JOIN entries e ON e.id = v.entry_id"
        " WHERE v.entry_id = ? AND v.revision <= ? ORDER BY v.revision DESC LIMIT 1",
        (entry_id, revision),
    )
    content = None if row is None else KINDS[row["kind"]].model_validate_json(row["content"])
    if not isinstance(content, Skill | Mistake):
        raise BankCorrupt(
            f"{bank.path} has no words of entry {entry_id} at revision {revision}, where its ledger has it teaching: "
            "look the bank over with `sgsd bank doctor`"
        )
    return content


def _apart(rows: list[Row]) -> list[list[Row]]:
    """Rows of several rollouts of one problem: a teacher that comes again begins the next one."""
    groups: list[list[Row]] = []
    seen: set[tuple[int, int]] = set()
    for row in rows:
        teacher = (row["skill_id"], row["mistake_id"])
        if not groups or teacher in seen:
            groups.append([])
            seen = set()
        groups[-1].append(row)
        seen.add(teacher)
    return groups


def _teacher(bank: Bank, row: Row) -> PastTeacher:
    skill, mistake = (words_at(bank, row[side], row["revision"]) for side in ("skill_id", "mistake_id"))
    return PastTeacher.model_validate(
        {name: row[name] for name in ("skill_id", "mistake_id", "pair_id", "weight", "revision")}
        | {"skill": skill, "mistake": mistake, "opinion": _opinion(row)}
    )


def _opinion(row: Row) -> Opinion:
    return Opinion(support=row["support"], polarity=row["polarity"], gate_mass=row["gate_mass"])
