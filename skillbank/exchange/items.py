"""One record of an exchange file: an entry with all that it rests on, or a problem that evidence speaks of.

Ids mean something in one bank only. In a file an entry goes by a reference made of what it says, so that the same
entry has the same one in every bank, and a pair by one made of those of its two sides.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from skillbank.records import Evidence, Flag, Mistake, Provenance, Record, Skill, Status
from skillbank.rollouts.rejects import Unusable

MAX_TEXT = 2**20
"""Characters of what an item says itself; an entry takes some hundred, a problem some thousand."""
MAX_OFFSET = 2**31

WORDS = (*Skill.model_fields, *Mistake.model_fields)
NEEDS = {
    "skill": ("ref", "title", "principle", "status", "origin"),
    "mistake": ("ref", "description", "status", "origin"),
    "pair": ("ref", "skill", "mistake", "status", "origin"),
    "problem": ("problem_id", "problem"),
}


class Item(Record):
    """What a file says of one entry or problem. Fields that do not apply to its kind are None or empty."""

    kind: Literal["skill", "mistake", "pair", "problem"]
    ref: str | None = None
    """By which other items of the file name it."""
    title: str | None = None
    principle: str | None = None
    when_to_apply: str | None = None
    description: str | None = None
    why_it_happens: str | None = None
    how_to_avoid: str | None = None
    skill: str | None = None
    """Reference of a pair's skill."""
    mistake: str | None = None
    status: Status | None = None
    superseded_by: str | None = None
    """Reference of the entry that stands for it."""
    split_from: str | None = None
    """Reference of the entry that it is a part of."""
    origin: str | None = None
    tags: tuple[str, ...] = ()
    pinned: bool = False
    flags: tuple[Flag, ...] = ()
    provenance: Provenance | None = None
    """Without `parent`: that is `split_from` here."""
    evidence: tuple[Evidence, ...] = ()
    problem_id: str | None = None
    problem: str | None = None
    reference: str | None = None

    def content(self) -> Skill | Mistake:
        """What a skill or a mistake says."""
        model = Skill if self.kind == "skill" else Mistake
        words = {name: getattr(self, name) for name in model.model_fields}
        return model.model_validate({name: text for name, text in words.items() if text is not None})

    def fields(self) -> dict[str, Any]:
        """The fields that say something."""
        values = self.model_dump(mode="json")
        nothing = {"tags": [], "flags": [], "evidence": [], "pinned": False, **dict.fromkeys(WORDS, "")}
        said = {name: value for name, value in values.items() if value is not None and value != nothing.get(name)}
        if "provenance" in said:
            said["provenance"] = {name: value for name, value in said["provenance"].items() if value is not None}
        return said

    def line(self) -> str:
        """One line, whoever splits the file; what cannot be seen in a text is escaped, so that a diff shows it."""
        text = json.dumps(self.fields(), ensure_ascii=False)
        return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def item_of(record: Mapping[str, Any]) -> Item:
    """The item that a record of a file is. Raises Unusable."""
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in NEEDS:
        raise Unusable("no entry", f"kind must be one of {', '.join(NEEDS)}")
    try:
        item = Item.model_validate({name: value for name, value in record.items() if value is not None})
        missing = [name for name in NEEDS[kind] if not getattr(item, name)]
        if missing:
            raise Unusable("incomplete entry", f"a {kind} needs {', '.join(missing)}")
        if kind in ("skill", "mistake"):
            item.content()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "record"
        raise Unusable("not an entry", f"{where}: {first['msg']}") from error
    except RecursionError as error:
        raise Unusable("not an entry", "nested too deep") from error
    _check_bounds(item)
    return item


def _check_bounds(item: Item) -> None:
    size = sum(len(value) for name in (*WORDS, "problem", "reference", "origin") if (value := getattr(item, name)))
    if size > MAX_TEXT:
        raise Unusable("too long", f"{size:,} characters; at most {MAX_TEXT:,}")
    for place in item.evidence:
        if place.span is not None and not 0 <= place.span[0] <= place.span[1] < MAX_OFFSET:
            raise Unusable("not an entry", f"evidence: span {place.span} is no part of a text")
    for tag in item.tags:
        if not tag.strip() or tag != tag.strip():
            raise Unusable("not an entry", f"tags: {tag!r} is empty or has spaces around it")
    if item.provenance is not None and item.provenance.parent is not None:
        raise Unusable("not an entry", "provenance: parent is an id of another bank; split_from names an entry")


class References:
    """Hands out references. Entries that say the same are told apart by a number, in the order of asking."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def wording(self, kind: str, content_hash: str) -> str:
        return self._numbered(f"{kind}-{content_hash[:16]}")

    def pair(self, skill: str, mistake: str) -> str:
        return self._numbered(f"pair-{hashlib.sha256(f'{skill} {mistake}'.encode()).hexdigest()[:16]}")

    def _numbered(self, ref: str) -> str:
        self._given[ref] += 1
        return ref if self._given[ref] == 1 else f"{ref}-{self._given[ref]}"
