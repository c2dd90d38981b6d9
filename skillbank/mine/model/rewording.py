"""One wording for a cluster of duplicates, written by a model: it lists for each member whether it is covered.

Calls go through the ledger: a member's words, the prompt, the model and the settings make the key, so a dedupe that was
killed repeats none. A reply that cannot be used is repaired once; if that fails too, the cluster has no wording, and
the call is made again the next time. Left out: which entries are duplicates, and what becomes of them (`dedupe.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skillbank.errors import CompletionFailed
from skillbank.mine.model.background import Background
from skillbank.mine.model.complete import Complete, Message, Reply, Request
from skillbank.mine.model.ledger import FinishedCall, Ledger
from skillbank.mine.model.prompts import Prompts, load_prompts
from skillbank.mine.model.reply import LIMITS, ReplyInvalid, strip_thinking
from skillbank.records import Mistake, Record, Skill, content_hash

KIND = "merge"
"""Of these calls in the ledger."""
MOST_MEMBERS = 24
"""Of one call. In a larger cluster the others are not covered, and stay until the next time."""


class RewordingSettings(Record):
    """How wordings are asked for."""

    prompts: tuple[Path, ...] = ()
    """Files named like those of `skillbank/mine/model/prompts`, or folders of such, in their place."""
    max_tokens: int = Field(1024, ge=1)
    """Of a reply, thinking included."""
    temperature: float | None = Field(0.0, ge=0)
    """None leaves it to the model's own settings."""
    seed: int | None = None


class Wording(Record):
    """What a model wrote for a cluster."""

    content: Skill | Mistake
    covered: tuple[int, ...]
    """Ids of the members that it can stand for."""
    model: str
    prompt: str
    """Hash of what the model was asked with."""


class Rewordings(Record):
    """What came of asking for wordings."""

    wordings: dict[int, Wording]
    """By the id that the cluster was asked for under."""
    calls: int
    calls_made: int
    """Those that the ledger did not have."""
    failed: dict[int, str]
    """Clusters without a wording, and why."""
    prompt_tokens: int = 0
    """Of the calls made now."""
    completion_tokens: int = 0


Members = Mapping[int, Skill | Mistake]
"""Entry id -> its words, the best first; all of one kind."""


class _Call:
    """One cluster's call."""

    def __init__(self, members: Members, settings: RewordingSettings, prompts: Prompts, model: str) -> None:
        shown = list(members.items())[:MOST_MEMBERS]
        # In an order that does not hang on today's evidence: the same cluster gives the same call.
        self.members = sorted(shown, key=lambda member: (content_hash(member[1]), member[0]))
        self.model = model
        self.content_type = type(self.members[0][1])
        self.fields = [
            name
            for name in self.content_type.model_fields
            if any(getattr(content, name) for _, content in self.members)
        ]
        schema = _schema(self.fields, len(self.members))
        read = [prompts[name].model_dump() for name in (KIND, "repair")]
        self.prompt_hash = _hash([read, _schema([*self.content_type.model_fields], 0)])[:16]
        matters = settings.model_dump(mode="json", exclude={"prompts"})
        words = [content.model_dump() for _, content in self.members]
        self.key = _hash([KIND, words, self.prompt_hash, model, matters])
        kind = "skill" if self.content_type is Skill else "mistake"
        self.request = Request(
            messages=prompts[KIND].messages(members=_shown(self.members), kind=kind, form=_form(self.fields)),
            schema_name=KIND,
            reply_schema=schema,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
        )

    def wording(self, replies: Sequence[str]) -> Wording:
        """What the first usable reply says. Raises ReplyInvalid."""
        error = ReplyInvalid("there is no reply")
        for text in replies:
            try:
                return self._read(text)
            except ReplyInvalid as invalid:
                error = invalid
        raise error

    def _read(self, text: str) -> Wording:
        try:
            reply = _Reply.model_validate(_object(strip_thinking(text)))
            content = self.content_type.model_validate({name: reply.entry.get(name, "") for name in self.fields})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ReplyInvalid(f"{'.'.join(map(str, first['loc'])) or 'the object'}: {first['msg']}") from error
        for name in self.fields:
            words = getattr(content, name)
            if not words.strip() or len(words) > LIMITS[name]:
                raise ReplyInvalid(f"{name} has {len(words)} characters: it must have 1 to {LIMITS[name]}")
        covers = {line.member: line.covered for line in reply.members}
        if missing := [number for number in range(1, len(self.members) + 1) if number not in covers]:
            raise ReplyInvalid(f"entry {missing[0]} is not in the list of members: list every one")
        covered = tuple(entry_id for number, (entry_id, _) in enumerate(self.members, start=1) if covers[number])
        return Wording(content=content, covered=covered, model=self.model, prompt=self.prompt_hash)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    member: int
    covered: bool


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    entry: dict[str, str]
    members: tuple[_Line, ...]


def reword(
    clusters: Mapping[int, Members],
    complete: Complete,
    ledger: Ledger,
    settings: RewordingSettings | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Rewordings:
    """Asks for one wording for each cluster; `on_progress(done, total)`.

    Not to be called inside a transaction of the ledger's bank: finished calls are committed as they come. Raises
    EndpointUnavailable and EndpointRefuses; the ledger keeps what was finished. Raises InvalidOption when a prompt
    template cannot be used.
    """
    settings = settings or RewordingSettings()
    prompts = load_prompts(settings.prompts)
    calls = {number: _Call(members, settings, prompts, complete.model) for number, members in clusters.items()}
    known = {key: call for key, call in ledger.get([c.key for c in calls.values()]).items() if call.state == "done"}
    to_make = {call.key: call for call in calls.values() if call.key not in known}
    finished = dict(known)
    if to_make:
        with Background(complete, ledger) as background:
            futures = [background.submit(partial(_make, call, prompts)) for call in to_make.values()]
            for done, future in enumerate(as_completed(futures), start=1):
                finished[future.result().key] = future.result()
                if on_progress is not None:
                    on_progress(done, len(futures))
    wordings: dict[int, Wording] = {}
    failed: dict[int, str] = {}
    for number, call in calls.items():
        try:
            wordings[number] = call.wording(finished[call.key].replies)
        except ReplyInvalid as invalid:
            failed[number] = finished[call.key].error or str(invalid)
    made = [finished[key] for key in to_make]
    return Rewordings(
        wordings=wordings,
        calls=len(calls),
        calls_made=len(made),
        failed=failed,
        prompt_tokens=sum(call.prompt_tokens or 0 for call in made),
        completion_tokens=sum(call.completion_tokens or 0 for call in made),
    )


def calls_to_make(
    clusters: Mapping[int, Members], model: str, ledger: Ledger, settings: RewordingSettings | None = None
) -> int:
    """How many calls `reword` would make: those that the ledger does not have."""
    settings = settings or RewordingSettings()
    prompts = load_prompts(settings.prompts)
    keys = {_Call(members, settings, prompts, model).key for members in clusters.values()}
    return len(keys) - sum(call.state == "done" for call in ledger.get(keys).values())


async def _make(call: _Call, prompts: Prompts, complete: Complete) -> FinishedCall:
    """Makes a call; with one repair when the reply cannot be used. One that fails alone is dead."""
    started = time.perf_counter()
    replies: list[Reply] = []
    error: str | None = None
    try:
        replies.append(await complete(call.request))
        try:
            call.wording([replies[0].text])
        except ReplyInvalid as invalid:
            fault = "it was cut off: be shorter" if replies[0].finish_reason == "length" else str(invalid)
            replies.append(await complete(_repair(call.request, replies[0], fault, prompts)))
        call.wording([reply.text for reply in replies])
    except CompletionFailed as failure:
        error = str(failure)
    except ReplyInvalid as invalid:
        error = f"reply invalid after a repair: {invalid}"
    return FinishedCall(
        key=call.key,
        kind=KIND,
        rollouts=(),
        prompt_hash=call.prompt_hash,
        model=call.model,
        state="done" if error is None else "dead",
        replies=tuple(reply.text for reply in replies),
        error=error,
        prompt_tokens=sum(reply.prompt_tokens or 0 for reply in replies),
        completion_tokens=sum(reply.completion_tokens or 0 for reply in replies),
        seconds=round(time.perf_counter() - started, 3),
    )


def _repair(request: Request, reply: Reply, fault: str, prompts: Prompts) -> Request:
    said = strip_thinking(reply.text)[:4000] or "(an empty reply)"
    asked = prompts["repair"].messages(error=fault)
    return request.model_copy(update={"messages": (*request.messages, Message(role="assistant", content=said), *asked)})


# ------------------------------------------------------------------------------------------------------- the words


def _shown(members: Sequence[tuple[int, Skill | Mistake]]) -> str:
    blocks = []
    for number, (_, content) in enumerate(members, start=1):
        fields = "\n".join(f"{name}: {words}" for name, words in content.model_dump().items() if words)
        blocks.append(f'<entry number="{number}">\n{fields.replace("</entry>", "< /entry>")}\n</entry>')
    return "\n\n".join(blocks)


def _form(fields: Sequence[str]) -> str:
    entry = dict.fromkeys(fields, "...")
    return json.dumps({"entry": entry, "members": [{"member": 1, "covered": True}, {"member": 2, "covered": False}]})


def _schema(fields: Sequence[str], members: int) -> dict[str, Any]:
    texts = {name: {"type": "string", "minLength": 1, "maxLength": LIMITS[name]} for name in fields}
    number = {"type": "integer", "enum": list(range(1, members + 1))}
    line = _strict({"member": number, "covered": {"type": "boolean"}})
    lines = {"type": "array", "items": line, "minItems": members, "maxItems": members}
    return _strict({"entry": _strict(texts), "members": lines})


def _strict(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


_BACKSLASH = re.compile(r'\\\\|\\(?=[bfrt][A-Za-z])|\\(?!["\\/bfnrtu])')
"""A pair, which is as it should be; or one that begins a LaTeX command, which JSON would take for something else."""
_DECODER = json.JSONDecoder(strict=False)


def _object(text: str) -> Any:
    """The first JSON object in a text that has an entry. Raises ReplyInvalid."""
    text = _BACKSLASH.sub(r"\\\\", text)
    for found in list(re.finditer(r"\{", text))[:100]:
        try:
            value, _ = _DECODER.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "entry" in value:
            return value
    raise ReplyInvalid('it is no JSON object with "entry" and "members"')


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
