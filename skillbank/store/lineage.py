"""Entries that stand for others: merging, splitting, retracting, and what must be settled after it.

A merged entry keeps its own places; the one that supersedes it stands for them as long as it does, so undoing a merge
moves nothing. A chain of superseded entries ends in its head, and chains never close.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skillbank.errors import InvalidEntry
from skillbank.records import Flag, Mistake, Pair, Provenance, Record, Skill, Status
from skillbank.store import places
from skillbank.store.database import Database
from skillbank.store.events import kind_of

if TYPE_CHECKING:
    from skillbank.store.change import Change
    from skillbank.store.events import Row

RETRACTED = "retracted"
"""The rule of the flag on a wording that was written from entries of which some were retracted."""


class Retracted(Record):
    """What a retraction did."""

    rollouts: int
    places: int
    """Taken out of use."""
    retired: tuple[int, ...] = ()
    """Entries that rested on nothing else."""
    revived: tuple[int, ...] = ()
    """Entries that had been merged into a retired one, and rest on something else."""
    flagged: tuple[int, ...] = ()
    """Entries whose wording was written from several, some of them retired now."""


def supersede(change: Change, entry_id: int, by: int) -> None:
    old, new = change.load([entry_id, by])[0], change.row(by)
    if entry_id == by or old["kind"] != new["kind"] or new["status"] == "superseded":
        raise InvalidEntry(
            f"{old['kind']} {entry_id} cannot be superseded by {new['status']} {new['kind']} {by}: "
            f"name another {old['kind']} that is not superseded itself"
        )
    for row in (old, new):
        if row["withdrawn"]:
            raise InvalidEntry(
                f"the addition of {row['kind']} {row['id']} was undone: bring it back before it is merged"
            )
    if old["pinned"]:
        raise InvalidEntry(f"{old['kind']} {entry_id} is pinned and cannot be superseded by {by}: unpin it first")
    change.apply(entry_id, "supersede", {"status": "superseded", "superseded_by": by})


def merge(change: Change, into: Mapping[int, int]) -> None:
    """Supersede the keys by the values, and their pairs by pairs of those.

    A pair that several become is disabled or quarantined when one of them was: nobody's objection is lost.
    """
    for old, target in into.items():
        if target in into:
            raise InvalidEntry(f"entry {target} cannot stand for {old}: it is itself to be merged into {into[target]}")
        if change.row(old)["kind"] == "pair":
            raise InvalidEntry(f"entry {old} is a pair: merge its skill or its mistake, the pair follows")
        supersede(change, old, target)
        change.tag([target], add=json.loads(change.row(old)["tags"]))
    becoming: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for pair in _pairs_of(change, into, "status <> 'superseded'"):
        sides = into.get(pair["skill_id"], pair["skill_id"]), into.get(pair["mistake_id"], pair["mistake_id"])
        becoming[sides].append(pair)
    for (skill_id, mistake_id), pairs in becoming.items():
        _join_pairs(change, skill_id, mistake_id, pairs)


def _join_pairs(change: Change, skill_id: int, mistake_id: int, pairs: Sequence[Row]) -> None:
    standing = change.db.value(
        "SELECT id FROM entries WHERE kind = 'pair' AND skill_id = ? AND mistake_id = ?"
        " AND NOT withdrawn AND status <> 'superseded' ORDER BY id LIMIT 1",
        (skill_id, mistake_id),
    )
    rows = [*pairs] if standing is None else [change.row(standing), *pairs]
    status = _joint_status([row["status"] for row in rows])
    if standing is None:
        pair = Pair(skill_id=skill_id, mistake_id=mistake_id)
        standing = change.add(pair, origin=rows[0]["origin"], status=status)
    else:
        change.set_status([standing], status)
    for row in pairs:
        change.apply(row["id"], "supersede", {"status": "superseded", "superseded_by": standing})


def _joint_status(statuses: Sequence[Status]) -> Status:
    order: tuple[Status, ...] = ("quarantined", "disabled", "active", "retired")
    return next(status for status in order if status in statuses)


def split(change: Change, entry_id: int, contents: Sequence[Skill | Mistake]) -> list[int]:
    row = change.row(entry_id)
    if row["kind"] == "pair" or row["status"] in ("superseded", "retired"):
        raise InvalidEntry(f"{row['status']} {row['kind']} {entry_id} cannot be split: name a skill or mistake in use")
    if len(contents) < 2:
        raise InvalidEntry(f"entry {entry_id} was to be split into {len(contents)}: give two wordings or more")
    for content in contents:
        if kind_of(content) != row["kind"]:
            raise InvalidEntry(f"entry {entry_id} is a {row['kind']}: a part of it cannot be a {kind_of(content)}")
    evidence = change.evidence_of(entry_id)
    flags = [Flag(**flag) for flag in json.loads(row["flags"]) if not flag["released"]]
    parts = [
        change.add(
            content,
            origin=row["origin"],
            status=row["status"],
            evidence=evidence,
            flags=flags,
            tags=json.loads(row["tags"]),
            pinned=bool(row["pinned"]),
            provenance=Provenance(miner="split", parent=entry_id),
        )
        for content in contents
    ]
    for pair in _pairs_of(change, [entry_id], "status NOT IN ('superseded', 'retired')"):
        for part in parts:
            skill_id = part if row["kind"] == "skill" else pair["skill_id"]
            mistake_id = part if row["kind"] == "mistake" else pair["mistake_id"]
            joined = Pair(skill_id=skill_id, mistake_id=mistake_id)
            change.add(joined, origin=pair["origin"], status=pair["status"])
        change.apply(pair["id"], "split", {"status": "retired"})
    change.apply(entry_id, "split", {"status": "retired"})
    return parts


def retract(change: Change, rollout_ids: Iterable[str]) -> Retracted:
    """Lets nothing rest on these rollouts any more, now or when they are mined again.

    An entry whose own places are all gone is retired, merged ones too. Where it stood for others, those that rest on
    something else come back. A wording that a model wrote from several entries is flagged when one of them is retired.
    """
    named = json.dumps(sorted(set(rollout_ids)))
    among = "IN (SELECT value FROM json_each(?))"
    held = {
        row[0]
        for row in change.db.rows(f"SELECT rollout_id FROM retractions WHERE active AND rollout_id {among}", (named,))
    }
    fresh = sorted(set(json.loads(named)) - held)
    if fresh:
        change.note_retracted("retract", [], fresh)
    return Retracted(rollouts=len(fresh), **take_out(change, json.loads(named)).model_dump(exclude={"rollouts"}))


def take_out(change: Change, rollout_ids: Iterable[str]) -> Retracted:
    """Takes the places in retracted rollouts out of use, and with them what rests on nothing else."""
    rows = change.db.rows(
        "SELECT id, entry_id FROM evidence WHERE active AND rollout_id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps(sorted(rollout_ids)),),
    )
    owners = list(dict.fromkeys(row["entry_id"] for row in rows))
    change.drop_evidence([row["id"] for row in rows])
    left = "SELECT count(*) FROM evidence WHERE entry_id = ? AND active"
    bare = [entry_id for entry_id in owners if not change.db.value(left, (entry_id,))]
    heads = {i: _climb(change.db, i) for i in bare}
    revived: list[int] = []
    for entry_id in bare:
        revived += _let_go(change, entry_id, set(bare))
    flagged, emptied = _question_wordings(change, heads, set(bare))
    return Retracted(
        rollouts=0,
        places=len(rows),
        retired=(*bare, *emptied),
        revived=tuple(revived),
        flagged=tuple(flagged),
    )


def _let_go(change: Change, entry_id: int, bare: set[int]) -> list[int]:
    """Retires an entry; what was merged into it goes to what it was merged into, or comes back. Returns the latter."""
    above = change.row(entry_id)["superseded_by"]
    below = [row[0] for row in change.db.rows("SELECT id FROM entries WHERE superseded_by = ?", (entry_id,))]
    revived = []
    for member in change.load(below):
        if above is not None:
            change.apply(member["id"], "retract", {"superseded_by": above})
        elif member["id"] not in bare:
            change.apply(member["id"], "retract", {"status": "active", "superseded_by": None})
            revived.append(member["id"])
    for pair in _pairs_of(change, revived, "status = 'superseded'"):
        successor = change.row(pair["superseded_by"])
        change.apply(pair["id"], "retract", {"status": successor["status"], "superseded_by": None})
    change.apply(entry_id, "retract", {"status": "retired", "superseded_by": None})
    return revived


def _question_wordings(change: Change, heads: Mapping[int, int], bare: set[int]) -> tuple[list[int], list[int]]:
    """(flagged, retired) of the wordings that a model wrote from several entries, some of them retired now."""
    lost: dict[int, list[int]] = defaultdict(list)
    for member, head in heads.items():
        if head not in bare and (change.row(head)["provenance"] or "").find('"miner":"merge"') >= 0:
            lost[head].append(member)
    flagged, emptied = [], []
    for head, members in lost.items():
        if places.count(change.db, head) == 0:
            change.apply(head, "retract", {"status": "retired"})
            emptied.append(head)
        else:
            names = ", ".join(map(str, members))
            change.flag(
                head, [Flag(rule=RETRACTED, reason=f"its wording was written from retracted entries too: {names}")]
            )
            flagged.append(head)
    return flagged, emptied


def _pairs_of(change: Change, sides: Iterable[int], where: str) -> list[Row]:
    """The pairs of skills and mistakes that are not withdrawn, by id."""
    named = json.dumps(list(sides))
    among = f"IN (SELECT value FROM json_each(?)) AND kind = 'pair' AND NOT withdrawn AND {where}"
    of = f"SELECT id FROM entries WHERE {{}} {among}"
    sql = f"{of.format('skill_id')} UNION {of.format('mistake_id')} ORDER BY id"
    return change.load(row[0] for row in change.db.rows(sql, (named, named)))


def _climb(db: Database, entry_id: int) -> int:
    """The head of a chain. Raises InvalidEntry when the chain closes."""
    seen = [entry_id]
    while (above := db.value("SELECT superseded_by FROM entries WHERE id = ?", (seen[-1],))) is not None:
        if above in seen:
            names = " and ".join(map(str, seen))
            raise InvalidEntry(f"entries {names} would stand for each other: undo the later of the two changes first")
        seen.append(above)
    return seen[-1]


@dataclass
class Settling:
    """What hangs on the entries that a change touched, and is set once at its end."""

    relinked: set[int] = field(default_factory=set)
    """Entries whose `superseded_by` changed."""
    recount: set[int] = field(default_factory=set)
    """Entries whose places changed, and those that something was merged into and is no more."""

    def settle(self, db: Database, touched: set[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sets heads, counts and `retrievable`; the entries that leave retrieval, and those that join it."""
        self._relink(db)
        self._count(db, self._above(db), touched)
        return _set_retrievable(db, touched)

    @staticmethod
    def reworded(db: Database, entries: set[int]) -> bool:
        """Whether retrieval may return one of these entries, whose words changed."""
        among = "id IN (SELECT value FROM json_each(?))"
        sql = f"SELECT EXISTS (SELECT 1 FROM entries WHERE retrievable AND {among})"
        return bool(db.value(sql, (json.dumps(sorted(entries)),)))

    def _relink(self, db: Database) -> None:
        for entry_id in sorted(self.relinked):
            head = _climb(db, entry_id)
            below = [row[0] for row in db.rows(f"{places.MERGED} SELECT id FROM merged", (entry_id,))]
            db.run_many("UPDATE entries SET head = nullif(?, id) WHERE id = ?", [(head, i) for i in below])

    def _above(self, db: Database) -> set[int]:
        """What was relinked or has other places, and all that stands for it, or did."""
        sql = (
            "WITH RECURSIVE up (id) AS (SELECT value FROM json_each(?)"
            " UNION SELECT e.superseded_by FROM up JOIN entries e ON e.id = up.id WHERE e.superseded_by IS NOT NULL)"
            " SELECT id FROM up"
        )
        return {row[0] for row in db.rows(sql, (json.dumps(sorted(self.relinked | self.recount)),))}

    def _count(self, db: Database, entries: set[int], touched: set[int]) -> None:
        named = json.dumps(sorted(entries))
        among = "IN (SELECT value FROM json_each(?))"
        own = "SELECT count(*) FROM evidence x WHERE x.entry_id = entries.id AND x.active"
        db.run(f"UPDATE entries SET evidence_count = ({own}) WHERE kind <> 'pair' AND id {among}", (named,))
        stand = f"SELECT DISTINCT superseded_by FROM entries WHERE kind <> 'pair' AND superseded_by {among}"
        for row in db.rows(stand, (named,)):
            db.run("UPDATE entries SET evidence_count = ? WHERE id = ?", (places.count(db, row[0]), row[0]))
        both = (
            "SELECT sum(part.evidence_count) FROM entries part WHERE part.id IN (entries.skill_id, entries.mistake_id)"
        )
        for column, ids in (("skill_id", named), ("mistake_id", named), ("id", json.dumps(sorted(touched)))):
            db.run(f"UPDATE entries SET evidence_count = ({both}) WHERE kind = 'pair' AND {column} {among}", (ids,))


RETRIEVABLE = (
    "(e.status = 'active' AND ("
    "NOT EXISTS (SELECT 1 FROM entries p WHERE p.kind = 'pair' AND p.{side} = e.id AND NOT p.withdrawn)"
    " OR EXISTS (SELECT 1 FROM entries p WHERE p.kind = 'pair' AND p.{side} = e.id AND p.status = 'active')))"
)
"""Whether retrieval may return the skill or mistake `e` (`side`: its column in a pair); store.py says it in words."""


def _set_retrievable(db: Database, touched: set[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Settles it for touched entries and the sides of touched pairs; those that leave, and those that join."""
    named = json.dumps(sorted(touched))
    changed: dict[int, list[int]] = {0: [], 1: []}
    for kind, side in (("skill", "skill_id"), ("mistake", "mistake_id")):
        should = RETRIEVABLE.format(side=side)
        among = "SELECT value AS id FROM json_each(?)"
        sides = f"SELECT t.{side} FROM entries t WHERE t.kind = 'pair' AND t.id IN ({among})"
        sql = (
            f"UPDATE entries AS e SET retrievable = NOT retrievable WHERE e.kind = '{kind}'"
            f" AND e.id IN ({among} UNION {sides}) AND e.retrievable <> {should} RETURNING id, retrievable"
        )
        for row in db.rows(sql, (named, named)):
            changed[row["retrievable"]].append(row["id"])
    return tuple(sorted(changed[0])), tuple(sorted(changed[1]))
