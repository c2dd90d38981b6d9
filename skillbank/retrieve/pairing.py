"""Which skill goes with which mistake: the K teachers of a problem out of two ranked lists.

rank    The paper's: the first skill with the first mistake, the second with the second. A skill and a mistake that are
        joined by a pair entry which is not active are not put together: the skill takes the next mistake.
mined   Only active pair entries, by the mean of their two cosines, each skill and each mistake once.
match   Each skill with the mistake nearest to the skill itself, each mistake once.

The lists may end before the choice is certain. Then the answer is None and the caller looks deeper: what a problem gets
must not depend on how deep a batch was searched. Searching itself is `candidates.py`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from skillbank.store import Bank
from skillbank.store.query import json_list


@dataclass(frozen=True, slots=True)
class Found:
    """An entry that was found for a problem."""

    id: int
    cosine: float


@dataclass(frozen=True, slots=True)
class Joined:
    """A found skill and a found mistake, and the pair entry that joins them if there is one."""

    skill: Found
    mistake: Found
    pair_id: int | None

    @property
    def score(self) -> float:
        return (self.skill.cosine + self.mistake.cosine) / 2


@dataclass(frozen=True)
class Ranked:
    """Entries of a kind for one problem, best first; `all_seen` when no other may be used."""

    found: Sequence[Found]
    all_seen: bool


PairEntries = Mapping[tuple[int, int], tuple[int, bool]]
"""(pair id, whether it is active) by (skill id, mistake id); where two entries join the same two, an active one."""


def pairs_among(bank: Bank, skill_ids: Iterable[int], mistake_ids: Iterable[int]) -> PairEntries:
    """The pair entries that join one of the skills and one of the mistakes."""
    rows = bank.db.rows(
        "SELECT p.skill_id, p.mistake_id, p.id, p.status = 'active' FROM json_each(?) s"
        " CROSS JOIN entries p ON p.kind = 'pair' AND p.skill_id = s.value"
        " WHERE NOT p.withdrawn AND p.mistake_id IN (SELECT value FROM json_each(?))"
        " ORDER BY p.status = 'active', p.id DESC",  # the last of two stays
        (json_list(skill_ids), json_list(mistake_ids)),
    )
    return {(row[0], row[1]): (row[2], bool(row[3])) for row in rows}


def by_rank(skills: Ranked, mistakes: Ranked, known: PairEntries, k: int) -> list[Joined] | None:
    """K pairs by rank, or fewer when a list has no more."""
    joined: list[Joined] = []
    rest = list(mistakes.found)
    for skill in skills.found:
        if len(joined) == k or (not rest and mistakes.all_seen):
            return joined
        for place, mistake in enumerate(rest):
            pair_id, usable = known.get((skill.id, mistake.id), (None, True))
            if usable:
                joined.append(Joined(skill, mistake, pair_id))
                del rest[place]
                break
        else:
            if not mistakes.all_seen:
                return None
    return joined if skills.all_seen or len(joined) == k else None


def best_pairs(pairs: Iterable[Joined], k: int) -> list[Joined]:
    """K of the pairs by score, each skill and each mistake once."""
    chosen: list[Joined] = []
    skills: set[int] = set()
    mistakes: set[int] = set()
    for pair in sorted(pairs, key=lambda pair: (-pair.score, pair.pair_id or 0)):
        if len(chosen) == k:
            break
        if pair.skill.id not in skills and pair.mistake.id not in mistakes:
            chosen.append(pair)
            skills.add(pair.skill.id)
            mistakes.add(pair.mistake.id)
    return chosen


def partners(bank: Bank, found: Mapping[str, Iterable[int]]) -> dict[int, list[tuple[int, int, int]]]:
    """(pair id, skill id, mistake id) of the active pair entries of each of these skills and mistakes, by entry id."""
    of: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for column, ids in found.items():
        rows = bank.db.rows(
            f"SELECT p.{column}, p.id, p.skill_id, p.mistake_id FROM json_each(?) s"
            f" CROSS JOIN entries p ON p.kind = 'pair' AND p.{column} = s.value WHERE p.status = 'active'",
            (json_list(ids),),
        )
        for row in rows:
            of[row[0]].append((row[1], row[2], row[3]))
    return of
