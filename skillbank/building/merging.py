"""Near-equal findings of a harvest become one, their evidence added up; contrasts that others contradict are taken out.

Memory holds the wordings that may be near-equal to one another, a few buckets at a time, and never the places on which
they rest. When two texts are one is said in `merge.py`; texts that a model wrote merge by nearness alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from skillbank.building.harvest import MISTAKE, SKILL, Harvest, to_content
from skillbank.building.spool import scratch
from skillbank.dedupe.cluster import cluster
from skillbank.mine.merge import first_fit, key_words
from skillbank.records import MinedPair, Mistake, Record, Skill

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Encode = Callable[[Sequence[str]], NDArray[np.float32]]
    """Texts -> L2-normalised vectors [n, dim]."""

MergeBy = Literal["words", "meaning"]
"""words: the rule of `merge.py`. meaning: near vectors are enough, whatever the words (`skillbank.dedupe.cluster`)."""
TEXTS_AT_ONCE = 4096
"""Embedded together, a whole bucket at least."""


class MergeReport(Record):
    """How many of each there were, and how many are left. Skills and mistakes are counted by distinct text."""

    pairs_in: int
    pairs_out: int
    skills_in: int
    skills_out: int
    mistakes_in: int
    mistakes_out: int
    singles_in: int
    """Findings without a counterpart."""
    singles_out: int


def drop_contradicted(harvest: Harvest) -> list[str]:
    """Takes out the contrasts that other problems contradict (`contrast.contradicted`), with what they rest on.

    Returns the wrong attempts that had given them.
    """
    harvest.db.executescript(
        "CREATE TEMP TABLE shares (rule INTEGER PRIMARY KEY, share REAL);"
        "INSERT INTO shares SELECT rule, sum(right) * 1.0 / sum(stated) FROM statements WHERE rule IN"
        " (SELECT right_rule FROM findings UNION SELECT wrong_rule FROM findings) GROUP BY rule;"
        "CREATE TEMP TABLE dropped AS SELECT id FROM findings f"
        " JOIN shares r ON r.rule = f.right_rule JOIN shares w ON w.rule = f.wrong_rule WHERE r.share < w.share;"
        "DELETE FROM places WHERE finding IN (SELECT id FROM dropped);"
        "DELETE FROM findings WHERE id IN (SELECT id FROM dropped);"
        "DELETE FROM wordings WHERE id NOT IN (SELECT skill FROM findings WHERE skill IS NOT NULL"
        " UNION SELECT mistake FROM findings WHERE mistake IS NOT NULL);"
        "BEGIN"
    )
    rows = harvest.db.execute("SELECT rollout_id FROM finders WHERE finding IN (SELECT id FROM dropped) ORDER BY 1")
    return [row[0] for row in rows]


def repeated(harvest: Harvest) -> int:
    """Wrong attempts that gave a pair which another attempt at their problem had given."""
    return int(harvest.db.execute("SELECT coalesce(sum(attempts - 1), 0) FROM findings WHERE attempts").fetchone()[0])


def merge(harvest: Harvest, encode: Encode | None, min_cosine: float, by: MergeBy = "words") -> MergeReport:
    """Merges near-equal wordings, and with them the pairs; without `encode`, only what is plainly the same."""
    harvest.db.execute("CREATE INDEX places_by_finding ON places (finding, wording)")
    _weigh(harvest)
    _group(harvest, by)
    if encode is not None:
        for side in (SKILL, MISTAKE):
            _lead(harvest, side, encode, min_cosine, by)
    harvest.db.executescript(
        "CREATE INDEX groups_by_plain ON groups (side, origin, plain);"
        "UPDATE wordings AS w SET stands = (SELECT leader FROM groups g"
        " WHERE g.side = w.side AND g.origin = w.origin AND g.plain = w.plain);"
        "CREATE INDEX findings_by_sides ON findings (skill, mistake);"
        "INSERT INTO merged (skill, mistake, origin)"
        " SELECT s.id, m.id, coalesce(s.origin, m.origin) FROM"
        " (SELECT DISTINCT ws.stands AS skill, wm.stands AS mistake FROM findings f"
        "  LEFT JOIN wordings ws ON ws.id = f.skill LEFT JOIN wordings wm ON wm.id = f.mistake)"
        " LEFT JOIN wordings s ON s.id = skill LEFT JOIN wordings m ON m.id = mistake"
        " ORDER BY s.text, m.text, coalesce(s.origin, m.origin);"
        "CREATE UNIQUE INDEX merged_by_sides ON merged (skill, mistake);"
        "UPDATE findings AS f SET merged = (SELECT p.id FROM merged p"
        " WHERE p.skill IS (SELECT stands FROM wordings WHERE id = f.skill)"
        " AND p.mistake IS (SELECT stands FROM wordings WHERE id = f.mistake));"
        "CREATE INDEX findings_by_merged ON findings (merged);"
        "BEGIN"
    )
    return _report(harvest)


def _weigh(harvest: Harvest) -> None:
    """How many distinct places each wording rests on."""
    harvest.db.executescript(
        "CREATE TEMP TABLE weights (wording INTEGER PRIMARY KEY, weight INTEGER);"
        "INSERT INTO weights SELECT wording, count(*)"
        " FROM (SELECT DISTINCT wording, digest FROM places) GROUP BY wording;"
        "UPDATE wordings SET weight ="
        " coalesce((SELECT weight FROM weights WHERE wording = wordings.id), 0);"
        "BEGIN"
    )


def _group(harvest: Harvest, by: MergeBy) -> None:
    """Brings together wordings that are plainly the same; the best-evidenced one stands for them."""
    rows = harvest.db.execute(
        "SELECT side, origin, plain, id, weight, one, two, three FROM wordings"
        " ORDER BY side, origin, plain, weight DESC, one, two, three"
    )
    for (side, origin, key), same in groupby(rows, key=lambda row: row[:3]):
        (_, _, _, best, weight, *fields), *others = same
        if others:
            ids = [best, *(row[3] for row in others)]
            marks = ", ".join("?" * len(ids))
            union = f"SELECT count(DISTINCT digest) FROM places WHERE wording IN ({marks})"
            weight = harvest.db.execute(union, ids).fetchone()[0]
        bucket = _bucket(to_content(side, fields)) if by == "words" else b""
        harvest.db.execute(
            "INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?)", (best, side, origin, bucket, weight, key, best)
        )


def _lead(harvest: Harvest, side: int, encode: Encode, min_cosine: float, by: MergeBy) -> None:
    """Gives each group of a side the leader of its cluster; groups of one origin and one bucket may meet."""
    assign = first_fit if by == "words" else _nearest_leader
    rows = harvest.db.execute(
        "SELECT g.origin, g.bucket, g.best, w.text FROM groups g JOIN wordings w ON w.id = g.best WHERE g.side = ?"
        " ORDER BY g.origin, g.bucket, g.weight DESC, g.plain",
        (side,),
    )
    waiting: list[list[tuple[int, str]]] = []
    texts = 0
    for _, same in groupby(rows, key=lambda row: row[:2]):
        bucket = [(best, text) for _, _, best, text in same]
        if len(bucket) > 1:
            waiting.append(bucket)
            texts += len(bucket)
        if texts >= TEXTS_AT_ONCE:
            _join(harvest, waiting, encode, min_cosine, assign)
            waiting, texts = [], 0
    _join(harvest, waiting, encode, min_cosine, assign)


def _join(
    harvest: Harvest,
    buckets: Sequence[Sequence[tuple[int, str]]],
    encode: Encode,
    min_cosine: float,
    assign: Callable[[NDArray[np.float32], float], Sequence[int]],
) -> None:
    if not buckets:
        return
    vectors_ND = encode([text for bucket in buckets for _, text in bucket])
    start = 0
    for bucket in buckets:
        leaders = assign(vectors_ND[start : start + len(bucket)], min_cosine)
        led = [(bucket[leader][0], best) for (best, _), leader in zip(bucket, leaders, strict=True)]
        harvest.db.executemany("UPDATE groups SET leader = ? WHERE best = ?", led)
        start += len(bucket)


def _report(harvest: Harvest) -> MergeReport:
    def count(sql: str, *parameters: int) -> int:
        return int(harvest.db.execute(f"SELECT count({sql}", parameters).fetchone()[0])

    both = "skill IS NOT NULL AND mistake IS NOT NULL"
    return MergeReport(
        pairs_in=count(f"*) FROM findings WHERE {both}"),
        pairs_out=count(f"*) FROM merged WHERE {both}"),
        skills_in=count("*) FROM wordings WHERE side = ?", SKILL),
        skills_out=count("DISTINCT stands) FROM wordings WHERE side = ?", SKILL),
        mistakes_in=count("*) FROM wordings WHERE side = ?", MISTAKE),
        mistakes_out=count("DISTINCT stands) FROM wordings WHERE side = ?", MISTAKE),
        singles_in=count(f"*) FROM findings WHERE NOT ({both})"),
        singles_out=count(f"*) FROM merged WHERE NOT ({both})"),
    )


def merge_pairs(
    pairs: Iterable[MinedPair], *, encode: Encode | None = None, min_cosine: float = 0.95
) -> tuple[list[MinedPair], MergeReport]:
    """Merge near-equal pairs by the rules of `merge.py`; without `encode`, by the first of them alone."""
    with closing(scratch(":memory:")) as connection:
        harvest = Harvest(connection)
        for pair in pairs:
            harvest.add(pair)
        report = merge(harvest, encode, min_cosine)
        whole: dict[tuple[str, Skill, Mistake], MinedPair] = {}
        for part in harvest.results():
            assert isinstance(part, MinedPair)
            key = (part.origin, part.skill, part.mistake)
            whole[key] = _whole(whole[key], part) if key in whole else part
        return list(whole.values()), report


def _whole(pair: MinedPair, part: MinedPair) -> MinedPair:
    return pair.model_copy(
        update={
            "skill_evidence": pair.skill_evidence + part.skill_evidence,
            "mistake_evidence": pair.mistake_evidence + part.mistake_evidence,
        }
    )


def _bucket(text: Skill | Mistake) -> bytes:
    return hashlib.blake2b("\0".join(key_words(text)).encode(), digest_size=16).digest()


def _nearest_leader(vectors_ND: NDArray[np.float32], min_cosine: float) -> list[int]:
    return [int(leader) for leader in cluster(vectors_ND, min_cosine).leader_N]
