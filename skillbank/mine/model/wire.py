"""The wire format of chat completions: a request as JSON, an answer read back, an error in one line.

An answer that is none raises `Unusable`: it may be another one next time. Left out: everything that `Reply` has no use
for, such as a separate field with the model's reasoning.
"""

from __future__ import annotations

import json
from typing import Any

from skillbank.mine.model.complete import Reply, Request

MAX_MESSAGE = 300
"""Characters of a server's message that an error shows."""


class Unusable(Exception):
    """An answer of 200 that is no chat completion."""


class Refused(Exception):
    """The model declined to answer."""


def payload(request: Request, model: str, form: str, tokens_field: str) -> dict[str, Any]:
    """The body of a request; `form` is json_schema, json_object or plain."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [message.model_dump() for message in request.messages],
        tokens_field: request.max_tokens,
    }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.seed is not None:
        body["seed"] = request.seed
    if form == "json_schema":
        schema = {"name": request.schema_name, "schema": request.reply_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def read_completion(body: bytes) -> Reply:
    """The reply in an answer. Raises Unusable, or Refused."""
    answer = _object(body)
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Unusable("an answer without choices[0].message") from error
    if content is None and isinstance(message.get("refusal"), str):
        raise Refused(one_line(message["refusal"]))
    if isinstance(content, list):  # in parts, as some servers write it
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if content is not None and not isinstance(content, str):
        raise Unusable("an answer whose content is no text")
    finish = choice.get("finish_reason")
    return Reply(
        # None is a reply that was all reasoning; half a surrogate pair could neither be stored nor hashed
        text=(content or "").encode("utf-8", "backslashreplace").decode("utf-8"),
        prompt_tokens=_count(answer, "prompt_tokens"),
        completion_tokens=_count(answer, "completion_tokens"),
        finish_reason=finish if isinstance(finish, str) else None,
    )


def read_usage(body: bytes) -> int | None:
    """Tokens of prompt and reply, None when the answer does not say."""
    try:
        answer = _object(body)
    except Unusable:
        return None
    counts = (_count(answer, "prompt_tokens"), _count(answer, "completion_tokens"))
    return None if counts[0] is None or counts[1] is None else counts[0] + counts[1]


def error_message(body: bytes, key: str) -> str:
    """What a server says is wrong, in one line, without the key."""
    text = body.decode("utf-8", errors="replace")
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and name in said:
            said = said[name]
    if isinstance(said, dict):
        said = said.get("message")
    line = one_line(said if isinstance(said, str) else text)
    return (line.replace(key, "***") if key else line) or "no message"


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE]}..."


def _object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unusable("an answer that is no JSON") from error
    if not isinstance(answer, dict):
        raise Unusable("an answer that is no JSON object")
    return answer


def _count(answer: dict[str, Any], name: str) -> int | None:
    usage = answer.get("usage")
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
