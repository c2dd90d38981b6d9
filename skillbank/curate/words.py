"""Operations that bring words into a bank: rewording, adding by hand, splitting, merging.

A curator's words become weights as a miner's do, so `check` (the guard) looks at them as well: what it objects to is
done all the same, and quarantined until somebody releases it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from skillbank.curate.operation import Done, FieldChange, Left, Operation, Target, expect_text, operate, resolve
from skillbank.errors import InvalidEntry
from skillbank.records import Kind, Mistake, Pair, Provenance, Skill, content_hash
from skillbank.store import Bank
from skillbank.store.change import Change, Check
from skillbank.store.events import KINDS, kind_of

OUT_OF_USE = "they are superseded or retired"


class EditConflict(InvalidEntry):
    """Somebody else changed the entry between reading and writing it."""

    def __init__(self, entry_id: int, expected: int, version: int, theirs: Sequence[FieldChange]) -> None:
        self.entry_id, self.expected, self.version = entry_id, expected, version
        self.theirs = tuple(theirs)
        """What the other one changed."""
        fields = "; ".join(f"{change.field} says {change.after!r} now" for change in theirs)
        super().__init__(
            f"entry {entry_id} was reworded since you read it (version {expected}, now {version}): {fields}. "
            "Read it again and edit that"
        )


def edit(
    bank: Bank,
    entry_id: int,
    fields: Mapping[str, str],
    *,
    expected_version: int | None = None,
    actor: str,
    reason: str = "",
    preview: bool = False,
    check: Check | None = None,
) -> Operation:
    """Rewords fields of a skill or a mistake.

    Raises EntryNotFound, InvalidEntry for a field that it does not have, EditConflict when the entry is not at
    `expected_version` any more.
    """

    def work(change: Change) -> Done:
        content = _content(change, entry_id)
        worded = _worded(content, fields, f"entry {entry_id}")
        version = change.row(entry_id)["version"]
        if expected_version is not None and version != expected_version:
            raise EditConflict(entry_id, expected_version, version, _since(change, entry_id, expected_version))
        change.edit(entry_id, worded)
        return Done(1)

    return operate(bank, "edit", work, actor=actor, reason=reason, preview=preview, check=check)


def add(
    bank: Bank,
    *,
    skill: Skill | int | None = None,
    mistake: Mistake | int | None = None,
    tags: Sequence[str] = (),
    actor: str,
    reason: str = "",
    preview: bool = False,
    check: Check | None = None,
) -> Operation:
    """Adds a skill, a mistake, or a pair of both; a number stands for an entry that is there already.

    Raises InvalidEntry for words or a pair that the bank has.
    """
    sides: list[tuple[Kind, Skill | Mistake | int]] = []
    if skill is not None:
        sides.append(("skill", skill))
    if mistake is not None:
        sides.append(("mistake", mistake))
    if not any(isinstance(side, Skill | Mistake) for _, side in sides) and len(sides) < 2:
        raise InvalidEntry("nothing to add: give the words of a skill, of a mistake, or of both")
    for kind, side in sides:
        if not isinstance(side, int):
            _worded(side, side.model_dump(), f"the {kind}")

    def work(change: Change) -> Done:
        ids, added = [], []
        for kind, side in sides:
            entry_id, new = _side(change, kind, side, tags, single=len(sides) == 1)
            ids.append(entry_id)
            added += [entry_id] if new else []
        if len(sides) == 2:
            if not added and (known := bank.pair_of(*ids)) is not None:
                raise InvalidEntry(f"pair {known[0]} joins skill {ids[0]} and mistake {ids[1]} already")
            pair = Pair(skill_id=ids[0], mistake_id=ids[1])
            added.append(change.add(pair, tags=tags, provenance=Provenance(miner="manual")))
        return Done(len(added), added=added)

    return operate(bank, "add", work, actor=actor, reason=reason, preview=preview, check=check)


def split(
    bank: Bank,
    entry_id: int,
    contents: Sequence[Skill | Mistake],
    *,
    actor: str,
    reason: str = "",
    preview: bool = False,
    check: Check | None = None,
) -> Operation:
    """Replaces an entry by several, each with its evidence, tags and pairs; the entry itself is retired.

    Raises EntryNotFound, and InvalidEntry for fewer than two parts, equal ones, or ones of another kind.
    """
    for content in contents:
        _worded(content, content.model_dump(), f"a part of entry {entry_id}")
    if len({content_hash(content) for content in contents}) < len(contents):
        raise InvalidEntry(f"two parts of entry {entry_id} say the same: give each words of its own")

    def work(change: Change) -> Done:
        return Done(1, added=change.split(entry_id, contents))

    return operate(bank, "split", work, actor=actor, reason=reason, preview=preview, check=check)


def merge(
    bank: Bank,
    target: Target,
    into: int,
    fields: Mapping[str, str] | None = None,
    *,
    actor: str,
    reason: str = "",
    preview: bool = False,
    check: Check | None = None,
) -> Operation:
    """Lets one entry stand for others of its kind, with their evidence, usage, tags and pairs, perhaps in new words.

    Raises EntryNotFound, and InvalidEntry for pinned entries, pairs, and entries of another kind.
    """

    def work(change: Change) -> Done:
        ids = [entry_id for entry_id in resolve(bank, target) if entry_id != into]
        if not ids:
            raise InvalidEntry(f"nothing to merge into entry {into}: name others of its kind")
        out = [row["id"] for row in change.load(ids) if row["status"] in ("superseded", "retired")]
        gone = set(out)
        change.merge([entry_id for entry_id in ids if entry_id not in gone], into)
        if fields:
            change.edit(into, _worded(_content(change, into), fields, f"entry {into}"))
        return Done(len(ids), [Left(ids=tuple(out), why=OUT_OF_USE)])

    return operate(bank, f"merge into {into}", work, actor=actor, reason=reason, preview=preview, check=check)


def _content(change: Change, entry_id: int) -> Skill | Mistake:
    row = change.row(entry_id)
    content = KINDS[row["kind"]].model_validate_json(row["content"])
    if isinstance(content, Pair):
        raise InvalidEntry(
            f"entry {entry_id} is a pair: edit its skill {content.skill_id} or its mistake {content.mistake_id}"
        )
    return content


def _worded(content: Skill | Mistake, fields: Mapping[str, str], whose: str) -> Skill | Mistake:
    """The content with new texts in some fields. Raises InvalidEntry for what it cannot say."""
    names = list(type(content).model_fields)
    for name in fields:
        if name not in names:
            raise InvalidEntry(f"{whose} is a {kind_of(content)} without a field {name!r}: it has {', '.join(names)}")
    if not fields:
        raise InvalidEntry(f"nothing to edit in {whose}: give a new {', '.join(names)}")
    expect_text({f"{name} of {whose}": text for name, text in fields.items()})
    try:
        worded = type(content).model_validate({**content.model_dump(), **fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidEntry(f"{first['loc'][0]} of {whose} is refused: {first['msg']}") from error
    for name, field in type(content).model_fields.items():
        if field.is_required() and not getattr(worded, name).strip():
            raise InvalidEntry(f"{name} of {whose} is refused: it has no words")
    return worded


def _since(change: Change, entry_id: int, version: int) -> list[FieldChange]:
    """What differs between a wording that an entry had and the one it has."""
    now = _content(change, entry_id)
    kind = kind_of(now)
    sql = "SELECT content FROM versions WHERE entry_id = ? AND version = ? ORDER BY revision DESC LIMIT 1"
    then = change.db.value(sql, (entry_id, version))
    old = {} if then is None else KINDS[kind].model_validate_json(then).model_dump()
    return [
        FieldChange(entry_id=entry_id, kind=kind, field=name, before=old.get(name, ""), after=text)
        for name, text in now.model_dump().items()
        if old.get(name) != text
    ]


def _side(
    change: Change, kind: Kind, side: Skill | Mistake | int, tags: Sequence[str], *, single: bool
) -> tuple[int, bool]:
    """(id, whether it is new) of one side of what is added."""
    if isinstance(side, int):
        row = change.row(side)
        if row["kind"] != kind:
            raise InvalidEntry(f"a pair wants a {kind} where entry {side} is a {row['kind']}")
        return side, False
    sql = (
        "SELECT id, status FROM entries WHERE kind = ? AND content_hash = ? AND NOT withdrawn"
        " ORDER BY status = 'superseded', id LIMIT 1"
    )
    known = change.db.row(sql, (kind, content_hash(side)))
    if known is None:
        return change.add(side, tags=tags, provenance=Provenance(miner="manual")), True
    if single or known["status"] == "superseded":
        raise InvalidEntry(f"{known['status']} {kind} {known['id']} says this word for word: enable or edit that one")
    return known["id"], False
