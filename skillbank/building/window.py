"""A window of training into the bank: fresh rollouts, mined together with what is known of the same and near problems.

    with bank.change(actor="train", reason="step 25") as change:
        stored = store_window(bank, change, mine_window(bank, rollouts, ...), max_new=5)

Mining may take long and holds no lock; storing is part of the caller's own change, so that what else it does to the
bank is the same revision. Left out: reading files, a new bank (`bank_build.py`), and what training measured of entries.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from skillbank.building.guarding import contexts, guard_of
from skillbank.building.harvest import Harvest
from skillbank.building.merging import merge
from skillbank.building.miners import Contrasting, Extracting, Groups, Miner
from skillbank.building.report import Tally
from skillbank.building.spool import Spool, scratch
from skillbank.curate.runs import ONLINE
from skillbank.dedupe.contradict import contradiction
from skillbank.guard.rules import flags_of
from skillbank.mine.contrast import MinedProblem
from skillbank.mine.merge import key_words
from skillbank.mine.model.complete import Complete
from skillbank.mine.model.extract import ExtractSettings, ModelMiner
from skillbank.mine.model.ledger import Ledger
from skillbank.mine.near import mine_near
from skillbank.records import (
    Evidence,
    Kind,
    MinedEntry,
    MinedPair,
    Mistake,
    Pair,
    ProblemText,
    Record,
    Rollout,
    RolloutFate,
    Skill,
    content_hash,
)
from skillbank.store import Bank, Change
from skillbank.store.mined import add_mined
from skillbank.store.query import SIDES

if TYPE_CHECKING:
    import numpy as np

    from skillbank.index import VectorIndex
    from skillbank.index.embed import Embedder

STOOD_IN = 8
"""Problems whose right attempts stand in for those that a problem lacks."""
PLACES_OF_AN_ENTRY = 8
"""Stored rollouts that are heard for each entry that the window's problems retrieve."""
BEYOND = "problems beyond those shown to the writer"


class WindowSettings(Record):
    """How a window is mined."""

    run: str
    """Stands in the bank as the file that the window's rollouts came from."""
    near_cosine: float = 0.9
    """Problems at least so near hear one another's attempts."""
    merge_cosine: float = 0.95
    max_problems: int = 64
    """Shown to a writing model; those with both outcomes first, then those that failed."""


class MinedWindow(Record):
    """What was found, the best-evidenced first."""

    found: tuple[MinedPair | MinedEntry, ...]
    fates: tuple[RolloutFate, ...]
    """Of the window's rollouts, and of earlier ones on which something rests now."""
    problems: tuple[ProblemText, ...]
    contrasted: int
    """Problems for which there was a right and a wrong attempt, of their own or of near ones."""
    notices: dict[str, int]


class StoredWindow(Record):
    """What became of the findings."""

    added: dict[Kind, tuple[int, ...]]
    """Ids of new entries; of those that the guard holds back too."""
    known: int
    """Findings in words that the bank has or had: they gave evidence and nothing new."""
    left_out: int
    """Findings that would have brought more than `max_new` entries of a kind."""
    quarantined: int
    """Of `added`."""


# -------------------------------------------------------------------------------------------------------------- mining


def mine_window(
    bank: Bank,
    window: Sequence[Rollout],
    settings: WindowSettings,
    *,
    earlier: Sequence[Rollout] = (),
    entries: Sequence[int] = (),
    embedder: Embedder | None = None,
    index: VectorIndex | None = None,
    complete: Complete | None = None,
    extract: ExtractSettings | None = None,
) -> MinedWindow:
    """Mines the rollouts of a window, by contrast or, with `complete`, by a language model.

    They are joined by `earlier` ones of the same run and by those that the bank keeps: of the same problems, and those
    on which `entries` rest. Without an embedder no two problems are near; without an index nothing is held against the
    entries of the bank but the very words. Raises what `ModelMiner.mine` raises.
    """
    own = {rollout.rollout_id: rollout for rollout in (*earlier, *window)}
    fresh = {rollout.rollout_id for rollout in window}
    stored = stored_rollouts(bank, {rollout.problem_id for rollout in window}, entries, but_from=settings.run)
    notices: Counter[str] = Counter()
    with closing(scratch(":memory:")) as connection:
        spool, harvest, tally = Spool(connection), Harvest(connection), Tally()
        for rollout in (*own.values(), *stored):
            spool.take(rollout, settings.run)
        if complete is None:
            miner: Miner = Contrasting(lambda groups: _by_contrast(groups, fresh, embedder, settings.near_cosine))
        else:
            writer = ModelMiner(complete, extract or ExtractSettings(), Ledger(bank.db))
            miner = Extracting(lambda groups: writer.mine(_shown(groups, fresh, settings.max_problems, notices)))
        miner.mine(spool, harvest, tally, lambda done: None)
        spool.settle(harvest.bearing())
        encode = None if embedder is None else embedder.encode_documents
        merge(harvest, encode, settings.merge_cosine, miner.merge_by)
        found = _whole(list(harvest.results()))
        if embedder is not None and index is not None:
            found = [_as_known(item, bank, embedder, index, settings.merge_cosine, miner.merge_by) for item in found]
        fates = [fate for fate in spool.fates(miner.name) if fate.rollout_id in own]
        told = [fate for fate in fates if fate.rollout_id in fresh or fate.fate == "accepted"]
        problems = {fate.problem_id for fate in told}
        return MinedWindow(
            found=tuple(sorted(found, key=lambda item: -_strength(item))),
            fates=tuple(told),
            problems=tuple(problem for problem in spool.problems() if problem.problem_id in problems),
            contrasted=tally.problems_with_both,
            notices=dict(tally.notices + notices),
        )


def stored_rollouts(bank: Bank, problem_ids: set[str], entries: Sequence[int], *, but_from: str) -> list[Rollout]:
    """The rollouts whose text the bank keeps: of these problems, and those on which these entries rest. Those that came
    from `but_from` are left out: of its own rollouts a run knows itself which it has made."""
    resting = (
        "SELECT rollout_id FROM"
        " (SELECT rollout_id, row_number() OVER (PARTITION BY entry_id ORDER BY id) AS place"
        "  FROM evidence WHERE active AND entry_id IN (SELECT value FROM json_each(?)))"
        f" WHERE place <= {PLACES_OF_AN_ENTRY}"
    )
    rows = bank.db.rows(
        "SELECT r.rollout_id, r.miner, p.problem, p.reference FROM rollouts r JOIN problems p USING (problem_id)"
        " WHERE r.completion IS NOT NULL AND r.file <> ?"
        f" AND (r.problem_id IN (SELECT value FROM json_each(?)) OR r.rollout_id IN ({resting}))"
        " ORDER BY r.rollout_id, r.miner",
        (but_from, json.dumps(sorted(problem_ids)), json.dumps(list(entries))),
    )
    kept: dict[str, Rollout] = {}
    for row in rows:
        if row["rollout_id"] not in kept:
            fate = next(fate for fate in bank.rollout(row["rollout_id"]) if fate.miner == row["miner"])
            assert fate.completion is not None  # the query asks for it
            kept[fate.rollout_id] = Rollout(
                rollout_id=fate.rollout_id,
                problem_id=fate.problem_id,
                problem=row["problem"],
                completion=fate.completion,
                outcome=fate.outcome,
                answer=fate.answer,
                reference=row["reference"],
                model=fate.model,
                source=fate.source,
                guided=fate.guided,
            )
    return list(kept.values())


def _by_contrast(
    groups: Groups, fresh: set[str], embedder: Embedder | None, near_cosine: float
) -> Iterator[MinedProblem]:
    by_problem = {group[0].problem_id: group for group in groups}
    near = {} if embedder is None else _near(by_problem, embedder, near_cosine)
    return mine_near(by_problem, near, fresh)


def _near(groups: Mapping[str, Sequence[Rollout]], embedder: Embedder, near_cosine: float) -> dict[str, list[str]]:
    """For each problem without a right attempt: the problems with one that are near it, the nearest first."""
    import numpy as np

    outcomes = {problem_id: {rollout.outcome for rollout in group} for problem_id, group in groups.items()}
    having = [problem_id for problem_id, seen in outcomes.items() if "correct" in seen]
    lacking = [problem_id for problem_id, seen in outcomes.items() if "correct" not in seen and "wrong" in seen]
    if not having or not lacking:
        return {}
    vectors_ND = embedder.encode_queries([groups[problem_id][0].problem for problem_id in (*having, *lacking)])
    having_HD, lacking_LD = vectors_ND[: len(having)], vectors_ND[len(having) :]
    near: dict[str, list[str]] = {}
    for problem_id, vector_D in zip(lacking, lacking_LD, strict=True):
        cosines_H: np.ndarray[tuple[int], np.dtype[np.float32]] = having_HD @ vector_D
        best = np.argsort(-cosines_H, kind="stable")[:STOOD_IN]
        near[problem_id] = [having[i] for i in best if cosines_H[i] >= near_cosine]
    return near


def _shown(groups: Groups, fresh: set[str], most: int, notices: Counter[str]) -> list[Sequence[Rollout]]:
    """The problems of the window that a writer is shown: both outcomes tell most, then failures."""
    of_window = [group for group in groups if any(rollout.rollout_id in fresh for rollout in group)]

    def rank(group: Sequence[Rollout]) -> int:
        outcomes = {rollout.outcome for rollout in group}
        return ("wrong" not in outcomes) + (not outcomes >= {"correct", "wrong"})

    ranked = sorted(of_window, key=rank)
    if len(ranked) > most:
        notices[BEYOND] += len(ranked) - most
    return ranked[:most]


def _whole(parts: Sequence[MinedPair | MinedEntry]) -> list[MinedPair | MinedEntry]:
    """Findings that came in parts, each in one piece, with the origin of all that training brings in."""
    joined: dict[tuple[Skill | Mistake, ...], MinedPair | MinedEntry] = {}
    for part in parts:
        key = tuple(_contents(part))
        whole = joined.get(key)
        if isinstance(part, MinedPair) and isinstance(whole, MinedPair):
            evidence = {
                "skill_evidence": whole.skill_evidence + part.skill_evidence,
                "mistake_evidence": whole.mistake_evidence + part.mistake_evidence,
            }
        elif isinstance(part, MinedEntry) and isinstance(whole, MinedEntry):
            evidence = {"evidence": whole.evidence + part.evidence}
        else:
            evidence = {}
        joined[key] = (whole or part).model_copy(update={"origin": ONLINE, **evidence})
    return list(joined.values())


def _as_known(
    item: MinedPair | MinedEntry, bank: Bank, embedder: Embedder, index: VectorIndex, min_cosine: float, by: str
) -> MinedPair | MinedEntry:
    """In the words of the bank where that says the same: nearly the same vector, and by the miner's rule one text."""
    said: list[Skill | Mistake] = []
    for content in _contents(item):
        kind: Kind = "skill" if isinstance(content, Skill) else "mistake"
        cosines_1N, ids_1N = index.search(kind, embedder.encode_documents([content.text()]), 1)
        near = [int(i) for i, cosine in zip(ids_1N[0], cosines_1N[0], strict=True) if cosine >= min_cosine]
        for entry in bank.entries(ids=near):
            assert not isinstance(entry.content, Pair)  # the index has none
            one = key_words(entry.content) == key_words(content)
            if one if by == "words" else contradiction(entry.content, content) is None:
                content = entry.content
        said.append(content)
    if isinstance(item, MinedEntry):
        return item.model_copy(update={"content": said[0]})
    return item.model_copy(update={"skill": said[0], "mistake": said[1]})


def _contents(item: MinedPair | MinedEntry) -> list[Skill | Mistake]:
    return [item.content] if isinstance(item, MinedEntry) else [item.skill, item.mistake]


def _evidence(item: MinedPair | MinedEntry) -> tuple[Evidence, ...]:
    return item.evidence if isinstance(item, MinedEntry) else item.skill_evidence + item.mistake_evidence


def _strength(item: MinedPair | MinedEntry) -> int:
    """Rollouts that a finding rests on."""
    return len({place.rollout_id for place in _evidence(item)})


# ------------------------------------------------------------------------------------------------------------- storing


def store_window(bank: Bank, change: Change, mined: MinedWindow, *, max_new: Mapping[Kind, int]) -> StoredWindow:
    """Writes what was found, with what it rests on, and lets the guard look at what is new.

    At most `max_new` new entries of a kind, those of the best-evidenced findings; what would bring more is left out
    whole. Words that the bank has or had gain the evidence, and keep the status that somebody gave them.
    """
    bank.record_problems(mined.problems)
    bank.record_rollouts(_keeping_accepted(bank, mined.fates))
    new: dict[Kind, dict[str, Skill | Mistake]] = {kind: {} for kind in SIDES}
    taken: list[MinedPair | MinedEntry] = []
    known = 0
    for item in mined.found:
        unknown = [content for content in _contents(item) if not _known(bank, content)]
        brings = {_kind(content): content for content in unknown if content_hash(content) not in new[_kind(content)]}
        if any(len(new[kind]) >= max_new[kind] for kind in brings):
            continue
        for kind, content in brings.items():
            new[kind][content_hash(content)] = content
        known += not unknown
        taken.append(item)
    add_mined(change, taken)
    added = {kind: tuple(sorted(_ids(bank, kind, list(new[kind])))) for kind in SIDES}
    ids = sorted(i for of_kind in added.values() for i in of_kind)
    guard = guard_of(bank, (content.text() for item in mined.found for content in _contents(item)))
    for entry_id, context in contexts(guard, bank, ids):
        change.flag(entry_id, flags_of(context, guard.rules))
    return StoredWindow(
        added=added,
        known=known,
        left_out=len(mined.found) - len(taken),
        quarantined=sum(change.row(entry_id)["status"] == "quarantined" for entry_id in ids),
    )


def _kind(content: Skill | Mistake) -> Kind:
    return "skill" if isinstance(content, Skill) else "mistake"


def _known(bank: Bank, content: Skill | Mistake) -> bool:
    """Whether the bank says or once said this. What was taken back was never said."""
    sql = (
        "SELECT EXISTS (SELECT 1 FROM wordings w JOIN entries e ON e.id = w.entry_id"
        " WHERE w.kind = ? AND w.content_hash = ? AND NOT e.withdrawn)"
    )
    return bool(bank.db.value(sql, (_kind(content), content_hash(content))))


def _ids(bank: Bank, kind: Kind, hashes: Sequence[str]) -> list[int]:
    sql = "SELECT id FROM entries WHERE kind = ? AND NOT withdrawn AND content_hash IN (SELECT value FROM json_each(?))"
    return [row[0] for row in bank.db.rows(sql, (kind, json.dumps(hashes)))]


def _keeping_accepted(bank: Bank, fates: Sequence[RolloutFate]) -> Iterator[RolloutFate]:
    """A rollout on which an entry rests already stays accepted, whatever came of it this time."""
    sql = "SELECT EXISTS (SELECT 1 FROM evidence WHERE rollout_id = ? AND active)"
    for fate in fates:
        if fate.fate != "accepted" and bank.db.value(sql, (fate.rollout_id,)):
            fate = fate.model_copy(update={"fate": "accepted", "reason": ""})
        yield fate
