"""Completions from servers: vLLM's, or any that speaks OpenAI's completions API and takes prompts as token ids.

`POST {url}/completions`, one request a prompt with all its completions, several under way at once, over the servers in
turn. What may pass (no connection, no reply in time, 408, 409, 429, 5xx, a reply that is none) is tried again, at the
next server if there are several. Token ids come back exactly where the server tells them (vLLM does); of another's
text, training takes none, and rollouts and evaluation take the tokens that the text has here (`retokenised` counts).

In training the servers draw from weights that `pusher` sends them (trl_server.py); without it, from their own.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import httpx2

from sgsd.errors import ConfigError, ServerError
from sgsd.generate.reply import Unusable, asked, read_choices, read_error
from sgsd.generate.seeds import prompt_seeds
from sgsd.records import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import SamplingConfig, ServerConfig

PASSING = {408, 409, 425, 429}
"""The client errors that may pass; so may all from 500 on."""
MAX_REPLY_BYTES = 256 * 2**20
LONGEST_PAUSE_S = 60.0


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
        self._pause = pause
        self._key = os.environ.get(config.api_key_env, "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise ConfigError(f"the key in {config.api_key_env} holds characters that no key has: set it anew")
        slots = httpx2.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        self._http = httpx2.Client(
            limits=slots,
            timeout=httpx2.Timeout(config.timeout_s, connect=min(15.0, config.timeout_s), pool=None),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            follow_redirects=False,  # or the key would follow, too
            trust_env=not all(_is_local(url) for url in config.urls),  # a proxy does not know this machine
        )
        try:
            self.models = {url: self._model_of(url) for url in config.urls}
        except ServerError:
            self.close()
            raise

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
        drawn: dict[int, list[Completion]] = {}
        with ThreadPoolExecutor(min(self.config.concurrency, max(1, len(bodies)))) as workers:
            waiting = {
                workers.submit(self._complete, number, body, sampling): number for number, body in enumerate(bodies)
            }
            try:
                for done in as_completed(waiting):
                    drawn[waiting[done]] = done.result()
                    if on_progress is not None:
                        on_progress(1)
            except BaseException:
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        return [drawn[number] for number in range(len(bodies))]

    def weights_changed(self) -> None:
        """See `Engine.weights_changed`."""
        self._stale = self._pusher is not None

    def close(self) -> None:
        """See `Engine.close`."""
        self._http.close()
        if self._pusher is not None:
            self._pusher.close()

    # One prompt

    def _complete(self, number: int, body: dict[str, Any], sampling: SamplingConfig) -> list[Completion]:
        failures: Counter[str] = Counter()
        for attempt in range(self.config.attempts):
            url = self.config.urls[(number + attempt) % len(self.config.urls)]
            try:
                status, headers, content = self._send(f"{url}/completions", body | {"model": self.models[url]})
                if status == 200:
                    return self._completions(content, sampling)
                if status not in PASSING and status < 500:
                    said = read_error(content, self._key)
                    raise ServerError(f"{url} answers HTTP {status}: {said}; check address, model and limits")
                failures[f"HTTP {status}"] += 1
                wait_s = _retry_after_s(headers)
            except Unusable as error:
                failures[str(error)] += 1
                wait_s = None
            if attempt + 1 < self.config.attempts:
                self._pause(min(LONGEST_PAUSE_S, 2.0**attempt if wait_s is None else wait_s))
        said = ", ".join(f"{count} x {reason}" for reason, count in failures.items())
        raise ServerError(
            f"no completions from {', '.join(self.config.urls)} after {self.config.attempts} tries ({said})"
        )

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

    # The wire

    def _send(self, url: str, body: dict[str, Any] | None) -> tuple[int, httpx2.Headers, bytes]:
        """Send once. Raises Unusable when no whole answer comes in time."""
        limit_s = self.config.timeout_s
        deadline_s = time.monotonic() + limit_s
        try:
            with self._http.stream("GET" if body is None else "POST", url, json=body) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if time.monotonic() > deadline_s:  # a server that dribbles meets every single time-out
                        raise Unusable(f"no whole reply within {limit_s:g} s")
                    if len(content) > MAX_REPLY_BYTES:
                        raise Unusable(f"a reply of more than {MAX_REPLY_BYTES:,} bytes")
                return response.status_code, response.headers, bytes(content)
        except httpx2.TimeoutException as error:
            raise Unusable(f"no reply within {limit_s:g} s") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            kind = "no connection" if isinstance(error, httpx2.ConnectError) else "the connection broke"
            raise Unusable(kind) from error

    def _model_of(self, url: str) -> str:
        """The name of the model to ask for: the configured one, where the server knows it, or its only one."""
        try:
            status, _, content = self._send(f"{url}/models", None)
        except Unusable as error:
            raise ServerError(f"no server at {url} ({error}): start one, or give its address") from error
        try:
            if status != 200:
                raise Unusable(f"HTTP {status}: {read_error(content, self._key)}")
            names = _served(content)
        except Unusable as error:
            if self.config.model is not None:  # not every server lists its models
                return self.config.model
            raise ServerError(f"{url} does not say what it serves ({error}): name the model") from error
        if self.config.model is None and len(names) == 1:
            return names[0]
        if self.config.model in names:
            return self.config.model
        wanted = "several" if self.config.model is None else f"no {self.config.model!r}"
        raise ServerError(f"{url} serves {wanted}, but {', '.join(names) or 'nothing'}: name one of them")


def _served(content: bytes) -> list[str]:
    from sgsd.generate.reply import parsed

    listed = parsed(content).get("data")
    if not isinstance(listed, list):
        raise Unusable("no list of models")
    return [str(model["id"]) for model in listed if isinstance(model, dict) and "id" in model]


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    given = headers.get("retry-after", "")
    return float(given) if given.isdecimal() else None
