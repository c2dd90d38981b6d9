"""All that a bank knows about one entry, put together for whoever looks at it: command line and web page.

The words around a quoted span come from the rollout's completion, which the bank keeps where an entry rests on it;
without it the quote stands alone. Nothing here changes a bank.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence

from skillbank.records import Entry, Evidence, Pair, Record, RolloutFate
from skillbank.store import Bank
from skillbank.store.events import Event
from skillbank.store.probes import Probe, probes, words_of
from skillbank.store.query import Query
from skillbank.store.usage import Usage

CONTEXT = 160
"""Characters of a completion shown before and after a quoted span."""


class Place(Evidence):
    """A place on which an entry rests, with the words around it."""

    before: str = ""
    after: str = ""
    """Both empty where the bank has not kept the completion, or the quote is not in it."""


class EntryView(Record):
    """An entry, and everything that hangs on it."""

    entry: Entry
    sides: tuple[Entry, ...]
    """Of a pair: its skill and its mistake."""
    pairs: tuple[Entry, ...]
    """Of a skill or a mistake: the pairs that it is part of."""
    stands_for: tuple[Entry, ...]
    """What was merged into it, directly or through others."""
    retrieved: bool
    """Whether retrieval may return it; of a pair, whether it is active and both of its sides may be returned."""
    evidence: tuple[Place, ...]
    problems: dict[str, str]
    """Text of the problems that the places are in, where the bank has it."""
    usage: Usage
    utility: float | None
    """In [-1, 1]; None when training never used it."""
    probes: tuple[Probe, ...]
    """Newest first."""
    words: str
    """What `Probe.words` is of the words of today."""
    history: tuple[Event, ...]


class RolloutView(Record):
    """What became of a rollout, for each miner that read it, and what rests on it."""

    fates: tuple[RolloutFate, ...]
    problem: str | None
    entries: tuple[Entry, ...]


def view_entry(bank: Bank, entry_id: int) -> EntryView:
    """Raises EntryNotFound."""
    with bank.db.snapshot():
        entry = bank.get(entry_id)
        content = entry.content
        sides = [bank.get(content.skill_id), bank.get(content.mistake_id)] if isinstance(content, Pair) else []
        places = with_context(bank, bank.evidence(entry_id))
        usage = bank.usage(entry_id)
        return EntryView(
            entry=entry,
            sides=tuple(sides),
            pairs=() if sides else tuple(bank.pairs_with(entry_id)),
            stands_for=tuple(bank.merged_into(entry_id)),
            retrieved=_retrieved(bank, entry, sides),
            evidence=tuple(places),
            problems=_problems(bank, {place.problem_id for place in places}),
            usage=usage,
            utility=usage.utility,
            probes=tuple(probes(bank, entry_id)),
            words=words_of(bank, entry_id),
            history=tuple(bank.history(entry_id)),
        )


def view_rollout(bank: Bank, rollout_id: str) -> RolloutView | None:
    """None for a rollout that no miner read and nothing rests on."""
    with bank.db.snapshot():
        fates = bank.rollout(rollout_id)
        entries = bank.entries(Query(rollout=rollout_id))
        if not fates and not entries:
            return None
        problem = bank.problem(fates[0].problem_id) if fates else None
        return RolloutView(
            fates=tuple(fates), problem=None if problem is None else problem.problem, entries=tuple(entries)
        )


def with_context(bank: Bank, evidence: Sequence[Evidence]) -> list[Place]:
    """The places, each with the words around it."""
    texts = _completions(bank, {place.rollout_id for place in evidence})
    return [_placed(place, texts.get(place.rollout_id)) for place in evidence]


def _placed(evidence: Evidence, completion: str | None) -> Place:
    values = {name: getattr(evidence, name) for name in Evidence.model_fields}
    if completion is None:
        return Place(**values)
    start, end = evidence.span or (0, 0)
    if completion[start:end] != evidence.quote:  # quotes are found by their words where offsets are not given
        start = completion.find(evidence.quote)
        end = start + len(evidence.quote)
    if start < 0:
        return Place(**values)
    return Place(**values, before=completion[max(0, start - CONTEXT) : start], after=completion[end : end + CONTEXT])


def _completions(bank: Bank, rollout_ids: Iterable[str]) -> dict[str, str]:
    named = json.dumps(sorted(rollout_ids))
    sql = (
        "SELECT rollout_id, completion FROM rollouts"
        " WHERE completion IS NOT NULL AND rollout_id IN (SELECT value FROM json_each(?))"
    )
    return {row[0]: zlib.decompress(row[1]).decode() for row in bank.db.stream(sql, (named,))}


def _problems(bank: Bank, problem_ids: Iterable[str]) -> dict[str, str]:
    named = json.dumps(sorted(problem_ids))
    sql = "SELECT problem_id, problem FROM problems WHERE problem_id IN (SELECT value FROM json_each(?))"
    return {row[0]: row[1] for row in bank.db.rows(sql, (named,))}


def _retrieved(bank: Bank, entry: Entry, sides: Sequence[Entry]) -> bool:
    if entry.kind != "pair":
        return bool(bank.retrievable(entry.kind, ids=[entry.id]))
    return entry.status == "active" and all(_retrieved(bank, side, ()) for side in sides)


def utilities(bank: Bank, ids: Iterable[int]) -> dict[int, float]:
    """Utility of those among the entries that training has used."""
    return {row[0]: row[1] for row in bank.db.rows(_UTILITIES, (json.dumps(list(ids)),))}


_ITSELF_AND_MERGED = "({0}.id = w.{1} AND {0}.head IS NULL OR {0}.head = w.{1})"
_UTILITIES = f"""
    WITH w AS MATERIALIZED (
        SELECT id, kind, iif(kind = 'skill', id, skill_id) AS skill, iif(kind = 'mistake', id, mistake_id) AS mistake
        FROM entries WHERE id IN (SELECT value FROM json_each(?))
    ),
    uses AS (
        SELECT w.id, t.helpful, t.harmful, t.neutral FROM w CROSS JOIN entries s CROSS JOIN usage_totals t
            WHERE w.kind = 'skill' AND {_ITSELF_AND_MERGED.format("s", "skill")} AND t.skill_id = s.id
        UNION ALL SELECT w.id, t.helpful, t.harmful, t.neutral FROM w CROSS JOIN entries m CROSS JOIN usage_totals t
            WHERE w.kind = 'mistake' AND {_ITSELF_AND_MERGED.format("m", "mistake")} AND t.mistake_id = m.id
        UNION ALL SELECT w.id, t.helpful, t.harmful, t.neutral
            FROM w CROSS JOIN entries s CROSS JOIN entries m CROSS JOIN usage_totals t
            WHERE w.kind = 'pair' AND {_ITSELF_AND_MERGED.format("s", "skill")}
            AND {_ITSELF_AND_MERGED.format("m", "mistake")} AND t.skill_id = s.id AND t.mistake_id = m.id
    )
    SELECT id, (sum(helpful) - sum(harmful)) * 1.0 / sum(helpful + harmful + neutral) FROM uses GROUP BY id"""
"""What the view `entry_usage` says of a few entries, without going through all that were ever used."""
