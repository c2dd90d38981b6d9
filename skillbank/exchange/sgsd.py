"""The JSON banks of SGSD and SkillRL: skills, skills for one kind of task, mistakes, and a word on their origin.

The format knows wordings alone. A task's skills carry the tag `task:NAME`; the id that an entry has there is kept as
the `detail` of its provenance, the metadata beside the entries, and both are written again. Skills that share a list
stand in the order of their ids.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from skillbank.exchange.items import Item, item_of
from skillbank.records import Entry, Mistake, Pair, Skill, content_hash
from skillbank.rollouts.rejects import Unusable
from skillbank.store import Bank
from skillbank.store.query import Query

SKILLS, TASKS, MISTAKES, METADATA = "general_skills", "task_specific_skills", "common_mistakes", "metadata"
TASK = "task:"
"""Begins the tag of a skill for one kind of task."""
META = "exchange.sgsd.metadata"
"""Where a bank keeps the metadata of the JSON banks it took in: a list of them."""

MAX_DEPTH = 50
"""Of metadata."""

Placed = tuple[str, object, Item | Unusable]
"""(where in the file, what stands there, the entry it is or why it is none)"""


def is_bank_json(record: Mapping[str, Any]) -> bool:
    return any(name in record for name in (SKILLS, TASKS, MISTAKES))


def items_of(record: Mapping[str, Any], file: str, ignored: Counter[str]) -> Iterator[Placed]:
    """Every entry of a JSON bank, in its order; fields that the bank has no place for are counted."""
    ignored.update(name for name in record if name not in (SKILLS, TASKS, MISTAKES, METADATA))
    yield from _listed("skill", record.get(SKILLS), SKILLS, file, ignored)
    tasks = record.get(TASKS)
    if isinstance(tasks, Mapping):
        for name, skills in tasks.items():
            yield from _listed("skill", skills, f"{TASKS}.{name}", file, ignored, task=name)
    elif tasks:
        yield TASKS, tasks, Unusable("not a list", f"{TASKS}: lists by name of the task are wanted")
    yield from _listed("mistake", record.get(MISTAKES), MISTAKES, file, ignored)


def _listed(
    kind: str, listed: object, name: str, file: str, ignored: Counter[str], *, task: str | None = None
) -> Iterator[Placed]:
    if listed is None:
        return
    if not isinstance(listed, list):
        yield name, listed, Unusable("not a list", f"{name}: a list of entries is wanted")
        return
    words = (Skill if kind == "skill" else Mistake).model_fields
    for number, given in enumerate(listed):
        where = f"{name}[{number}]"
        if not isinstance(given, Mapping):
            yield where, given, Unusable("not a record", f"a JSON {type(given).__name__}")
            continue
        ignored.update(field for field in given if field not in words and field != f"{kind}_id")
        name_there = given.get(f"{kind}_id")
        record = {
            **{field: given[field] for field in words if field in given},
            "kind": kind,
            "ref": where,
            "status": "active",
            "origin": "imported",
            "tags": [] if task is None else [f"{TASK}{task.strip()}"],
            "provenance": {
                "miner": "import",
                "file": file,
                "detail": name_there if isinstance(name_there, str) and name_there else None,
            },
        }
        try:
            yield where, given, item_of(record)
        except Unusable as problem:
            yield where, given, problem


# ----------------------------------------------------------------------------------------------------------------- out


def bank_json(bank: Bank, where: Query, counts: Counter[str], left_out: Counter[str]) -> str:
    """The text of a JSON bank with the skills and mistakes that `where` selects."""
    withdrawn = {row[0] for row in bank.db.rows("SELECT id FROM entries WHERE withdrawn")}
    selected = [entry for entry in bank.entries(where) if entry.id not in withdrawn]
    entries = _each_once(selected)
    left_out["entry that says the same"] += len(selected) - len(entries)
    left_out["pair"] += sum(entry.kind == "pair" for entry in entries)
    left_out["evidence"] += sum(entry.evidence_count for entry in entries if entry.kind != "pair")
    general: list[dict[str, Any]] = []
    tasks: dict[str, list[dict[str, Any]]] = {}
    mistakes: list[dict[str, Any]] = []
    names = _Names(entries)
    for entry in entries:
        if isinstance(entry.content, Pair):
            continue
        counts[entry.kind] += 1
        of = sorted(tag.removeprefix(TASK) for tag in entry.tags if tag.startswith(TASK) and entry.kind == "skill")
        left_out["tag"] += len(entry.tags) - len(of)
        said = {f"{entry.kind}_id": names.of(entry, of), **entry.content.model_dump()}
        if entry.kind == "mistake":
            mistakes.append(said)
        for name in of:
            tasks.setdefault(name, []).append(said)
        if entry.kind == "skill" and not of:
            general.append(said)
    document = {
        SKILLS: sorted(general, key=_by_id),
        TASKS: {name: sorted(tasks[name], key=_by_id) for name in sorted(tasks)},
        MISTAKES: sorted(mistakes, key=_by_id),
        METADATA: _joined(known_metadata(bank)),
    }
    return json.dumps(document, ensure_ascii=False, indent=2)


def _each_once(entries: Iterable[Entry]) -> list[Entry]:
    """Entries in the same words as one, with the tags of all."""
    found: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        first = found.setdefault((entry.kind, content_hash(entry.content)), entry)
        if first is not entry:
            tags = tuple(sorted({*first.tags, *entry.tags}))
            found[entry.kind, content_hash(entry.content)] = first.model_copy(update={"tags": tags})
    return list(found.values())


class _Names:
    """The ids of entries in a JSON bank: the one an entry came with, or the next that is free."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._own: dict[int, str] = {}
        self._taken: set[str] = set()
        for entry in entries:
            came = entry.provenance
            name = came.detail if came is not None and came.miner == "import" else None
            if name and name not in self._taken:
                self._own[entry.id] = name
                self._taken.add(name)
        self._next: Counter[str] = Counter()

    def of(self, entry: Entry, tasks: list[str]) -> str:
        if entry.id in self._own:
            return self._own[entry.id]
        prefix = "err" if entry.kind == "mistake" else tasks[0][:3].lower() if tasks else "gen"
        while True:
            self._next[prefix] += 1
            name = f"{prefix}_{self._next[prefix]:03d}"
            if name not in self._taken:
                self._taken.add(name)
                return name


def _by_id(said: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Ids in the order of their numbers: gen_9 before gen_10."""
    name = str(said.get("skill_id") or said.get("mistake_id"))
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts] + [(-2, name)]


# ------------------------------------------------------------------------------------------------------------ metadata


def known_metadata(bank: Bank) -> list[Any]:
    kept = bank.meta(META)
    return [] if kept is None else list(json.loads(kept))


def keep_metadata(bank: Bank, record: Mapping[str, Any], ignored: Counter[str]) -> None:
    """Remembers what a JSON bank says of itself, beside what others said."""
    given = record.get(METADATA)
    sources = given.get("sources") if isinstance(given, Mapping) and set(given) == {"sources"} else None
    known = known_metadata(bank)
    for metadata in sources if isinstance(sources, list) else [given]:
        if not _is_shallow(metadata):
            ignored[METADATA] += 1
        elif metadata:
            plain = json.loads(json.dumps(metadata), parse_constant=lambda _: None)  # 1e999 is read as an infinity
            known += [] if plain in known else [plain]
    if known:
        bank.set_meta(META, json.dumps(known, ensure_ascii=False))


def _is_shallow(value: Any) -> bool:
    """Nested at most so deep that it can be written again."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return not level


def _joined(known: list[Any]) -> Any:
    return {} if not known else known[0] if len(known) == 1 else {"sources": known}
