"""The completions API's words: what is asked of a server for one prompt, and what is read from its reply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sgsd.errors import ServerError
from sgsd.servers import Unusable, parsed

if TYPE_CHECKING:
    from sgsd.config import SamplingConfig

TOKEN_ID = "token_id:"
"""vLLM writes tokens so among log-probs, when asked for ids."""


@dataclass(frozen=True)
class Choice:
    """One completion of a reply."""

    token_ids: tuple[int, ...] | None
    """None where the server tells only text."""
    text: str
    truncated: bool
    logprobs: tuple[float, ...] | None


def asked(
    prompt: Sequence[int], sampling: SamplingConfig, *, seed: int, stop_ids: Sequence[int], logprobs: bool
) -> dict[str, Any]:
    """The request for all completions of one prompt, but for the model's name.

    Every setting that a server might take from the model's own generation settings is said. Fields beyond OpenAI's
    (top_k and what follows it) are vLLM's; servers that do not know them pass them over.
    """
    body: dict[str, Any] = {
        "prompt": list(prompt),
        "n": sampling.n,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
        "stream": False,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": list(stop_ids),
        "return_token_ids": True,
        "skip_special_tokens": True,
    }
    return body | ({"logprobs": 0, "return_tokens_as_token_ids": True} if logprobs else {})


def read_choices(content: bytes, *, n: int, max_new_tokens: int, stop_ids: Sequence[int]) -> list[Choice]:
    """The completions of a reply, in their order.

    Raises Unusable for anything but `n` whole ones, ServerError where the server's context is too short: vLLM's does
    not refuse then, but cuts off.
    """
    choices = parsed(content).get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Unusable("a reply without choices")
    if len(choices) != n:
        raise Unusable(f"{len(choices)} completions instead of {n}")
    ordered = sorted(choices, key=lambda choice: choice["index"] if isinstance(choice.get("index"), int) else 0)
    return [_read(choice, max_new_tokens, stop_ids) for choice in ordered]


def _read(choice: Mapping[str, Any], max_new_tokens: int, stop_ids: Sequence[int]) -> Choice:
    finish, text = choice.get("finish_reason"), choice.get("text")
    if finish not in ("stop", "length") or not isinstance(text, str):
        raise Unusable(f"a completion that ends with {finish!r}")
    told = choice.get("logprobs")
    told = told if isinstance(told, dict) else {}
    ids = _ids(choice.get("token_ids"), told)
    if ids is not None:
        if not 1 <= len(ids) <= max_new_tokens:
            raise Unusable(f"a completion of {len(ids)} tokens, asked were at most {max_new_tokens}")
        if finish == "length" and len(ids) < max_new_tokens:
            raise ServerError(
                f"a server cuts completions off after {len(ids)} of {max_new_tokens} tokens: give it a longer context "
                "(vLLM: --max-model-len), or lower max_new_tokens"
            )
        if finish == "stop" and ids[-1] not in stop_ids:
            raise Unusable(f"a completion that stops at token {ids[-1]}, which is none of the model's end tokens")
        if any(i in stop_ids for i in ids[:-1]):
            raise Unusable("a completion that goes on after an end token")
    return Choice(ids, text, finish == "length", _logprobs(told, ids))


def _ids(listed: Any, told: Mapping[str, Any]) -> tuple[int, ...] | None:
    if listed is None:
        tokens = told.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(t, str) and t.startswith(TOKEN_ID) for t in tokens):
            return None
        listed = [int(token[len(TOKEN_ID) :]) for token in tokens if token[len(TOKEN_ID) :].isdecimal()]
    if not isinstance(listed, list) or not all(type(i) is int and i >= 0 for i in listed):
        raise Unusable("token ids that are no numbers")
    return tuple(listed)


def _logprobs(told: Mapping[str, Any], ids: tuple[int, ...] | None) -> tuple[float, ...] | None:
    values = told.get("token_logprobs")
    if values is None or ids is None:
        return None
    if not isinstance(values, list) or len(values) != len(ids):
        raise Unusable("log-probs that are not one a token")
    if not all(isinstance(v, int | float) and math.isfinite(v) and v <= 1e-3 for v in values):
        raise Unusable("log-probs that are none")
    return tuple(float(v) for v in values)
