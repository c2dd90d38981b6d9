"""What a bank knows of the problems and rollouts that an entry rests on, for one entry at a time or many at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from skillbank.guard.context import Source
from skillbank.records import Evidence
from skillbank.store.places import to_evidence

if TYPE_CHECKING:
    from skillbank.store import Bank

MAX_QUOTES = 200
"""Of a problem's attempts, looked at to tell an example from a lesson written for one problem."""
KEPT = 50_000
"""Problems kept between checks."""
_AMONG = "IN (SELECT value FROM json_each(?))"


class Surroundings:
    """Looks up problems, answers, quotes and guided rollouts. Without a bank it knows nothing."""

    def __init__(self, bank: Bank | None) -> None:
        self._bank = bank
        self._sources: dict[str, Source] = {}
        self._stated: dict[str, Source] = {}
        self._guided: dict[str, bool] = {}

    def source(self, problem_id: str) -> Source:
        """A problem with its answers, and what entries quote from attempts at it."""
        if problem_id in self._sources:
            return self._sources[problem_id]
        stated = self._stated.get(problem_id)
        if stated is None:
            stated = self._look_up([problem_id])[problem_id]
            if stated.problem is not None:  # one that is not in the bank yet may come later
                if len(self._stated) >= KEPT:
                    self._stated.clear()
                self._stated[problem_id] = stated
        return self._quoted({problem_id: stated})[problem_id]

    def guided(self, evidence: Sequence[Evidence]) -> frozenset[str]:
        """Those of the rollouts whose prompt contained skills."""
        rollouts = {place.rollout_id for place in evidence}
        unknown = {rollout for rollout in rollouts if rollout not in self._guided}  # not `-`, which reads every key
        known = self._look_up_guided(unknown) if unknown else {}
        return frozenset(rollout for rollout in rollouts if (known if rollout in known else self._guided)[rollout])

    def prepare(self, evidence: Iterable[Sequence[Evidence]]) -> None:
        """Looks everything up that these entries rest on, and forgets what it knew. For a bank that nobody changes
        meanwhile; entries that are being added are looked up one at a time, as they bring their evidence along."""
        places = [place for group in evidence for place in group]
        self._sources = self._quoted(self._look_up(sorted({place.problem_id for place in places})))
        self._guided = self._look_up_guided({place.rollout_id for place in places})

    def _look_up(self, problem_ids: Sequence[str]) -> dict[str, Source]:
        found = {problem_id: Source(problem_id) for problem_id in problem_ids}
        if self._bank is None or not problem_ids:
            return found
        db, named = self._bank.db, json.dumps(problem_ids)
        for row in db.rows(f"SELECT problem_id, problem, reference FROM problems WHERE problem_id {_AMONG}", (named,)):
            answers = () if row["reference"] is None else (row["reference"],)
            found[row["problem_id"]] = Source(row["problem_id"], row["problem"], answers)
        right = f"outcome = 'correct' AND answer IS NOT NULL AND problem_id {_AMONG}"
        without = json.dumps([problem_id for problem_id, source in found.items() if not source.answers])
        for row in db.rows(f"SELECT DISTINCT problem_id, answer FROM rollouts WHERE {right} ORDER BY 1, 2", (without,)):
            source = found[row["problem_id"]]
            found[row["problem_id"]] = source._replace(answers=(*source.answers, row["answer"]))
        return found

    def _quoted(self, sources: dict[str, Source]) -> dict[str, Source]:
        """With what entries quote from attempts at them, which grows while entries are added."""
        if self._bank is None or not sources:
            return sources
        sql = f"SELECT DISTINCT problem_id, quote FROM evidence WHERE active AND problem_id {_AMONG} ORDER BY 1, 2"
        quotes: dict[str, list[str]] = {}
        for row in self._bank.db.rows(sql, (json.dumps(list(sources)),)):
            quotes.setdefault(row["problem_id"], []).append(row["quote"])
        return {i: source._replace(quotes=tuple(quotes.get(i, ())[:MAX_QUOTES])) for i, source in sources.items()}

    def _look_up_guided(self, rollout_ids: Iterable[str]) -> dict[str, bool]:
        found = dict.fromkeys(rollout_ids, False)
        if self._bank is not None and found:
            sql = f"SELECT DISTINCT rollout_id FROM rollouts WHERE guided AND rollout_id {_AMONG}"
            found |= {row[0]: True for row in self._bank.db.rows(sql, (json.dumps(sorted(found)),))}
        return found


def evidence_of(bank: Bank, ids: Sequence[int]) -> dict[int, list[Evidence]]:
    """What entries rest on, that of all that was merged into them included; each place once."""
    named = json.dumps(list(ids))
    own = f"SELECT x.*, x.entry_id AS rests FROM evidence x WHERE x.active AND x.entry_id {_AMONG}"
    merged = (
        "SELECT x.*, e.head AS rests FROM evidence x JOIN entries e ON e.id = x.entry_id"
        f" WHERE x.active AND e.head {_AMONG}"
    )
    found: dict[int, dict[tuple[str, bytes], Evidence]] = {entry_id: {} for entry_id in ids}
    for row in bank.db.rows(f"{own} UNION ALL {merged} ORDER BY id", (named, named)):
        found[row["rests"]].setdefault((row["rollout_id"], row["digest"]), to_evidence(row))
    return {entry_id: list(places.values()) for entry_id, places in found.items()}
