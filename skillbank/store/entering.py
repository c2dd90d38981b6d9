"""How a new entry enters a bank: its row of `entries` and the event of its addition, each text made once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from skillbank.records import Flag, Kind, Pair, Provenance, Status, body_hash
from skillbank.store.events import Content, to_json

_COLUMNS = (
    *("kind", "origin", "status", "content", "content_hash", "text", "revision", "skill_id", "mistake_id", "pinned"),
    *("tags", "flags", "provenance"),
)
INSERT = f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
DIGEST = _COLUMNS.index("content_hash")


def row_and_event(
    content: Content,
    kind: Kind,
    *,
    revision: int,
    origin: str,
    status: Status,
    flags: Sequence[Flag],
    tags: Iterable[str],
    pinned: bool,
    provenance: Provenance | None,
) -> tuple[tuple[object, ...], str]:
    """The values of `INSERT`, and what the event `add` holds: what is set, as JSON."""
    body = content.model_dump()
    words = to_json(body)
    skill_id, mistake_id, text = None, None, None
    if isinstance(content, Pair):
        skill_id, mistake_id = content.skill_id, content.mistake_id
    else:
        text = content.text()
    digest = body_hash(body)
    labels, raised = to_json(sorted(set(tags))), to_json([flag.model_dump() for flag in flags])
    made = None if provenance is None else _to_json(provenance)
    row = (kind, origin, status, words, digest, text, revision, skill_id, mistake_id, pinned, labels, raised, made)
    # In the order of the names, as `to_json` writes them.
    fields = [f'"content":{words}']
    fields += [f'"flags":{raised}'] if flags else []
    fields += ['"pinned":true'] if pinned else []
    fields.append(f'"status":"{status}"')
    fields += [f'"tags":{labels}'] if labels != "[]" else []
    fields.append('"version":1')
    return row, f"{{{','.join(fields)}}}"


@lru_cache(maxsize=64)
def _to_json(provenance: Provenance) -> str:
    """Most of what a miner brings has one and the same."""
    return to_json(provenance.model_dump(exclude_none=True))
