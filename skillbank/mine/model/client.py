"""A model behind any OpenAI-compatible server (vLLM's, hosted ones), as a `Complete`.

`POST {endpoint}/chat/completions`, concurrently and within limits. What may pass (429, 5xx, 408, 409, no connection, no
reply in time, a reply that is none) is tried again, at the next endpoint if there are several; Retry-After lets an
endpoint rest. The key comes from an environment variable and goes nowhere but into the header.

Structured output is asked for as `json_schema`. A server that answers 400 or 422 to it, and never accepted it before,
is asked for `json_object`, then for plain text; the prompt names the format in any case, and `notices` tells. A small
model under a schema may fill its reply with blank lines, which JSON allows: vLLM's server forbids them when started
with `--structured-outputs-config '{"disable_any_whitespace": true}'`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from skillbank.errors import CompletionFailed, EndpointRefuses, EndpointUnavailable, InvalidOption
from skillbank.mine.model.complete import Reply, Request
from skillbank.mine.model.limits import Clock, RateLimit, Sleep, backoff_s, retry_after_s
from skillbank.mine.model.wire import Refused, Unusable, error_message, payload, read_completion, read_usage
from skillbank.records import Record

if TYPE_CHECKING:
    import httpx2

MAX_REPLY_BYTES = 16 * 2**20
"""A longer answer is not read to its end: no chat completion is that long."""
LONGEST_WAIT_S = 600.0
"""A server that asks for a longer pause has none to give now."""
PASSING = {408, 409, 425, 429}
"""The client errors that may pass; so may all from 500 on."""
FOR_EVERY_CALL = {401, 402, 403, 404, 405}
FORMATS = ("json_schema", "json_object", "plain")


class ClientSettings(Record):
    """Where the model is, and how hard it may be asked."""

    endpoints: tuple[str, ...] = Field(min_length=1)
    """Base addresses such as http://127.0.0.1:8000/v1, asked in turn; `/v1` is added to a bare host."""
    model: str = Field(min_length=1)
    """The name that the servers know it by."""
    concurrency: int = Field(16, ge=1, le=4096)
    """Requests under way at once, over all endpoints."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Over all endpoints, repeated ones included."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """Prompts and replies. Before a reply is there: characters / 4 of the prompt, and the most the reply may have."""
    timeout_s: float = Field(300.0, gt=0)
    """From sending a request to its whole reply."""
    attempts: int = Field(6, ge=1)
    """How often a call is tried."""
    longest_backoff_s: float = Field(60.0, ge=0)
    api_key_env: str = "SGSD_API_KEY"
    """The environment variable that holds the key; none is sent when it is empty."""

    @field_validator("endpoints")
    @classmethod
    def _addresses(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_address(endpoint) for endpoint in endpoints)


def _address(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    try:
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        named = False
    if not named or parts.query or parts.fragment:
        raise ValueError(f"{endpoint!r} is no address of a server: write http://HOST:PORT/v1")
    if parts.username or parts.password:
        raise ValueError("an address must not hold a user or a password: put the key into the environment variable")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


class _Endpoint:
    """One server: when it may be asked again, and what it understands."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.rests_until_s = float("-inf")
        self.formats = list(FORMATS)
        """Not refused yet, the best first."""
        self.accepted: set[str] = set()
        self.tokens_field = "max_tokens"


class _Answer(NamedTuple):
    status: int
    headers: httpx2.Headers
    body: bytes


class _TryAgain(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, *, after_s: float | None = None, endpoints: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after_s = after_s
        self.endpoints = endpoints
        """The endpoint's failing, not this call's."""


class ChatClient:
    """Chat completions from one or several servers. See `Complete`; not to be entered twice at the same time."""

    def __init__(
        self,
        settings: ClientSettings,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self._notices: Counter[str] = Counter()
        self._key = os.environ.get(settings.api_key_env, "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise InvalidOption(f"the key in {settings.api_key_env} holds characters that no key has: set it anew")
        self._clock, self._sleep = clock, sleep
        self._rng = rng or random.Random()
        self._endpoints = [_Endpoint(url) for url in settings.endpoints]
        self._turn = 0

    @property
    def model(self) -> str:
        return self.settings.model

    @property
    def concurrency(self) -> int:
        return self.settings.concurrency

    @property
    def notices(self) -> Mapping[str, int]:
        """Attempts that were made again, by reason, and formats that a server refused."""
        return dict(+self._notices)

    async def __aenter__(self) -> Self:
        import httpx2

        settings = self.settings
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._requests = self._limit(settings.requests_per_minute)
        self._tokens = self._limit(settings.tokens_per_minute)
        connections = httpx2.Limits(
            max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency
        )
        self._http = httpx2.AsyncClient(
            limits=connections,
            timeout=httpx2.Timeout(settings.timeout_s, connect=min(15.0, settings.timeout_s), pool=None),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            follow_redirects=False,  # or the key would follow, too
        )
        return self

    def _limit(self, per_minute: int | None) -> RateLimit | None:
        return None if per_minute is None else RateLimit(per_minute, self._clock, self._sleep)

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def __call__(self, request: Request) -> Reply:
        attempts = self.settings.attempts
        failures: Counter[str] = Counter()
        for attempt in range(1, attempts + 1):
            endpoint = await self._next_endpoint()
            try:
                return await self._ask(endpoint, request)
            except _TryAgain as failure:
                self._notices[f"tried again: {failure.reason}"] += attempt < attempts
                failures[failure.reason] += 1
                last = failure
            wait_s = backoff_s(attempt, self.settings.longest_backoff_s, self._rng)
            if last.after_s is not None and last.after_s > LONGEST_WAIT_S:
                break
            if last.endpoints:
                wait_s = max(wait_s, last.after_s or 0.0)
                endpoint.rests_until_s = max(endpoint.rests_until_s, self._clock() + wait_s)
            elif attempt < attempts:
                await self._sleep(wait_s)
        said = ", ".join(f"{count} x {reason}" for reason, count in failures.items())
        if last.endpoints:
            asked = f"; it asks for a pause of {last.after_s:.0f} s" if last.after_s else ""
            raise EndpointUnavailable(f"{endpoint.url} cannot be used now ({said}){asked}: start the build again later")
        raise CompletionFailed(f"no usable answer from {endpoint.url} ({said})")

    async def _next_endpoint(self) -> _Endpoint:
        """The next in turn that does not rest; when all do, the first to be ready again."""
        while True:
            in_turn = self._endpoints[self._turn :] + self._endpoints[: self._turn]
            now_s = self._clock()
            waits_s = [max(0.0, endpoint.rests_until_s - now_s) for endpoint in in_turn]
            if (wait_s := min(waits_s)) > 0:
                await self._sleep(max(0.001, wait_s))
                continue
            step = waits_s.index(wait_s)
            self._turn = (self._turn + step + 1) % len(self._endpoints)
            return in_turn[step]

    async def _ask(self, endpoint: _Endpoint, request: Request) -> Reply:
        """One attempt, in the best format that the endpoint takes."""
        first_refusal: str | None = None
        for form in self._forms(endpoint, request):
            answer = await self._post(endpoint, request, form)
            message = error_message(answer.body, self._key) if answer.status != 200 else ""
            if answer.status == 400 and "max_completion_tokens" in message and endpoint.tokens_field == "max_tokens":
                endpoint.tokens_field = "max_completion_tokens"
                answer = await self._post(endpoint, request, form)
                message = error_message(answer.body, self._key) if answer.status != 200 else ""
            if answer.status in (400, 422) and form not in endpoint.accepted and form != "plain":
                first_refusal = first_refusal or message
                continue
            if answer.status != 200:
                raise self._failure(endpoint, answer, first_refusal or message)
            reply = self._read(answer)
            self._settle_format(endpoint, form)
            return reply
        raise AssertionError("plain text is never passed over")

    def _forms(self, endpoint: _Endpoint, request: Request) -> Iterator[str]:
        yield from ["plain"] if request.reply_schema is None else [*endpoint.formats]

    def _settle_format(self, endpoint: _Endpoint, form: str) -> None:
        endpoint.accepted.add(form)
        if form in endpoint.formats and form != endpoint.formats[0]:
            for refused in endpoint.formats[: endpoint.formats.index(form)]:
                self._notices[f"{endpoint.url} refuses response_format {refused}: asked for {form}"] += 1
            endpoint.formats = endpoint.formats[endpoint.formats.index(form) :]

    async def _post(self, endpoint: _Endpoint, request: Request, form: str) -> _Answer:
        """Sends once, when the limits allow it."""
        expected = request.characters() // 4 + request.max_tokens
        async with self._slots:
            if self._requests is not None:
                await self._requests.take(1)
            taken = None if self._tokens is None else await self._tokens.take(expected)
            answer = await self._send(endpoint, payload(request, self.model, form, endpoint.tokens_field))
        if taken is not None and self._tokens is not None and answer.status == 200:
            used = read_usage(answer.body)
            self._tokens.settle(taken, expected if used is None else used)
        return answer

    async def _send(self, endpoint: _Endpoint, body: dict[str, Any]) -> _Answer:
        import httpx2

        timeout_s = self.settings.timeout_s
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._http.stream("POST", f"{endpoint.url}/chat/completions", json=body) as response,
            ):
                chunks = bytearray()
                async for chunk in response.aiter_bytes():
                    chunks += chunk
                    if len(chunks) > MAX_REPLY_BYTES:
                        raise _TryAgain(f"an answer of more than {MAX_REPLY_BYTES:,} bytes")
                return _Answer(response.status_code, response.headers, bytes(chunks))
        except (TimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout) as error:
            raise _TryAgain(f"no reply within {timeout_s:g} s") from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise _TryAgain("no connection", endpoints=True) from error
        except httpx2.TransportError as error:
            raise _TryAgain("the connection broke") from error
        except httpx2.DecodingError as error:
            raise _TryAgain("an answer that cannot be decoded") from error

    def _failure(self, endpoint: _Endpoint, answer: _Answer, message: str) -> Exception:
        """What an answer other than 200 comes to."""
        status = answer.status
        if status in PASSING or status >= 500:
            after_s = retry_after_s(answer.headers)
            busy = status in (429, 503) or after_s is not None
            return _TryAgain(f"HTTP {status}", after_s=after_s, endpoints=busy)
        said = f"{endpoint.url} answers HTTP {status}: {message}"
        if status in FOR_EVERY_CALL or 300 <= status < 400:
            return EndpointRefuses(
                f"{said}; check the address, the model's name ({self.model}) and the key in {self.settings.api_key_env}"
            )
        return CompletionFailed(said)

    def _read(self, answer: _Answer) -> Reply:
        try:
            return read_completion(answer.body)
        except Unusable as error:
            raise _TryAgain(str(error)) from error
        except Refused as error:
            raise CompletionFailed(f"the model refuses: {error}") from error
