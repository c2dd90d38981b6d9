"""What was mined, on its way into a bank: on disk, each wording once, with all the places on which it rests.

A lesson that a hundred thousand rollouts teach is one wording here and a hundred thousand rows. `merging.py` says which
wordings are one; what comes out then depends neither on the order in which pairs came in nor on that within their
evidence.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import cast

from skillbank.mine.merge import all_fields, plain
from skillbank.records import Evidence, MinedEntry, MinedPair, Mistake, Outcome, Provenance, Record, Skill

PLACES_AT_ONCE = 512
"""Of one side of a pair; a pair that rests on more comes in several parts."""

SKILL, MISTAKE = 0, 1

SCHEMA = """
CREATE TABLE wordings (
    id INTEGER PRIMARY KEY,
    side INTEGER NOT NULL,
    origin TEXT NOT NULL,
    one TEXT NOT NULL, two TEXT NOT NULL, three TEXT NOT NULL,      -- the fields of the Skill or Mistake
    text TEXT NOT NULL,
    plain TEXT NOT NULL,                            -- equal for what is the same but for case, spaces, closing marks
    weight INTEGER,                                 -- distinct places
    stands INTEGER,                                 -- the wording that stands for it
    UNIQUE (side, origin, one, two, three)
);
CREATE TABLE findings (                             -- a pair of one problem; or a skill or a mistake alone
    id INTEGER PRIMARY KEY,
    skill INTEGER,
    mistake INTEGER,
    right_rule INTEGER,
    wrong_rule INTEGER,
    provenance TEXT,
    attempts INTEGER NOT NULL,
    merged INTEGER
);
CREATE TABLE places (
    finding INTEGER NOT NULL,
    wording INTEGER NOT NULL,
    digest INTEGER NOT NULL,                        -- equal places have equal ones
    rollout_id TEXT NOT NULL, problem_id TEXT NOT NULL, outcome TEXT NOT NULL, source TEXT NOT NULL,
    quote TEXT NOT NULL, start INTEGER, stop INTEGER
);
CREATE TABLE finders (finding INTEGER NOT NULL, rollout_id TEXT NOT NULL);
CREATE TABLE statements (rule INTEGER NOT NULL, right INTEGER NOT NULL, stated INTEGER NOT NULL);
CREATE TABLE groups (                               -- wordings that are plainly the same
    best INTEGER PRIMARY KEY,                       -- the best-evidenced of them
    side INTEGER NOT NULL,
    origin TEXT NOT NULL,
    bucket BLOB NOT NULL,                           -- equal for those that may merge
    weight INTEGER NOT NULL,
    plain TEXT NOT NULL,
    leader INTEGER NOT NULL
);
CREATE TABLE merged (
    id INTEGER PRIMARY KEY,                         -- in the order of the bank
    skill INTEGER,
    mistake INTEGER,
    origin TEXT NOT NULL
);
"""


class Example(Record):
    """A pair as the report shows it."""

    skill: Skill
    mistake: Mistake
    places: int
    """On which it rests."""


class Harvest:
    """The findings of one build."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.db = connection
        self.db.executescript(SCHEMA)
        self.db.execute("BEGIN")
        self._added = 0

    # Filling it

    def add(
        self,
        found: MinedPair | MinedEntry,
        *,
        attempts: Sequence[str] = (),
        rules: tuple[int, int] | None = None,
    ) -> None:
        """Keeps a finding. `attempts`: the wrong attempts that gave it, `rules`: the numbers of its two rules."""
        self._added += 1
        finding = self._added
        pair = found if isinstance(found, MinedPair) else None
        sides: list[tuple[Skill | Mistake, Sequence[Evidence]]]
        if pair is not None:
            sides = [(pair.skill, pair.skill_evidence), (pair.mistake, pair.mistake_evidence)]
        else:
            assert isinstance(found, MinedEntry)
            sides = [(found.content, found.evidence)]
        known: dict[int, int] = {}
        for content, evidence in sides:
            side = SKILL if isinstance(content, Skill) else MISTAKE
            known[side] = self._wording(side, found.origin, content)
            self.db.executemany(
                "INSERT INTO places VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_place(finding, known[side], place) for place in evidence],
            )
        right_rule, wrong_rule = rules or (None, None)
        provenance = None if found.provenance is None else found.provenance.model_dump_json(exclude_none=True)
        self.db.execute(
            "INSERT INTO findings VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
            (finding, known.get(SKILL), known.get(MISTAKE), right_rule, wrong_rule, provenance, len(attempts)),
        )
        if rules is not None:
            self.db.executemany("INSERT INTO finders VALUES (?, ?)", [(finding, attempt) for attempt in attempts])

    def state(self, statements: Iterable[tuple[int, tuple[int, int]]]) -> None:
        """(rule number, (right attempts that state it, attempts that state it)) in one problem."""
        self.db.executemany("INSERT INTO statements VALUES (?, ?, ?)", ((rule, *of) for rule, of in statements))

    def _wording(self, side: int, origin: str, content: Skill | Mistake) -> int:
        fields = all_fields(content)
        inserted = self.db.execute(
            "INSERT INTO wordings (side, origin, one, two, three, text, plain) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (side, origin, *fields, content.text(), "\0".join(plain(content))),
        )
        if inserted.rowcount:
            return int(inserted.lastrowid or 0)
        known = self.db.execute(
            "SELECT id FROM wordings WHERE side = ? AND origin = ? AND one = ? AND two = ? AND three = ?",
            (side, origin, *fields),
        )
        return int(known.fetchone()[0])

    # Taking it out, after merging

    def count(self) -> int:
        """Findings that were not dropped."""
        return int(self.db.execute("SELECT count(*) FROM findings").fetchone()[0])

    def bearing(self) -> str:
        """Makes the table of the rollouts on which something rests, and returns its name."""
        self.db.executescript(
            "CREATE TEMP TABLE bearing (rollout_id TEXT PRIMARY KEY) WITHOUT ROWID;"
            "INSERT INTO bearing SELECT DISTINCT rollout_id FROM places; BEGIN"
        )
        return "bearing"

    def texts(self) -> Iterator[str]:
        """Both texts of every finding, repeated as often as they were found."""
        for side in ("skill", "mistake"):
            for (text,) in self.db.execute(f"SELECT text FROM findings f JOIN wordings w ON w.id = f.{side}"):
                yield text

    def results(self) -> Iterator[MinedPair | MinedEntry]:
        """The merged pairs, and the skills and mistakes alone, ordered by their texts.

        What rests on very many places comes in parts, one after the other, the same words with some of the places each.
        Where findings of several writers merged, the first of their provenances stands for all.
        """
        rows = self.db.execute(
            "SELECT m.id, m.origin, (SELECT min(provenance) FROM findings f WHERE f.merged = m.id),"
            " s.one, s.two, s.three, w.one, w.two, w.three FROM merged m"
            " LEFT JOIN wordings s ON s.id = m.skill LEFT JOIN wordings w ON w.id = m.mistake ORDER BY m.id"
        )
        for merged, origin, provenance, *fields in rows:
            about = {"origin": origin, "provenance": _provenance(provenance)}
            skill = None if fields[0] is None else to_content(SKILL, fields[:3])
            mistake = None if fields[3] is None else to_content(MISTAKE, fields[3:])
            places = [self._places(merged, side) for side in ("skill", "mistake")]
            first = True
            while True:
                of_skill, of_mistake = map(_part, places)
                if not (first or of_skill or of_mistake):
                    break
                first = False
                if isinstance(skill, Skill) and isinstance(mistake, Mistake):
                    yield MinedPair(
                        skill=skill, mistake=mistake, skill_evidence=of_skill, mistake_evidence=of_mistake, **about
                    )
                else:
                    alone = mistake if skill is None else skill
                    assert alone is not None
                    yield MinedEntry(content=alone, evidence=of_skill + of_mistake, **about)

    def examples(self, count: int) -> tuple[Example, ...]:
        """The best-evidenced pairs, of different skills."""
        rows = self.db.execute(
            "SELECT skill, mistake, places FROM merged m JOIN"
            " (SELECT merged, count(*) AS places FROM"
            "  (SELECT DISTINCT f.merged, p.wording = f.skill, digest FROM findings f JOIN places p ON finding = f.id)"
            "  GROUP BY merged) c ON c.merged = m.id"
            " WHERE skill IS NOT NULL AND mistake IS NOT NULL ORDER BY places DESC, id"
        )
        best: dict[str, Example] = {}
        for skill, mistake, places in rows:
            example = Example(
                skill=cast(Skill, self._content(skill)), mistake=cast(Mistake, self._content(mistake)), places=places
            )
            best.setdefault(example.skill.title, example)
            if len(best) == count:
                break
        return tuple(best.values())

    def _content(self, wording: int) -> Skill | Mistake:
        side, *fields = self.db.execute(
            "SELECT side, one, two, three FROM wordings WHERE id = ?", (wording,)
        ).fetchone()
        return to_content(side, fields)

    def _places(self, merged: int, side: str) -> sqlite3.Cursor:
        return self.db.execute(
            "SELECT rollout_id, problem_id, outcome, source, quote, start, stop FROM findings f"
            f" JOIN places p ON p.finding = f.id AND p.wording = f.{side} WHERE f.merged = ? GROUP BY digest"
            " ORDER BY problem_id, rollout_id, coalesce(start, -1), coalesce(stop, -1), quote",
            (merged,),
        )


@lru_cache(maxsize=64)
def _provenance(text: str | None) -> Provenance | None:
    return None if text is None else Provenance.model_validate_json(text)


def _part(rows: sqlite3.Cursor) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(
            rollout_id=rollout_id,
            problem_id=problem_id,
            outcome=cast(Outcome, outcome),
            quote=quote,
            span=None if start is None else (start, stop),
            source=source,
        )
        for rollout_id, problem_id, outcome, source, quote, start, stop in rows.fetchmany(PLACES_AT_ONCE)
    )


def _place(finding: int, wording: int, place: Evidence) -> tuple[int | str | None, ...]:
    start, stop = place.span or (None, None)
    fields = (place.rollout_id, place.problem_id, place.outcome, place.source, place.quote, start, stop)
    return (finding, wording, _number("\0".join(map(str, fields))), *fields)


def _number(text: str) -> int:
    """A hash that fits SQLite's integers."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def to_content(side: int, fields: Sequence[str]) -> Skill | Mistake:
    one, two, three = fields
    if side == SKILL:
        return Skill(title=one, principle=two, when_to_apply=three)
    return Mistake(description=one, why_it_happens=two, how_to_avoid=three)
