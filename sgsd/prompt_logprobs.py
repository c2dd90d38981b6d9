"""What a teacher behind a vLLM server says of completions: its prompt log-probs, asked for by token ids.

A server that is sent [prompt + completion] as a prompt tells, at each of its tokens, the log-prob of that token and the
k likeliest ones with theirs: at temperature 1, over the whole vocabulary, before any sampling setting. One token is
drawn besides, which vLLM does not go without. Whole distributions cannot be had.

`_T` completion tokens of a row, `_K` likeliest tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sgsd.errors import ConfigError, ServerError
from sgsd.layout import ScoreRow
from sgsd.servers import Servers, Unusable, parsed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import EndpointConfig

IMPOSSIBLE_NATS = -9999.0
"""What vLLM writes for a probability of 0, which JSON has no number for."""


@dataclass(frozen=True)
class Told:
    """Of one row, float32 and int64, on the CPU."""

    logp_T: Tensor
    """Of the completion's own tokens."""
    ids_TK: Tensor
    """The likeliest tokens, best first."""
    logp_TK: Tensor


class ServedTeacher:
    """A model behind the servers of `config`, of which the `k` likeliest tokens are asked (0: none)."""

    def __init__(self, config: EndpointConfig, k: int, *, pause: Callable[[float], None] = time.sleep) -> None:
        """Raises ServerError where a server cannot be reached or serves another model."""
        self.k = k
        self.servers = Servers(config, "log-probs", pause=pause)

    def read(self, rows: Sequence[ScoreRow]) -> list[Told]:
        """What the teacher says of each row's completion. Raises ServerError when that cannot be had of one."""
        bodies = [self._asked([*row.prompt_ids, *row.completion_ids]) for row in rows]
        return self.servers.each(bodies, lambda number, content: read_told(content, rows[number], self.k))

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        """Raise ConfigError when a server cuts `text` into other token ids than `tokenizer`."""
        ours = [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        body = {"prompt": text, "add_special_tokens": False}
        for url in self.servers.config.urls:
            theirs = self.servers.ask([url], "/tokenize", body, _read_tokens)
            for n, (here, there) in enumerate(zip_longest(ours, theirs)):
                if here != there:
                    raise ConfigError(
                        f"{url} serves another tokenizer: token {n} of a text is {_named(there)} there, the student's "
                        f"{_named(here, tokenizer)}; serve opd.teacher there, or a teacher of the student's family"
                    )

    def close(self) -> None:
        """Give the connections back."""
        self.servers.close()

    def _asked(self, ids: list[int]) -> dict[str, Any]:
        return {"prompt": ids, "prompt_logprobs": self.k, "max_tokens": 1, "temperature": 0.0, "stream": False}


def read_told(content: bytes, row: ScoreRow, k: int) -> Told:
    """The completion's part of a reply. Raises Unusable; ServerError where the server does not tell what is asked."""
    choices = parsed(content).get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Unusable("a reply without its one choice")
    told = choices[0].get("prompt_logprobs")
    if told is None:
        raise ServerError("the server tells no prompt_logprobs: serve opd.teacher with vLLM")
    whole = len(row.prompt_ids) + len(row.completion_ids)
    if not isinstance(told, list) or len(told) != whole:
        raise Unusable(f"prompt log-probs that are not one for each of {whole} tokens")
    tokens = zip(told[len(row.prompt_ids) :], row.completion_ids, strict=True)
    found = [_read_token(entries, token, k) for entries, token in tokens]
    shape = (len(found), k)
    return Told(
        logp_T=torch.tensor([logp for logp, _ in found], dtype=torch.float32),
        ids_TK=torch.tensor([[i for i, _ in top] for _, top in found], dtype=torch.int64).reshape(shape),
        logp_TK=torch.tensor([[logp for _, logp in top] for _, top in found], dtype=torch.float32).reshape(shape),
    )


def _read_token(entries: Any, token: int, k: int) -> tuple[float, list[tuple[int, float]]]:
    """The token's own log-prob, and (id, log-prob) of the k likeliest. Ids are the keys, as text, in JSON."""
    if not isinstance(entries, dict) or not all(key.isdecimal() for key in entries):
        raise Unusable("prompt log-probs that are none")
    own = entries.get(str(token))
    if own is None:
        raise Unusable(f"prompt log-probs without that of token {token} itself")
    top: dict[int, tuple[int, float]] = {}
    for key, entry in entries.items():
        if (rank := _rank(entry)) <= k:
            top[rank] = (int(key), _logp(entry))
    if len(top) < k:
        raise ServerError(f"the server tells {len(top)} of the {k} likeliest tokens: lower opd.k")
    return _logp(own), [top[rank] for rank in range(1, k + 1)]


def _rank(entry: Any) -> int:
    rank = entry.get("rank") if isinstance(entry, Mapping) else None
    if type(rank) is not int or rank < 1:
        raise Unusable("a log-prob without a rank")
    return rank


def _logp(entry: Mapping[str, Any]) -> float:
    value = entry.get("logprob")
    if not isinstance(value, int | float) or not math.isfinite(value) or value > 1e-3:
        raise Unusable("a log-prob that is none")
    if value <= IMPOSSIBLE_NATS:
        raise ServerError("the teacher gives a token a probability of 0: serve it without a mask over its logits")
    return float(value)


def _read_tokens(content: bytes) -> list[int]:
    tokens = parsed(content).get("tokens")
    if not isinstance(tokens, list) or not all(type(i) is int for i in tokens):
        raise Unusable("no token ids")
    return tokens


def _named(token: int | None, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    if token is None:
        return "none"
    return f"{token} ({tokenizer.convert_ids_to_tokens(token)!r})" if tokenizer else str(token)
