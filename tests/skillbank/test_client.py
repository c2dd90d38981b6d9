"""The client against a server that answers, refuses, stumbles, lies and hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from skillbank.errors import CompletionFailed, EndpointRefuses, EndpointUnavailable, InvalidOption
from skillbank.mine.model import client as client_module
from skillbank.mine.model.client import ChatClient, ClientSettings
from skillbank.mine.model.complete import FromFunction, Message, Reply, Request
from skillbank.mine.model.limits import RateLimit, backoff_s, retry_after_s
from skillbank.mine.model.wire import Refused, Unusable, error_message, read_completion, read_usage

from .scripted_server import Answer, Asked, Script, ScriptedServer, completion, in_turn, refusal

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
REQUEST = Request(
    messages=(Message(role="system", content="Be brief."), Message(role="user", content="JSON, please")),
    schema_name="numbers",
    reply_schema=SCHEMA,
    max_tokens=50,
    temperature=0.5,
    seed=7,
)
KEY = "sk-very-secret-1234"


class Time:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Asking:
    """Requests to the endpoints, under a clock of our own; client and time are kept to look at."""

    def __init__(self, *endpoints: str, **settings: Any) -> None:
        self.time = Time()
        self.client = ChatClient(
            ClientSettings(endpoints=endpoints, model="tiny", **settings),
            clock=self.time.clock,
            sleep=self.time.sleep,
            rng=random.Random(0),
        )

    def __call__(self, *requests: Request) -> list[Reply]:
        async def ask() -> list[Reply]:
            async with self.client as client:
                return await asyncio.gather(*(client(request) for request in requests))

        return asyncio.run(ask())


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


# ------------------------------------------------------------------------------------------------------------- requests


def test_a_request_is_what_the_servers_know_and_a_reply_what_we_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGSD_API_KEY", KEY)
    with ScriptedServer(in_turn(completion('{"a": 1}', finish="length", tokens=(30, 9)))) as server:
        (reply,) = Asking(server.url)(REQUEST)
    assert reply == Reply(text='{"a": 1}', prompt_tokens=30, completion_tokens=9, finish_reason="length")
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "JSON, please"}],
        "max_tokens": 50,
        "temperature": 0.5,
        "seed": 7,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "numbers", "schema": SCHEMA, "strict": True},
        },
    }


def test_what_is_not_asked_for_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGSD_API_KEY", raising=False)
    monkeypatch.setenv("OTHER", KEY)
    plain = Request(messages=REQUEST.messages, temperature=None)
    with ScriptedServer(in_turn(completion("hello"))) as server:
        Asking(server.url)(plain)
        Asking(server.url, api_key_env="OTHER")(plain)
    assert "Authorization" not in server.asked[0].headers
    assert server.asked[1].headers["Authorization"] == f"Bearer {KEY}"
    assert sorted(server.asked[0].body) == ["max_tokens", "messages", "model"]


def test_a_key_with_a_line_break_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGSD_API_KEY", f"{KEY}\nX: 1")
    with pytest.raises(InvalidOption, match="SGSD_API_KEY") as caught:
        Asking("http://127.0.0.1:1")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://models.example/api/v3/", "https://models.example/api/v3"),
    ],
)
def test_addresses(given: str, read: str) -> None:
    assert ClientSettings(endpoints=(given,), model="m").endpoints == (read,)


@pytest.mark.parametrize(
    "given",
    ["127.0.0.1:8000", "ftp://host/v1", "http://", "http://user:pw@host/v1", "http://host:port/v1", "http://h?k=1"],
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(ValidationError, match="address"):
        ClientSettings(endpoints=(given,), model="m")


# -------------------------------------------------------------------------------------------- what passes, and what not


@pytest.mark.parametrize(
    ("stumble", "reason"),
    [
        pytest.param(refusal(500, "oops"), "HTTP 500", id="500"),
        pytest.param(refusal(502, "bad gateway"), "HTTP 502", id="502"),
        pytest.param(refusal(408, "slow"), "HTTP 408", id="408"),
        pytest.param(refusal(409, "conflict"), "HTTP 409", id="409"),
        pytest.param(refusal(429, "too many"), "HTTP 429", id="429"),
        pytest.param(Answer(b"<html>hello</html>"), "an answer that is no JSON", id="garbage"),
        pytest.param(Answer(b"\xff\xfe\x00"), "an answer that is no JSON", id="bytes"),
        pytest.param(Answer(b'{"choices": [{"mess'), "an answer that is no JSON", id="truncated JSON"),
        pytest.param(Answer(b'{"choices": []}'), "an answer without choices[0].message", id="no choice"),
        pytest.param(Answer(b'[{"choices": 1}]'), "an answer that is no JSON object", id="a list"),
        pytest.param(Answer(b'{"choices": [', missing=100), "the connection broke", id="cut off"),
        pytest.param(
            Answer(b"zz", headers={"Content-Encoding": "gzip"}), "an answer that cannot be decoded", id="gzip"
        ),
        pytest.param(Answer(drop=True), "the connection broke", id="dropped"),
        pytest.param(Answer(hang=True), "no reply within 1.5 s", id="hangs"),
    ],
)
def test_what_may_pass_is_tried_again(stumble: Answer, reason: str) -> None:
    with ScriptedServer(in_turn(stumble, stumble, completion("well"))) as server:
        asking = Asking(server.url, timeout_s=1.5 if stumble.hang else 60)
        (reply,) = asking(REQUEST)
    assert reply.text == "well"
    assert len(server.asked) == 3
    assert dict(asking.client.notices) == {f"tried again: {reason}": 2}
    first, second = asking.time.slept
    assert 0.5 <= first <= 1
    assert 1 <= second <= 2


def test_what_never_passes_ends_in_one_line() -> None:
    answers = [refusal(500, "oops"), Answer(b"?"), refusal(500, "oops")]
    with ScriptedServer(in_turn(*answers)) as server, pytest.raises(CompletionFailed) as caught:
        Asking(server.url, attempts=3)(REQUEST)
    assert str(caught.value) == f"no usable answer from {server.url} (2 x HTTP 500, 1 x an answer that is no JSON)"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, CompletionFailed),
        (413, CompletionFailed),
        (401, EndpointRefuses),
        (403, EndpointRefuses),
        (404, EndpointRefuses),
        (302, EndpointRefuses),
    ],
)
def test_other_client_errors_are_final(status: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGSD_API_KEY", KEY)
    request = REQUEST.model_copy(update={"reply_schema": None})
    with ScriptedServer(in_turn(refusal(status, f"no\n such thing: {KEY}"))) as server, pytest.raises(error) as caught:
        Asking(server.url)(request)
    assert len(server.asked) == 1
    assert f"HTTP {status}: no such thing: ***" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_nobody_there_ends_the_run() -> None:
    asking = Asking(closed_port(), attempts=4)
    with pytest.raises(EndpointUnavailable, match=r"cannot be used now \(4 x no connection\).*start the build again"):
        asking(REQUEST)
    assert len(asking.time.slept) == 3
    assert sum(asking.time.slept) <= 1 + 2 + 4


def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_REPLY_BYTES", 1000)
    with (
        ScriptedServer(in_turn(completion("x" * 5000))) as server,
        pytest.raises(CompletionFailed, match="more than 1,000 bytes"),
    ):
        Asking(server.url, attempts=2)(REQUEST)
    assert len(server.asked) == 2


# ---------------------------------------------------------------------------------------------------------- Retry-After


def test_retry_after_lets_the_endpoint_rest_for_all_calls() -> None:
    with ScriptedServer(in_turn(refusal(429, "slow down", Retry_After="40"), completion("well"))) as server:
        asking = Asking(server.url, concurrency=1)
        replies = asking(REQUEST, REQUEST, REQUEST)
    assert [reply.text for reply in replies] == ["well"] * 3
    assert len(server.asked) == 4
    assert asking.time.now >= 1040


def test_retry_after_as_a_date_is_read_by_the_servers_clock() -> None:
    headers = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2015 07:29:30 GMT"}
    assert retry_after_s(headers) == 90
    assert retry_after_s({**headers, "retry-after": "Wed, 21 Oct 2015 07:00:00 GMT"}) == 0
    assert retry_after_s({"retry-after": "2.5"}) == 2.5
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({}) is None


def test_a_pause_too_long_to_wait_for_ends_the_run() -> None:
    script = in_turn(refusal(429, "quota", Retry_After="86400"))
    with ScriptedServer(script) as server, pytest.raises(EndpointUnavailable, match="asks for a pause of 86400 s"):
        Asking(server.url)(REQUEST)
    assert len(server.asked) == 1


@given(st.text(), st.text())
def test_any_header_is_a_wait_or_none(value: str, date: str) -> None:
    wait_s = retry_after_s({"retry-after": value, "date": date})
    assert wait_s is None or wait_s >= 0


def test_backoff_doubles_up_to_its_bound() -> None:
    rng = random.Random(1)
    for attempt, most in [(1, 1), (2, 2), (3, 4), (7, 60), (5000, 60)]:
        waits = [backoff_s(attempt, 60, rng) for _ in range(200)]
        assert most / 2 <= min(waits) < 0.6 * most
        assert 0.9 * most < max(waits) <= most


# ---------------------------------------------------------------------------------------------------- structured output


def refuses(*forms: str) -> Script:
    """A server that answers 400 to some response formats."""

    def script(asked: Asked) -> Answer:
        form = asked.body.get("response_format", {"type": "plain"})["type"]
        return refusal(400, f"response_format {form} is not supported") if form in forms else completion(form)

    return script


@pytest.mark.parametrize(
    ("forms", "taken", "asked"),
    [
        ((), "json_schema", [1, 1]),
        (("json_schema",), "json_object", [2, 1]),
        (("json_schema", "json_object"), "plain", [3, 1]),
    ],
)
def test_a_server_is_asked_for_what_it_takes_and_that_is_remembered(
    forms: tuple[str, ...], taken: str, asked: list[int]
) -> None:
    with ScriptedServer(refuses(*forms)) as server:
        asking = Asking(server.url)
        counts = []
        for _ in asked:
            before = len(server.asked)
            (reply,) = asking(REQUEST)
            counts.append(len(server.asked) - before)
            assert reply.text == taken
    assert counts == asked
    told = {f"{server.url} refuses response_format {form}: asked for {taken}": 1 for form in forms}
    assert dict(asking.client.notices) == told


def test_a_400_after_the_format_was_accepted_is_this_requests_own() -> None:
    with ScriptedServer(in_turn(completion("{}"), refusal(400, "the prompt is too long"))) as server:
        asking = Asking(server.url)
        asking(REQUEST)
        with pytest.raises(CompletionFailed, match="HTTP 400: the prompt is too long"):
            asking(REQUEST)
    assert len(server.asked) == 2


def test_a_400_to_every_format_is_told_in_the_first_ones_words() -> None:
    with ScriptedServer(in_turn(refusal(400, "first"), refusal(400, "other"))) as server:
        asking = Asking(server.url)
        with pytest.raises(CompletionFailed, match="HTTP 400: first"):
            asking(REQUEST)
        assert len(server.asked) == 3
        with pytest.raises(CompletionFailed, match="HTTP 400: other"):
            asking(REQUEST)
    assert server.asked[3].body["response_format"]["type"] == "json_schema"  # nothing was learnt from it


def test_the_newer_name_of_the_token_limit() -> None:
    def script(asked: Asked) -> Answer:
        old = "max_tokens" in asked.body
        return refusal(400, "Use 'max_completion_tokens' instead.") if old else completion("{}")

    with ScriptedServer(script) as server:
        asking = Asking(server.url)
        asking(REQUEST)
        asking(REQUEST)
    assert [sorted({"max_tokens", "max_completion_tokens"} & set(asked.body)) for asked in server.asked] == [
        ["max_tokens"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]
    assert server.asked[1].body["response_format"]["type"] == "json_schema"


# ------------------------------------------------------------------------------------------- many calls, many endpoints


def test_endpoints_take_turns_and_one_that_is_away_is_passed_over() -> None:
    with ScriptedServer(in_turn(completion("one"))) as one, ScriptedServer(in_turn(completion("two"))) as two:
        replies = Asking(one.url, two.url)(*[REQUEST] * 10)
        assert len(replies) == 10
        assert (len(one.asked), len(two.asked)) == (5, 5)
        asking = Asking(one.url, closed_port(), two.url)
        replies = asking(*[REQUEST] * 9)
    assert {reply.text for reply in replies} == {"one", "two"}
    assert len(one.asked) + len(two.asked) == 19
    assert asking.client.notices["tried again: no connection"] >= 1


def test_as_many_requests_at_once_as_allowed_over_connections_that_stay() -> None:
    together = threading.Barrier(3)

    def script(asked: Asked) -> Answer:
        together.wait(20)  # fails unless three are here at once
        return completion("{}")

    with ScriptedServer(script) as server:
        assert len(Asking(server.url, concurrency=3)(*[REQUEST] * 12)) == 12
    assert server.most_at_once == 3
    assert server.connections == 3


def test_limits_of_a_minute() -> None:
    with ScriptedServer(in_turn(completion("{}"))) as server:
        asking = Asking(server.url, requests_per_minute=4, concurrency=2)
        asking(*[REQUEST] * 10)
        assert asking.time.now == 1120  # 4, 4 and 2

        expected = REQUEST.characters() // 4 + 50
        asking = Asking(server.url, tokens_per_minute=2 * expected, concurrency=1)
        asking(*[REQUEST] * 3)  # a reply of 15 tokens leaves room for a third at once
        assert asking.time.now == 1000
        asking = Asking(server.url, tokens_per_minute=expected, concurrency=1)
        asking(REQUEST, REQUEST)
        assert asking.time.now == 1060


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(1, 40), st.floats(0, 30)), max_size=30))
def test_no_minute_has_more_than_the_limit(limit: int, asked: Sequence[tuple[int, float]]) -> None:
    time = Time()
    taken: list[tuple[float, int]] = []

    async def ask() -> None:
        rate = RateLimit(limit, time.clock, time.sleep)
        for amount, pause in asked:
            time.now += pause
            await rate.take(amount)
            taken.append((time.now, min(amount, limit)))

    asyncio.run(ask())
    assert len(taken) == len(asked)
    for end, _ in taken:
        assert sum(amount for at, amount in taken if end - 60 < at <= end) <= limit


def test_a_function_is_a_model_too() -> None:
    def function(request: Request) -> Reply:
        return Reply(text=request.messages[-1].content.upper())

    async def ask() -> list[Reply]:
        async with FromFunction(function, model="upper", concurrency=2) as complete:
            assert (complete.model, complete.concurrency) == ("upper", 2)
            return await asyncio.gather(*(complete(REQUEST) for _ in range(5)))

    assert [reply.text for reply in asyncio.run(ask())] == ["JSON, PLEASE"] * 5


# ----------------------------------------------------------------------------------------------------------------- wire


def test_reasoning_in_a_field_of_its_own_is_left_out() -> None:
    answer = completion("fine", reasoning_content="long thoughts").body
    assert read_completion(answer).text == "fine"
    assert read_completion(completion(None, reasoning_content="never ended").body).text == ""
    parts: Any = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]
    assert read_completion(completion(parts).body).text == "in parts"
    assert read_completion(completion("\ud800").body).text == "\\ud800"


def test_a_model_that_declines_is_not_asked_again() -> None:
    script = in_turn(completion(None, refusal="I cannot help with that."))
    with ScriptedServer(script) as server, pytest.raises(CompletionFailed, match="the model refuses: I cannot help"):
        Asking(server.url)(REQUEST)
    assert len(server.asked) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "error", "refusal"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_a_reply_or_refused(body: bytes) -> None:
    with contextlib.suppress(Unusable, Refused):
        assert isinstance(read_completion(body).text, str)
    assert read_usage(body) is None or read_usage(body) >= 0  # type: ignore[operator]
    message = error_message(body, KEY)
    assert message
    assert "\n" not in message
    assert len(message) <= 310
