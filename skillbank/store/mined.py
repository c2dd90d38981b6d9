"""What a miner found, into the bank: known words gain evidence, new ones become entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from skillbank.records import Evidence, MinedEntry, MinedPair, Mistake, Pair, Provenance, Skill, content_hash
from skillbank.store.events import kind_of

if TYPE_CHECKING:
    from skillbank.store.change import Change


def add_mined(change: Change, mined: Iterable[MinedPair | MinedEntry]) -> list[int | None]:
    """Ids of the pairs' pair entries and of the single entries; None for what rests on retracted rollouts alone."""
    return [_add_pair(change, item) if isinstance(item, MinedPair) else _add_entry(change, item) for item in mined]


def _add_pair(change: Change, mined: MinedPair) -> int | None:
    skill_id, new_skill = _add_once(change, mined.skill, mined.skill_evidence, mined.origin, mined.provenance)
    mistake_id, new_mistake = _add_once(change, mined.mistake, mined.mistake_evidence, mined.origin, mined.provenance)
    if skill_id is None or mistake_id is None:
        return None
    known = None
    if not (new_skill or new_mistake):  # a new side has no pair yet
        known = change.db.row(
            "SELECT id, withdrawn FROM entries WHERE kind = 'pair' AND skill_id = ? AND mistake_id = ?"
            " ORDER BY withdrawn, id LIMIT 1",
            (skill_id, mistake_id),
        )
    if known is None:
        pair = Pair(skill_id=skill_id, mistake_id=mistake_id)
        return change.add(pair, origin=mined.origin, provenance=mined.provenance)
    if known["withdrawn"]:
        change.set_status([known["id"]], "active")
    return int(known["id"])


def _add_entry(change: Change, mined: MinedEntry) -> int | None:
    return _add_once(change, mined.content, mined.evidence, mined.origin, mined.provenance)[0]


def _add_once(
    change: Change,
    content: Skill | Mistake,
    evidence: Sequence[Evidence],
    origin: str,
    provenance: Provenance | None,
) -> tuple[int | None, bool]:
    """(the entry that says so now, whether it is new); None when all the places are retracted."""
    rests = change.allowed(evidence)
    if evidence and not rests:
        return None, False
    kind = kind_of(content)
    known = change.db.row(
        "SELECT e.id, coalesce(e.head, e.id) AS head, e.withdrawn FROM wordings w JOIN entries e ON e.id = w.entry_id"
        " WHERE w.kind = ?1 AND w.content_hash = ?2"
        " ORDER BY e.withdrawn, e.content_hash <> ?2, e.superseded_by IS NOT NULL, e.id LIMIT 1",
        (kind, content_hash(content)),
    )
    if known is None:
        return change.add(content, origin=origin, evidence=rests, provenance=provenance), True
    if known["withdrawn"]:  # its addition was undone: it comes back as itself, not as a copy
        change.set_status([known["id"]], "active")
    change.add_evidence(known["id"], rests)  # where these words were found, whatever they were merged into
    return int(known["head"]), False
