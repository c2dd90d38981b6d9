"""Servers of the completions API, asked over HTTP: several requests under way at once, over the servers in turn.

What may pass (no connection, no reply in time, 408, 409, 425, 429, 5xx, a reply that is none) is tried again, at the
next server if there are several. What is asked, and what is read of a reply, is the caller's matter: sgsd.generate
draws completions, sgsd.prompt_logprobs hears teachers.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from sgsd.errors import ConfigError, ServerError

if TYPE_CHECKING:
    from sgsd.config import EndpointConfig

PASSING = {408, 409, 425, 429}
"""The client errors that may pass; so may all from 500 on."""
MAX_REPLY_BYTES = 256 * 2**20
LONGEST_PAUSE_S = 60.0
COMPLETIONS = "completions"

T = TypeVar("T")


class Unusable(Exception):
    """A reply, or none, that cannot be read; asking again may help."""


class Servers:
    """The servers of `config`, which all serve one model. `wanted` says in an error what could not be had of them."""

    def __init__(self, config: EndpointConfig, wanted: str, *, pause: Callable[[float], None] = time.sleep) -> None:
        """Asks the servers for their model. Raises ServerError where one cannot be reached or serves another."""
        self.config = config
        self.wanted = wanted
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

    def each(
        self,
        bodies: Sequence[dict[str, Any]],
        read: Callable[[int, bytes], T],
        on_done: Callable[[], None] | None = None,
    ) -> list[T]:
        """What `read(number, reply)` makes of the reply to each body, in their order; `on_done` after each.

        Raises ServerError when one cannot be had; then none are, and what waits is not asked any more.
        """
        found: dict[int, T] = {}
        with ThreadPoolExecutor(min(self.config.concurrency, max(1, len(bodies)))) as workers:
            waiting = {workers.submit(self._turn, number, body, read): number for number, body in enumerate(bodies)}
            try:
                for done in as_completed(waiting):
                    found[waiting[done]] = done.result()
                    if on_done is not None:
                        on_done()
            except BaseException:
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        return [found[number] for number in range(len(bodies))]

    def _turn(self, number: int, body: dict[str, Any], read: Callable[[int, bytes], T]) -> T:
        first = number % len(self.config.urls)
        urls = self.config.urls[first:] + self.config.urls[:first]
        return self.ask(urls, COMPLETIONS, body, lambda content: read(number, content))

    def ask(self, urls: Sequence[str], path: str, body: dict[str, Any], read: Callable[[bytes], T]) -> T:
        """What `read` makes of the reply of one of these servers. A path that begins with `/` lies beside `/v1`.

        `read` raises Unusable for what asking again may mend. Raises ServerError after config.attempts tries.
        """
        failures: Counter[str] = Counter()
        for attempt in range(self.config.attempts):
            url = urls[attempt % len(urls)]
            address = f"{url.removesuffix('/v1')}{path}" if path.startswith("/") else f"{url}/{path}"
            try:
                status, headers, content = self._send(address, body | {"model": self.models[url]})
                if status == 200:
                    return read(content)
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
        raise ServerError(f"no {self.wanted} from {', '.join(urls)} after {self.config.attempts} tries ({said})")

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

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


def parsed(content: bytes) -> dict[str, Any]:
    """The JSON object of a reply. Raises Unusable."""
    try:
        values = json.loads(content)
    except ValueError as error:
        raise Unusable("a reply that is no JSON") from error
    if not isinstance(values, dict):
        raise Unusable("a reply that is no JSON object")
    return values


def read_error(content: bytes, key: str) -> str:
    """What a server says is wrong, in one line without the key."""
    said: Any
    try:
        said = json.loads(content)
        said = said.get("error", said) if isinstance(said, dict) else said
        said = said.get("message", said) if isinstance(said, dict) else said
    except ValueError:
        said = content.decode("utf-8", errors="replace")
    line = " ".join(str(said).split())[:300] or "nothing"
    return line.replace(key, "[key]") if key else line


def _served(content: bytes) -> list[str]:
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
