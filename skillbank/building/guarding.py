"""The guard over what a build brings in: inside the build's own change, so that nobody ever sees an entry unguarded.

It looks when all entries are there, with all that they quote: what it finds does not depend on their order, and a later
scan of the bank finds the same. Of what rests on very many places it sees the first of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from skillbank.guard import Guard
from skillbank.guard.context import Context
from skillbank.guard.guard import LANGUAGE_ENTRIES, LANGUAGE_SAMPLE, bank_language
from skillbank.guard.language import majority_language
from skillbank.guard.surroundings import Surroundings
from skillbank.records import Evidence, Mistake, Skill
from skillbank.store import Bank
from skillbank.store.places import to_evidence

AT_ONCE = 1000
"""Entries looked at between two reads of the bank."""
PLACES = 512
"""Of one entry."""


def guard_of(bank: Bank, texts: Iterable[str]) -> Guard:
    """The guard of a bank. One that is too young to have a language takes that of `texts`, which are to come in."""
    sample = list(islice(texts, LANGUAGE_SAMPLE))
    spoken = bank_language(bank) or (majority_language(sample) if len(sample) >= LANGUAGE_ENTRIES else None)
    return Guard(bank, language=spoken)


def contexts(guard: Guard, bank: Bank, ids: Sequence[int]) -> Iterator[tuple[int, Context]]:
    """(id, what the guard's rules may look at) of skills and mistakes."""
    around = Surroundings(bank)
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        evidence = _evidence(bank, some)
        around.prepare(evidence.values())
        for entry_id, content in _contents(bank, some):
            yield entry_id, guard.context(content, evidence[entry_id], around)


def _contents(bank: Bank, ids: Sequence[int]) -> list[tuple[int, Skill | Mistake]]:
    rows = bank.db.rows(
        "SELECT id, kind, content FROM entries WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps(ids),),
    )
    kinds: dict[str, type[Skill] | type[Mistake]] = {"skill": Skill, "mistake": Mistake}
    return [(row["id"], kinds[row["kind"]].model_validate_json(row["content"])) for row in rows]


def _evidence(bank: Bank, ids: Sequence[int]) -> dict[int, list[Evidence]]:
    rows = bank.db.stream(
        "SELECT * FROM evidence WHERE active AND entry_id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps(ids),),
    )
    evidence: dict[int, list[Evidence]] = {entry_id: [] for entry_id in ids}
    for row in rows:
        known = evidence[row["entry_id"]]
        if len(known) < PLACES:
            known.append(to_evidence(row))
    return evidence
