"""Completions from servers: vLLM's, or any that speaks OpenAI's completions API and takes prompts as token ids.

One request a prompt with all its completions (sgsd.servers). Token ids come back exactly where the server tells them
(vLLM does); of another's text, training takes none, and rollouts and evaluation take the tokens that the text has here
(`retokenised` counts).

In training the servers draw from weights that `pusher` sends them (trl_server.py); without it, from their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from sgsd.errors import ConfigError, ServerError
from sgsd.generate.reply import asked, read_choices
from sgsd.generate.seeds import prompt_seeds
from sgsd.records import Completion
from sgsd.servers import Servers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import SamplingConfig, ServerConfig


class Pusher(Protocol):
    """What sends weights to the servers. Every rank calls it."""

    def push(self) -> None: ...

    def close(self) -> None: ...


class ServerGenerator:
    """Draws from the servers of `config`. With `exact`, replies without token ids are an error."""

    def __init__(
        self,
        config: ServerConfig,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        *,
        pusher: Pusher | None = None,
        exact: bool = False,
        logprobs: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Asks the servers for their model. Raises ServerError where one cannot be reached or serves another."""
        self.config = config
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)
        self.exact = exact
        self.logprobs = logprobs
        self.retokenised = 0
        """Completions whose token ids were made here from their text."""
        self._pusher, self._stale = pusher, pusher is not None
        try:
            self.servers = Servers(config, "completions", pause=pause)
        except ServerError:
            if pusher is not None:
                pusher.close()
            raise

    @property
    def models(self) -> dict[str, str]:
        """What each server, by its address, calls the model."""
        return self.servers.models

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Generator.generate`. Raises ServerError when a prompt's completions cannot be had; then none are."""
        if not all(prompts):
            raise ConfigError("a prompt has no tokens: the chat template rendered nothing")
        if self._stale and self._pusher is not None:
            self._pusher.push()
            self._stale = False
        bodies = [
            asked(prompt, sampling, seed=one, stop_ids=self.stop_ids, logprobs=self.logprobs)
            for prompt, one in zip(prompts, prompt_seeds(seed, len(prompts)), strict=True)
        ]
        progress = None if on_progress is None else lambda: on_progress(1)
        return self.servers.each(bodies, lambda _, content: self._completions(content, sampling), progress)

    def weights_changed(self) -> None:
        """See `Engine.weights_changed`."""
        self._stale = self._pusher is not None

    def close(self) -> None:
        """See `Engine.close`."""
        self.servers.close()
        if self._pusher is not None:
            self._pusher.close()

    def _completions(self, content: bytes, sampling: SamplingConfig) -> list[Completion]:
        choices = read_choices(content, n=sampling.n, max_new_tokens=sampling.max_new_tokens, stop_ids=self.stop_ids)
        completions = []
        for choice in choices:
            ids = choice.token_ids
            if ids is None:
                if self.exact:
                    raise ServerError("the server tells no token ids, which training needs: serve with vLLM")
                ids = self._tokenise(choice.text, choice.truncated)
                self.retokenised += 1
            text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
            completions.append(Completion(ids, text, choice.truncated, choice.logprobs))
        return completions

    def _tokenise(self, text: str, truncated: bool) -> tuple[int, ...]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tuple(int(i) for i in ids) if truncated else (*(int(i) for i in ids), self.stop_ids[0])
