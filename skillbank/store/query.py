"""Selecting entries: criteria into SQL, rows into records.

A `Query` is what the command line, its bulk forms and every other view of a bank select by. `Query.parse` reads it from
one line, `kind:mistake flag:* utility:<0 evidence:>=3 "final answer"`, and `str(query)` writes that line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from sqlite3 import Row
from typing import Any, Literal, get_args

from pydantic import ValidationError

from skillbank.errors import BankCorrupt, InvalidOption
from skillbank.records import Entry, Kind, Record, Status
from skillbank.store.events import KINDS, Event, State

Sort = Literal["id", "newest", "evidence", "changed", "utility", "relevance"]

COLUMNS = (
    "e.id, e.kind, e.content, e.status, e.origin, e.version, e.revision, e.superseded_by, e.evidence_count, "
    "e.pinned, e.tags, e.flags, e.provenance"
)
ORDER: Mapping[Sort, str] = {  # relevance is matching.py's
    "id": "e.id",
    "newest": "e.id DESC",
    "evidence": "e.evidence_count DESC, e.id",
    "changed": "e.revision DESC, e.id",
    "utility": "used.utility DESC NULLS LAST, e.id",
}
SIDES: dict[Kind, str] = {"skill": "skill_id", "mistake": "mistake_id"}
"""The kinds that are retrieved, and the column that names each in a pair."""

Comparison = Literal["<", "<=", "=", ">=", ">"]


class Bound(Record):
    """A number that is compared with one of an entry's."""

    comparison: Comparison
    value: float

    def __str__(self) -> str:
        sign = "" if self.comparison == "=" else self.comparison
        return f"{sign}{self.value:g}"


class Query(Record):
    """What entries must fulfil; whatever is not given does not matter."""

    kind: Kind | None = None
    status: Status | None = None
    origin: str | None = None
    flag: str | None = None
    """The rule of a flag that nobody released; `*` for any."""
    tag: str | None = None
    """`*` for any."""
    pinned: bool | None = None
    used: bool | None = None
    """Whether training ever retrieved it."""
    problem: str | None = None
    """Id of a problem that it rests on, among others."""
    rollout: str | None = None
    """Id of a rollout that it rests on, among others."""
    evidence: tuple[Bound, ...] = ()
    """Number of places."""
    utility: tuple[Bound, ...] = ()
    """(helpful - harmful) / uses, in [-1, 1]; entries that were never used have none."""
    revision: tuple[Bound, ...] = ()
    """The revision that last changed it."""
    text: str | None = None
    """All its words occur (in a pair: in one of its two sides)."""

    @classmethod
    def parse(cls, line: str) -> Query:
        """Reads `key:value` and words. Raises InvalidOption that names what cannot be read and what could be."""
        found: dict[str, Any] = {}
        words: list[str] = []
        for key, value, text in tokens(line):
            if not key:
                words.append(value)
            elif key not in cls.model_fields or key == "text":
                keys = ", ".join(name for name in cls.model_fields if name != "text")
                raise InvalidOption(f'{text} is no criterion: use {keys}, or quote the words "{text}"')
            elif key in _NUMBERS:
                found[key] = (*found.get(key, ()), bound(key, value))
            elif key in found:
                raise InvalidOption(f"{key} is given twice, as {found[key]} and {value}: give it once")
            else:
                found[key] = _truth(key, value) if key in _TRUTHS else value
        if words:
            found["text"] = " ".join(words)
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            choices = ", ".join(get_args(Kind if key == "kind" else Status))
            raise InvalidOption(f"{key}:{found[key]} is none of {choices}") from error

    def __str__(self) -> str:
        parts = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None or value == () or name == "text":
                continue
            if name in _NUMBERS:
                parts += [f"{name}:{bound}" for bound in value]
            elif name in _TRUTHS:
                parts.append(f"{name}:{'yes' if value else 'no'}")
            else:
                parts.append(f"{name}:{_quoted(value)}")
        if self.text is not None:
            parts.append(_quoted(self.text) if ":" in self.text else self.text)
        return " ".join(parts)


_NUMBERS = ("evidence", "utility", "revision")
_TRUTHS = ("pinned", "used")
_TOKEN = re.compile(
    r'(?P<key>[a-z_]+):(?:"(?P<quoted>[^"]*)"|(?P<value>\S+))|"(?P<phrase>[^"]*)"|(?P<word>\S+)', re.IGNORECASE
)
_BOUND = re.compile(r"(?P<comparison><=|>=|<|>|=)?(?P<value>-?\d+(?:\.\d+)?)")


def tokens(line: str) -> Iterator[tuple[str, str, str]]:
    """The parts of a line: (key or "" for words, value, as it stands there)."""
    for match in _TOKEN.finditer(line):
        value = next(text for name in ("value", "quoted", "word", "phrase") if (text := match[name]) is not None)
        yield match["key"] or "", value, match[0]


def bound(key: str, text: str) -> Bound:
    """Reads `<0.5`. Raises InvalidOption."""
    match = _BOUND.fullmatch(text)
    if match is None:
        raise InvalidOption(f"{key}:{text} is no number: write {key}:3, {key}:>=3 or {key}:<0.5")
    return Bound.model_validate({"comparison": match["comparison"] or "=", "value": float(match["value"])})


def _truth(key: str, text: str) -> bool:
    if text.lower() not in ("yes", "no", "true", "false"):
        raise InvalidOption(f"{key}:{text} is neither yes nor no: write {key}:yes or {key}:no")
    return text.lower() in ("yes", "true")


def _quoted(text: str) -> str:
    return f'"{text}"' if re.search(r"\s", text) or not text else text


# ------------------------------------------------------------------------------------------------------------- to SQL

_FOUND = "WITH found AS MATERIALIZED (SELECT rowid AS id FROM entry_text WHERE entry_text MATCH ?)"
_PAIRS_FOUND = " UNION ALL ".join(
    f"SELECT p.id FROM found f CROSS JOIN entries p INDEXED BY pairs_by_{kind} ON p.kind = 'pair' AND p.{column} = f.id"
    for kind, column in SIDES.items()
)
_RESTING = (
    "SELECT x.entry_id FROM evidence x WHERE x.{0} = ?1 AND x.active UNION "
    "SELECT p.id FROM evidence x JOIN entries p ON p.kind = 'pair' AND x.entry_id IN (p.skill_id, p.mistake_id)"
    " WHERE x.{0} = ?1 AND x.active"
)


_USED = (
    "LEFT JOIN (SELECT CAST(id AS INTEGER) AS id, max(utility) AS utility FROM entry_usage GROUP BY 1) used"
    " ON used.id = e.id"
)
"""One row an entry as in the view, grouped anew: SQLite then makes an index of it, which a view's computed id has none
of, and does not read all of it for each entry."""


def selection(where: Query, ids: Iterable[int] | None = None, *, sort: Sort = "id") -> tuple[str, list[Any]]:
    """FROM and WHERE of a selection of entries `e`, with what `sort` needs joined to it, and the parameters."""
    source = ["entries e"]
    parameters: list[Any] = []
    if sort == "utility":
        source.append(_USED)
    clauses = ["1"]
    for clause, values in _clauses(where):
        clauses.append(clause)
        parameters += values
    if ids is not None:
        clauses.append(AMONG)
        parameters.append(json_list(ids))
    return f"{' '.join(source)} WHERE {' AND '.join(clauses)}", parameters


def _matching(where: Query) -> str:
    """The ids of entries in which all words occur; a pair has its sides' words."""
    if where.kind is None:
        return f"{_FOUND} SELECT id FROM found UNION ALL {_PAIRS_FOUND}"
    return f"{_FOUND} {_PAIRS_FOUND if where.kind == 'pair' else 'SELECT id FROM found'}"


def _clauses(where: Query) -> Iterable[tuple[str, list[Any]]]:
    if where.text is not None:
        yield f"e.id IN ({_matching(where)})", [match_expression(where.text)]
    for column in ("kind", "status", "origin"):
        if (value := getattr(where, column)) is not None:
            yield f"e.{column} = ?", [value]
    if where.flag is not None:
        open_flag = "SELECT 1 FROM json_each(e.flags) f WHERE NOT f.value ->> 'released'"
        rule, values = ("", []) if where.flag == "*" else (" AND f.value ->> 'rule' = ?", [where.flag])
        yield f"e.flags <> '[]' AND EXISTS ({open_flag}{rule})", values
    if where.tag is not None:
        if where.tag != "*":
            yield "? IN (SELECT value FROM json_each(e.tags))", [where.tag]
        yield "e.tags <> '[]'", []
    if where.pinned is not None:
        yield "e.pinned" if where.pinned else "NOT e.pinned", []
    if where.used is not None:
        yield f"e.id {'' if where.used else 'NOT '}IN (SELECT id FROM entry_usage)", []
    if where.utility:
        all_hold = " AND ".join(f"utility {bound.comparison} ?" for bound in where.utility)
        yield f"e.id IN (SELECT id FROM entry_usage WHERE {all_hold})", [bound.value for bound in where.utility]
    for column, identity in (("problem_id", where.problem), ("rollout_id", where.rollout)):
        if identity is not None:
            yield f"e.id IN ({_RESTING.format(column).replace('?1', '?')})", [identity, identity]
    for column, bounds in (
        ("e.evidence_count", where.evidence),
        ("e.revision", where.revision),
    ):
        for bound in bounds:
            yield f"{column} {bound.comparison} ?", [bound.value]


def retrievable(kind: Kind, ids: Iterable[int] | None = None) -> tuple[str, list[Any]]:
    """FROM, WHERE and parameters of the entries `e` of a kind that retrieval may return (store.py says which)."""
    where = "e.kind = ? AND e.retrievable"
    if ids is None:
        return f"entries e WHERE {where}", [kind]
    return f"entries e WHERE {where} AND {AMONG}", [kind, json_list(ids)]


AMONG = "e.id IN (SELECT value FROM json_each(?))"


def json_list(ids: Iterable[int]) -> str:
    return f"[{','.join(str(int(i)) for i in ids)}]"


def match_expression(text: str) -> str:
    """Any text as a query of FTS5: its words, quoted, all of which must occur."""
    words = re.findall(r"\w+", text)
    return " ".join(f'"{word}"' for word in words) or '""'


# --------------------------------------------------------------------------------------------------------- to records


def to_entry(row: Row) -> Entry:
    """Raises BankCorrupt when the row is no entry."""
    values = dict(row)
    with _telling("entry", values["id"]):
        values["content"] = KINDS[values["kind"]].model_validate_json(values["content"])
        for name in ("tags", "flags"):
            values[name] = () if values[name] == "[]" else json.loads(values[name])
        if values["provenance"] is not None:
            values["provenance"] = json.loads(values["provenance"])
        return Entry(**values)


def to_event(row: Row) -> Event:
    """Raises BankCorrupt when the row is no event."""
    values = dict(row)
    before, after = values.pop("before"), values.pop("after")
    with _telling("event", values["id"]):
        return Event(
            **values,
            before=None if before is None else State.model_validate_json(before),
            after=State.model_validate_json(after),
        )


@contextmanager
def _telling(what: str, number: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:  # no JSON, not its kind's fields, no kind at all
        raise BankCorrupt(f"{what} {number} cannot be read: look the bank over with `sgsd bank doctor`") from error
