"""What a bank covers: which of its problems have a useful pair, which pairs training ever tried, what they were worth.

A pair serves a problem when its skill or its mistake rests on it and retrieval may return both together. A problem is

    useful      one of its pairs helped more often than it harmed
    untried     none of its pairs was ever retrieved in training
    unhelpful   those that were did not help
    uncovered   no pair serves it

Evidence and usage of merged entries count with what stands for them.
"""

from __future__ import annotations

from typing import Literal, get_args

from skillbank.records import Kind, Record
from skillbank.store import Bank, BankStats

Cover = Literal["useful", "untried", "unhelpful", "uncovered"]
COVERS: tuple[Cover, ...] = get_args(Cover)
BINS = 5
"""Of equal width, over utilities from -1 to 1."""


class Problem(Record):
    """A problem and how the bank covers it."""

    problem_id: str
    problem: str
    cover: Cover
    pairs: int
    """That serve it."""


class Bin(Record):
    """Entries whose utility is at least `low` and below `high` (1 belongs to the last)."""

    low: float
    high: float
    entries: dict[Kind, int]


class Coverage(BankStats):
    """What a bank holds and covers, in numbers."""

    problems: dict[Cover, int]
    pairs_in_use: int
    """Pairs that retrieval may return."""
    pairs_never_retrieved: int
    """Of those."""
    utility: tuple[Bin, ...]
    flags: dict[str, int]
    """Rule -> entries with a flag of it that nobody released."""
    rollouts: dict[str, int]
    """Fate -> rollouts that were read; one that two miners read may count under two."""
    rejected: dict[str, int]
    """Reason -> rollouts, of those that were rejected."""


_IN_USE = (
    "p.kind = 'pair' AND p.status = 'active'"
    " AND EXISTS (SELECT 1 FROM entries s WHERE s.id = p.skill_id AND s.retrievable)"
    " AND EXISTS (SELECT 1 FROM entries m WHERE m.id = p.mistake_id AND m.retrievable)"
)
_COVER = f"""
    WITH teachers AS MATERIALIZED (
        SELECT p.id, p.skill_id, p.mistake_id, used.utility FROM entries p
        LEFT JOIN entry_usage used ON used.id = p.id WHERE {_IN_USE}
    ),
    sides AS (
        SELECT skill_id AS side, id, utility FROM teachers UNION ALL SELECT mistake_id, id, utility FROM teachers
    ),
    serving AS MATERIALIZED (
        SELECT x.problem_id, count(DISTINCT t.id) AS pairs, max(t.utility) AS best
        FROM evidence x JOIN entries e ON e.id = x.entry_id JOIN sides t ON t.side = coalesce(e.head, e.id)
        WHERE x.active GROUP BY x.problem_id
    ),
    covered AS (
        SELECT q.problem_id, q.problem, coalesce(pairs, 0) AS pairs,
            CASE WHEN pairs IS NULL THEN 'uncovered' WHEN best IS NULL THEN 'untried'
                WHEN best > 0 THEN 'useful' ELSE 'unhelpful' END AS cover
        FROM problems q LEFT JOIN serving USING (problem_id)
    )"""


def coverage(bank: Bank) -> Coverage:
    """All numbers from one state of the bank."""
    db = bank.db
    with db.snapshot():
        in_use = f"SELECT count(*) FROM entries p WHERE {_IN_USE}"
        tried = " AND p.id IN (SELECT id FROM entry_usage)"
        pairs = db.value(in_use)
        rules = (
            "SELECT f.value ->> 'rule', count(DISTINCT e.id) FROM entries e, json_each(e.flags) f"
            " WHERE e.flags <> '[]' AND NOT f.value ->> 'released' GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        reasons = "SELECT reason, count(*) FROM rollouts WHERE fate = 'rejected' GROUP BY 1 ORDER BY 2 DESC, 1"
        return Coverage(
            **bank.stats().model_dump(),
            problems=covers(bank),
            pairs_in_use=pairs,
            pairs_never_retrieved=pairs - db.value(in_use + tried),
            utility=_distribution(bank),
            flags=_counts(bank, rules),
            rollouts=_counts(bank, "SELECT fate, count(DISTINCT rollout_id) FROM rollouts GROUP BY fate ORDER BY fate"),
            rejected=_counts(bank, reasons),
        )


def covers(bank: Bank) -> dict[Cover, int]:
    """How many problems are covered how."""
    counts = _counts(bank, f"{_COVER} SELECT cover, count(*) FROM covered GROUP BY cover")
    return {cover: counts.get(cover, 0) for cover in COVERS}


def problems(bank: Bank, cover: Cover | None = None, *, limit: int | None = None, offset: int = 0) -> list[Problem]:
    """The problems of a bank (or those covered so), by id."""
    where = "" if cover is None else "WHERE cover = ?"
    sql = f"{_COVER} SELECT * FROM covered {where} ORDER BY problem_id LIMIT ? OFFSET ?"
    given = [] if cover is None else [cover]
    rows = bank.db.rows(sql, (*given, -1 if limit is None else limit, offset))
    return [Problem(**dict(row)) for row in rows]


def _counts(bank: Bank, sql: str) -> dict[str, int]:
    return {row[0]: row[1] for row in bank.db.rows(sql)}


def _distribution(bank: Bank) -> tuple[Bin, ...]:
    width = 2 / BINS
    sql = (
        f"SELECT min(CAST((used.utility + 1) / {width} AS INTEGER), {BINS - 1}) AS bin, e.kind, count(*) AS entries"
        " FROM entry_usage used JOIN entries e ON e.id = used.id GROUP BY 1, 2 ORDER BY 1, 2"
    )
    counts: dict[int, dict[Kind, int]] = {number: {} for number in range(BINS)}
    for row in bank.db.rows(sql):
        counts[row["bin"]][row["kind"]] = row["entries"]
    return tuple(
        Bin(low=round(n * width - 1, 2), high=round((n + 1) * width - 1, 2), entries=found)
        for n, found in counts.items()
    )
