"""A bank, or what a query selects of it, into a file. The file appears whole under its name, or not at all.

Only the order of the file and its references differ from what stands in the bank. An entry brings along what it cannot
be read without: a pair its two sides, a superseded entry the one that stands for it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from skillbank.errors import InvalidOption
from skillbank.exchange.items import Item, References
from skillbank.exchange.reading import FORMATS, Format
from skillbank.exchange.sgsd import bank_json
from skillbank.records import Entry, Evidence, Pair, Record
from skillbank.store import ANY, Bank, places
from skillbank.store.query import Query

BATCH = 1000
"""Entries held at a time, and rows of a parquet row group."""


class ExportReport(Record):
    """What was written, and what the format has no place for."""

    file: str
    format: str
    entries: dict[str, int]
    """Of each kind; `problem` for the problems that evidence speaks of."""
    left_out: dict[str, int]


def export_file(
    bank: Bank, path: str | os.PathLike[str], *, format: Format, where: Query | None = None
) -> ExportReport:
    """Write what `where` selects: everything by default, of the format `sgsd` (which knows no status) what is active.

    Raises InvalidOption when the format is none of `FORMATS`.
    """
    if format not in FORMATS:
        raise InvalidOption(f"format is {format!r}: choose one of {', '.join(FORMATS)}")
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    counts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    try:
        with bank.db.snapshot():
            if format == "sgsd":
                text = bank_json(bank, where or Query(status="active"), counts, left_out)
                part.write_text(text, encoding="utf-8", newline="\n")
                if where is None:
                    left_out.update(_of_other_status(bank))
            else:
                items = _counted(_items(bank, where or ANY, left_out), counts)
                (_write_parquet if format == "parquet" else _write_jsonl)(part, items)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return ExportReport(file=str(file), format=format, entries=dict(counts), left_out=dict(+left_out))


def _of_other_status(bank: Bank) -> dict[str, int]:
    """How many skills and mistakes are not active, by status."""
    sql = (
        "SELECT status, count(*) FROM entries WHERE kind <> 'pair' AND status <> 'active' AND NOT withdrawn"
        " GROUP BY status"
    )
    return {f"{row[0]} entry": row[1] for row in bank.db.rows(sql)}


def _counted(items: Iterable[Item], counts: Counter[str]) -> Iterator[Item]:
    for item in items:
        counts[item.kind] += 1
        yield item


class _Node(NamedTuple):
    """What an entry is called in the file, and what it points at."""

    ref: str
    order: tuple[int, str, str]
    """By which it stands in the file: kind, first words, reference."""
    links: tuple[int, ...]


_KINDS = ("skill", "mistake", "pair")


def _nodes(bank: Bank) -> dict[int, _Node]:
    """Every entry whose addition stands."""
    references = References()
    nodes: dict[int, _Node] = {}
    sql = (
        "SELECT id, kind, content_hash, substr(text, 1, 60) AS words, skill_id, mistake_id, superseded_by FROM entries"
        " WHERE NOT withdrawn ORDER BY kind = 'pair', id"
    )
    for row in bank.db.stream(sql):
        links = tuple(row[name] for name in ("skill_id", "mistake_id", "superseded_by") if row[name] is not None)
        if row["kind"] == "pair":
            sides = nodes.get(row["skill_id"]), nodes.get(row["mistake_id"])
            if sides[0] is None or sides[1] is None:
                continue
            ref = references.pair(sides[0].ref, sides[1].ref)
        else:
            ref = references.wording(row["kind"], row["content_hash"])
        nodes[row["id"]] = _Node(ref, (_KINDS.index(row["kind"]), row["words"] or "", ref), links)
    return nodes


def _items(bank: Bank, where: Query, left_out: Counter[str]) -> Iterator[Item]:
    nodes = _nodes(bank)
    selected: set[int] = set()
    wanted = bank.ids(where)
    while wanted:
        entry_id = wanted.pop()
        if entry_id not in nodes:
            left_out["entry whose addition was undone"] += 1
        elif entry_id not in selected:
            selected.add(entry_id)
            wanted += [link for link in nodes[entry_id].links if link in nodes]
    ordered = iter(sorted(selected, key=lambda entry_id: nodes[entry_id].order))
    problems: set[str] = set()
    while batch := list(islice(ordered, BATCH)):
        entries = {entry.id: entry for entry in bank.entries(ids=batch)}
        evidence = _evidence(bank, batch)
        for entry_id in batch:
            rests_on = evidence.get(entry_id, [])
            problems.update(place.problem_id for place in rests_on)
            yield _item(entries[entry_id], rests_on, nodes)
    yield from _problems(bank, problems)


def _item(entry: Entry, evidence: Sequence[Evidence], nodes: dict[int, _Node]) -> Item:
    content, provenance = entry.content, entry.provenance
    if isinstance(content, Pair):
        said = {"skill": nodes[content.skill_id].ref, "mistake": nodes[content.mistake_id].ref}
    else:
        said = content.model_dump()
    parent = None if provenance is None or provenance.parent is None else nodes.get(provenance.parent)
    above = None if entry.superseded_by is None else nodes.get(entry.superseded_by)
    return Item(
        kind=entry.kind,
        ref=nodes[entry.id].ref,
        **said,
        status=entry.status,
        superseded_by=None if above is None else above.ref,
        split_from=None if parent is None else parent.ref,
        origin=entry.origin,
        tags=entry.tags,
        pinned=entry.pinned,
        flags=entry.flags,
        provenance=None if provenance is None else provenance.model_copy(update={"parent": None}),
        evidence=tuple(evidence),
    )


def _evidence(bank: Bank, ids: Sequence[int]) -> dict[int, list[Evidence]]:
    """The places that each entry rests on itself, without those of entries merged into it, in one order everywhere."""
    found: dict[int, list[Evidence]] = {}
    sql = "SELECT * FROM evidence WHERE active AND entry_id IN (SELECT value FROM json_each(?))"
    for row in bank.db.rows(sql, (json.dumps(list(ids)),)):
        found.setdefault(row["entry_id"], []).append(places.to_evidence(row))
    for rests_on in found.values():
        rests_on.sort(key=lambda e: (e.rollout_id, e.span or (-1, -1), e.quote, e.outcome))
    return found


def _problems(bank: Bank, problem_ids: Iterable[str]) -> Iterator[Item]:
    ordered = iter(sorted(problem_ids))
    sql = (
        "SELECT problem_id, problem, reference FROM problems"
        " WHERE problem_id IN (SELECT value FROM json_each(?)) ORDER BY problem_id"
    )
    while batch := list(islice(ordered, BATCH)):
        for row in bank.db.rows(sql, (json.dumps(batch),)):
            yield Item(kind="problem", **dict(row))


# --------------------------------------------------------------------------------------------------------------- files


def _write_jsonl(part: Path, items: Iterable[Item]) -> None:
    with part.open("w", encoding="utf-8", newline="\n") as stream:
        for item in items:
            stream.write(item.line() + "\n")


NO_LISTS: dict[str, object] = {"tags": [], "flags": [], "evidence": []}


def _write_parquet(part: Path, items: Iterable[Item]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flag = pa.struct([("rule", pa.string()), ("reason", pa.string()), ("released", pa.bool_())])
    provenance = pa.struct([(name, pa.string()) for name in ("miner", "model", "prompt", "file", "detail")])
    texts = ("rollout_id", "problem_id", "outcome", "quote", "source")
    place = pa.struct([*((name, pa.string()) for name in texts), ("span", pa.list_(pa.int64()))])
    special = {
        "tags": pa.list_(pa.string()),
        "pinned": pa.bool_(),
        "flags": pa.list_(flag),
        "provenance": provenance,
        "evidence": pa.list_(place),
    }
    schema = pa.schema([(name, special.get(name, pa.string())) for name in Item.model_fields])
    stream = iter(items)
    with pq.ParquetWriter(part, schema) as writer:
        while rows := [{**NO_LISTS, **item.fields()} for item in islice(stream, BATCH)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
