"""What a writer may answer, as a JSON schema, and how its answer is read: thinking off, JSON out, every item checked.

Tolerant of what models do around the object (code fences, a word before it, LaTeX with single backslashes, an end that
is missing), strict about each item. Left out: whether a quote is one (`quotes.py`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from skillbank.mine.model.prompts import CallKind
from skillbank.records import Mistake, Skill

LIMITS = {
    "title": 120,
    "principle": 800,
    "when_to_apply": 400,
    "description": 600,
    "why_it_happens": 400,
    "how_to_avoid": 600,
    "quote": 400,
}
"""Characters. An entry is guidance in a prompt: what is longer is an essay."""


class ReplyInvalid(Exception):
    """A reply with nothing usable in it; the message is for the writer, who gets one chance to repair it."""


# -------------------------------------------------------------------------------------------------------------- schema


def reply_schema(kind: CallKind, right: Sequence[int], wrong: Sequence[int], max_items: int) -> dict[str, Any]:
    """JSON schema of a reply; `right` and `wrong` are the numbers of the attempts that it may cite.

    In the subset that strict modes take: every property required, none besides.
    """
    skill = _object({**_texts("title", "principle", "when_to_apply"), "evidence": _evidence(right)})
    mistake = _object({**_texts("description", "why_it_happens", "how_to_avoid"), "evidence": _evidence(wrong)})
    item = {"skills": skill, "mistakes": mistake, "pairs": _object({"skill": skill, "mistake": mistake})}[kind]
    return _object({kind: {"type": "array", "items": item, "maxItems": max_items}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _texts(*names: str) -> dict[str, Any]:
    return {name: {"type": "string", "minLength": 1, "maxLength": LIMITS[name]} for name in names}


def _evidence(numbers: Sequence[int]) -> dict[str, Any]:
    cited = _object({"attempt": {"type": "integer", "enum": [*numbers]}, **_texts("quote")})
    return {"type": "array", "items": cited, "minItems": 1, "maxItems": max(1, len(numbers))}


# -------------------------------------------------------------------------------------------------------------- records


def _text(name: str) -> Any:
    return Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LIMITS[name])]


class _Item(BaseModel):
    """A part of a reply. Keys that nobody asked for are let pass: they harm nothing."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Cited(_Item):
    """An attempt that an item rests on, by its number, and words from it."""

    attempt: int
    quote: str = ""


class SkillItem(_Item):
    title: _text("title")  # type: ignore[valid-type]
    principle: _text("principle")  # type: ignore[valid-type]
    when_to_apply: _text("when_to_apply")  # type: ignore[valid-type]
    evidence: tuple[Cited, ...] = ()

    def entry(self) -> Skill:
        return Skill(title=self.title, principle=self.principle, when_to_apply=self.when_to_apply)


class MistakeItem(_Item):
    description: _text("description")  # type: ignore[valid-type]
    why_it_happens: _text("why_it_happens")  # type: ignore[valid-type]
    how_to_avoid: _text("how_to_avoid")  # type: ignore[valid-type]
    evidence: tuple[Cited, ...] = ()

    def entry(self) -> Mistake:
        return Mistake(description=self.description, why_it_happens=self.why_it_happens, how_to_avoid=self.how_to_avoid)


class PairItem(_Item):
    skill: SkillItem
    mistake: MistakeItem


Item = SkillItem | MistakeItem | PairItem
_ITEMS: dict[CallKind, type[SkillItem] | type[MistakeItem] | type[PairItem]] = {
    "skills": SkillItem,
    "mistakes": MistakeItem,
    "pairs": PairItem,
}


class ReadReply(BaseModel):
    """A reply as it was read: what is usable, what is wrong with the rest."""

    model_config = ConfigDict(frozen=True)

    items: tuple[Item, ...]
    faults: tuple[str, ...] = ()
    """Of the items that cannot be used, one each."""
    notices: dict[str, int] = Field(default_factory=dict)


# -------------------------------------------------------------------------------------------------------------- reading


def read_reply(text: str, kind: CallKind, max_items: int, *, cut_off: bool = False) -> ReadReply:
    """The items of a reply. `cut_off` says that the token limit ended it.

    Raises ReplyInvalid when there is no such object in it, or every one of its items is faulty.
    """
    why = "it was cut off at the token limit: be shorter" if cut_off else "it is no JSON object"
    found = _find_list(strip_thinking(text), kind)
    if found is None:
        raise ReplyInvalid(f'{why} with a list "{kind}"' if not cut_off else why)
    listed, whole = found
    items: list[Item] = []
    faults: list[str] = []
    for number, value in enumerate(listed, start=1):
        try:
            items.append(_ITEMS[kind].model_validate(_unescaped(value)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the item"
            faults.append(f"{kind[:-1]} {number}: {where}: {first['msg']}")
    if faults and not items:
        raise ReplyInvalid("; ".join(faults))
    if not whole:
        faults.append(why if cut_off else "the JSON breaks off")
    over = len(items) - max_items
    notices = {f"item over the {max_items} of a call": over} if over > 0 else {}
    return ReadReply(items=tuple(items[:max_items]), faults=tuple(faults), notices=notices)


_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


def strip_thinking(text: str) -> str:
    """The text without its thinking: blocks, one that never ends, one whose beginning stood in the prompt."""
    text = _THINKING.sub("", text)
    return text.rpartition("</think>")[2].strip()


def _find_list(text: str, kind: CallKind) -> tuple[list[Any], bool] | None:
    """The list named `kind` in the first object that has one, and whether it is whole.

    A text that is a bare list of objects is taken for it. Of a list that breaks off, the whole items.
    """
    for spelling in (text, _ESCAPE.sub(lambda match: match.group().ljust(2, "\\"), text)):
        for value in _json_values(spelling):
            if isinstance(value, dict) and isinstance(value.get(kind), list):
                return list(value[kind]), True
            if isinstance(value, list) and text.startswith("[") and all(isinstance(item, dict) for item in value):
                return value, True
        if found := re.search(rf'"{kind}"\s*:\s*\[', spelling):
            items = list(_items(spelling, found.end()))
            if items:
                return items, False
    return None


_DECODER = json.JSONDecoder(strict=False)  # line breaks inside strings are common
_OPENING = re.compile(r"[\[{]")
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')
"""What JSON takes for an escape, or a backslash that it takes for none."""
MAX_TRIES = 1000
"""Places at which a text is tried as JSON: prose with thousands of braces is no reply."""


def _json_values(text: str) -> Iterator[Any]:
    """The JSON objects and lists that stand in a text, from its beginning on."""
    position = 0
    for _ in range(MAX_TRIES):
        found = _OPENING.search(text, position)
        if found is None:
            return
        try:
            value, position = _DECODER.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            position = found.start() + 1
        else:
            yield value


def _items(text: str, position: int) -> Iterator[Any]:
    """The objects of a list that begins before `position`, until it breaks off."""
    while found := re.compile(r"[\s,]*(?=\{)").match(text, position):
        try:
            value, position = _DECODER.raw_decode(text, found.end())
        except (ValueError, RecursionError):
            return
        yield value


# A JSON string with single backslashes turns \frac into a form feed and "rac". Such characters never stand in an entry.
_SWALLOWED = {"\b": "\\b", "\f": "\\f", "\r": "\\r", "\t": "\\t"}
_SWALLOWED_PATTERN = re.compile(r"[\b\f\r\t](?=[A-Za-z])")
_SWALLOWED_LINE = re.compile(r"\n(?=(?:abla|eq|otin|ot|mid|parallel)\b)")


def _unescaped(value: Any) -> Any:
    """The value with LaTeX commands put right that JSON took for control characters."""
    if isinstance(value, str):
        value = _SWALLOWED_PATTERN.sub(lambda match: _SWALLOWED[match.group()], value)
        return _SWALLOWED_LINE.sub(lambda _: "\\n", value)
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _unescaped(item) for key, item in value.items()}
    return value


def merged(*counts: dict[str, int]) -> dict[str, int]:
    """The sum of counts, sorted by reason."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
