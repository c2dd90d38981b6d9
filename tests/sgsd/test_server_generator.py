"""Completions from servers, against one that answers as it is told: what is asked, read, tried again and refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main
from sgsd.config import SamplingConfig, ServerConfig
from sgsd.errors import ConfigError, ServerError
from sgsd.generate import Engine, Generator
from sgsd.generate.seeds import prompt_seeds
from sgsd.generate.server import ServerGenerator

from .answering import Answer, serving

END = 2
SAMPLING = SamplingConfig(n=2, max_new_tokens=3, temperature=0.7, top_p=0.9, top_k=5)


class Script:
    """What a server was asked and what it answers: the first `answers` in turn, then good replies."""

    def __init__(self, *answers: Answer | Callable[[dict[str, Any]], Answer]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models: Answer = (200, {}, json.dumps({"data": [{"id": "student"}]}).encode())
        self.busiest = self._busy = 0
        self._lock = threading.Lock()

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any] | None) -> Answer:
        if body is None:
            return self.models if path == "/v1/models" else (404, {}, b"")
        with self._lock:
            self.asked.append(body)
            self.headers.append(headers)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            chosen = self.answers.pop(0) if self.answers else good
        try:
            return chosen(body) if callable(chosen) else chosen
        finally:
            with self._lock:
                self._busy -= 1


def good(body: dict[str, Any], **changes: Any) -> Answer:
    """Completion j of a prompt: its first token plus j, then the end; the last one is cut off."""
    first, n = body["prompt"][0], body["n"]
    choices = []
    for j in range(n):
        cut = j == n - 1
        ids = [first + j] * body["max_tokens"] if cut else [first + j, END]
        told = {"tokens": [f"token_id:{i}" for i in ids], "token_logprobs": [-0.5 - j] * len(ids)}
        choice = {"index": j, "text": "words", "token_ids": ids, "finish_reason": "length" if cut else "stop"}
        choices.append(choice | {"logprobs": told} | changes)
    choices.reverse()  # the order is the index's
    return 200, {}, json.dumps({"choices": choices}).encode()


def changed(**changes: Any) -> Callable[[dict[str, Any]], Answer]:
    return lambda body: good(body, **changes)


@contextmanager
def drawing(tiny: Any, *scripts: Script, **options: Any) -> Iterator[tuple[ServerGenerator, list[float]]]:
    """A generator over one server a script, and the pauses it makes."""
    settings = {key: options.pop(key) for key in list(options) if key in ServerConfig.model_fields}
    pauses: list[float] = []
    with serving(scripts[0]) as first, serving(scripts[-1]) as last:
        urls = (first, last)[: len(scripts)]
        config = ServerConfig.model_validate({"urls": urls, "attempts": 3, "timeout_s": 5.0} | settings)
        generator = ServerGenerator(config, tiny.tokenizer(), [END], pause=pauses.append, **options)
        try:
            yield generator, pauses
        finally:
            generator.close()


def test_what_is_asked_and_what_comes_back(tiny: Any) -> None:
    script = Script()
    done: list[int] = []
    with drawing(tiny, script, logprobs=True, concurrency=1) as (generator, _):
        as_protocol: Generator = generator
        assert isinstance(generator, Engine)
        drawn = as_protocol.generate([[10, 11], [20]], SAMPLING, seed=4, on_progress=done.append)
        assert list(generator.models.values()) == ["student"]
    assert [[c.token_ids for c in row] for row in drawn] == [[(10, END), (11, 11, 11)], [(20, END), (21, 21, 21)]]
    assert [[c.truncated for c in row] for row in drawn] == [[False, True], [False, True]]
    assert drawn[0][1].logprobs == (-1.5, -1.5, -1.5)
    assert [c.text for c in drawn[0]] == [tiny.words[10], " ".join([tiny.words[11]] * 3)], "texts are decoded here"
    assert done == [1, 1]
    expected = {"n": 2, "max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.0}
    expected |= {"repetition_penalty": 1.0, "stop_token_ids": [END], "return_token_ids": True, "stream": False}
    expected |= {"skip_special_tokens": True, "model": "student", "logprobs": 0, "return_tokens_as_token_ids": True}
    seeds = prompt_seeds(4, 2)
    assert script.asked == [
        {"prompt": prompt, "seed": seed} | expected for prompt, seed in zip([[10, 11], [20]], seeds, strict=True)
    ]
    assert len(set(seeds)) == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((500, {}, b"oops"), "HTTP 500"),
        ((429, {}, b"{}"), "HTTP 429"),
        ((200, {}, b"<html>"), "no JSON"),
        ((200, {}, b"[]"), "no JSON object"),
        ((200, {}, b'{"choices": []}'), "0 completions instead of 2"),
        ((200, {}, b'{"choices": [1, 2]}'), "without choices"),
        (changed(token_ids=[5, 5, 5, 5, 5]), "5 tokens, asked were at most 3"),
        (changed(token_ids=[5], finish_reason="stop"), "stops at token 5"),
        (changed(token_ids=[END, 5, END], finish_reason="stop"), "goes on after an end token"),
        (changed(token_ids=["five"]), "token ids that are no numbers"),
        (changed(token_ids=[True, 2]), "token ids that are no numbers"),
        (changed(finish_reason="abort"), "ends with 'abort'"),
        (changed(logprobs={"token_logprobs": [-1.0] * 7}), "not one a token"),
        (changed(logprobs={"token_logprobs": [float("nan")] * 3}), "log-probs"),
    ],
)
def test_what_may_pass_is_tried_again_and_then_told(tiny: Any, fault: Any, reason: str) -> None:
    script = Script(fault)
    with drawing(tiny, script) as (generator, pauses):
        drawn = generator.generate([[10]], SAMPLING, seed=0)
        assert [c.token_ids for c in drawn[0]] == [(10, END), (11, 11, 11)]
        assert len(script.asked) == 2
        assert pauses == [1.0]
        script.answers = [fault] * 3
        with pytest.raises(ServerError, match=r"after 3 tries .*3 x .*") as refused:
            generator.generate([[10]], SAMPLING, seed=0)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_pause_that_is_asked_for_is_made(tiny: Any) -> None:
    with drawing(tiny, Script((429, {"Retry-After": "7"}, b""), (503, {"Retry-After": "900"}, b""))) as (one, pauses):
        one.generate([[10]], SAMPLING, seed=0)
    assert pauses == [7.0, 60.0]


def test_what_cannot_pass_is_told_at_once_without_the_key(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGSD_API_KEY", "secret-1")
    script = Script((400, {}, json.dumps({"error": {"message": "no room for secret-1\nat all"}}).encode()))
    with drawing(tiny, script) as (generator, pauses), pytest.raises(ServerError) as refused:
        generator.generate([[10]], SAMPLING, seed=0)
    assert str(refused.value).endswith("answers HTTP 400: no room for [key] at all; check address, model and limits")
    assert pauses == []
    assert script.headers[0]["authorization" if "authorization" in script.headers[0] else "Authorization"] == (
        "Bearer secret-1"
    )


def test_a_server_with_too_short_a_context_is_told_at_once(tiny: Any) -> None:
    script = Script(changed(token_ids=[5], finish_reason="length", logprobs=None))
    with drawing(tiny, script) as (generator, pauses), pytest.raises(ServerError, match="off after 1 of 3 tokens"):
        generator.generate([[10]], SAMPLING, seed=0)
    assert pauses == []


def test_a_server_that_hangs_or_dribbles_is_given_up(tiny: Any) -> None:
    def hangs(body: dict[str, Any]) -> Answer:
        time.sleep(0.5)
        return good(body)

    script = Script(*[hangs] * 2)
    with (
        drawing(tiny, script, attempts=2, timeout_s=0.1) as (generator, _),
        pytest.raises(ServerError, match=r"2 x no reply within 0\.1 s"),
    ):
        generator.generate([[10]], SAMPLING, seed=0)


def test_nothing_half_comes_back(tiny: Any) -> None:
    """One prompt of many fails: the call fails, and what waits is not asked any more."""
    script = Script(good, (400, {}, b"no"))
    with drawing(tiny, script, concurrency=1) as (generator, _), pytest.raises(ServerError):
        generator.generate([[10 + i] for i in range(20)], SAMPLING, seed=0)
    assert len(script.asked) < 20


def test_servers_take_turns_and_stand_in_for_each_other(tiny: Any) -> None:
    left, right = Script(), Script((500, {}, b""), (500, {}, b""))
    with drawing(tiny, left, right, concurrency=1) as (generator, _):
        drawn = generator.generate([[10], [11], [12], [13]], SAMPLING, seed=0)
    assert [row[0].token_ids[0] for row in drawn] == [10, 11, 12, 13]
    assert [body["prompt"] for body in right.asked] == [[11], [13]]
    assert [body["prompt"] for body in left.asked] == [[10], [11], [12], [13]]


def test_requests_under_way_are_bounded(tiny: Any) -> None:
    def slow(body: dict[str, Any]) -> Answer:
        time.sleep(0.05)
        return good(body)

    script = Script(*[slow] * 12)
    with drawing(tiny, script, concurrency=3) as (generator, _):
        generator.generate([[10]] * 12, SAMPLING, seed=0)
    assert 1 < script.busiest <= 3


def test_ids_among_logprobs_are_read_and_text_alone_is_tokenised_or_refused(tiny: Any) -> None:
    with drawing(tiny, Script(changed(token_ids=None))) as (generator, _):
        assert generator.generate([[10]], SAMPLING, seed=0)[0][0].token_ids == (10, END)
        assert generator.retokenised == 0
    text = changed(token_ids=None, logprobs=None, text="What is 3")
    words = tuple(tiny.words.index(word) for word in ("What", "is", "3"))
    with drawing(tiny, Script(text)) as (generator, _):
        (drawn,) = generator.generate([[10]], SAMPLING, seed=0)
        assert [c.token_ids for c in drawn] == [(*words, END), words]
        assert [c.truncated for c in drawn] == [False, True]
        assert generator.retokenised == 2
    with drawing(tiny, Script(text), exact=True) as (generator, _), pytest.raises(ServerError, match="no token ids"):
        generator.generate([[10]], SAMPLING, seed=0)


@pytest.mark.parametrize(
    ("models", "wanted", "said"),
    [
        ([{"id": "a"}, {"id": "b"}], None, "serves several, but a, b: name one of them"),
        ([{"id": "a"}], "c", "serves no 'c', but a: name one of them"),
        ([], None, "serves several, but nothing"),
        ("junk", None, "does not say what it serves"),
    ],
)
def test_the_model_is_found_or_asked_for(tiny: Any, models: Any, wanted: str | None, said: str) -> None:
    script = Script()
    script.models = (200, {}, json.dumps({"data": models}).encode())
    with pytest.raises(ServerError, match=said), drawing(tiny, script, model=wanted):
        pass


def test_a_server_without_a_list_of_models_is_asked_for_the_named_one(tiny: Any) -> None:
    script = Script()
    script.models = (404, {}, b"")
    with drawing(tiny, script, model="mine") as (generator, _):
        generator.generate([[10]], SAMPLING, seed=0)
    assert script.asked[0]["model"] == "mine"


def test_no_server_is_one_line(tiny: Any) -> None:
    config = ServerConfig(urls=("http://127.0.0.1:9",))
    with pytest.raises(ServerError, match=r"no server at http://127\.0\.0\.1:9/v1 \(no connection\)"):
        ServerGenerator(config, tiny.tokenizer(), [END])


def test_no_prompts_and_empty_ones(tiny: Any) -> None:
    with drawing(tiny, Script()) as (generator, _):
        assert generator.generate([], SAMPLING, seed=0) == []
        with pytest.raises(ConfigError, match="no tokens"):
            generator.generate([[]], SAMPLING, seed=0)


def test_weights_are_pushed_once_before_the_next_draw(tiny: Any) -> None:
    class Pushes:
        def __init__(self) -> None:
            self.count, self.closed = 0, False

        def push(self) -> None:
            self.count += 1

        def close(self) -> None:
            self.closed = True

    pushes = Pushes()
    with drawing(tiny, Script(), pusher=pushes) as (generator, _):
        assert pushes.count == 0
        generator.generate([[10]], SAMPLING, seed=0)
        generator.generate([[10]], SAMPLING, seed=1)
        assert pushes.count == 1
        generator.weights_changed()
        generator.weights_changed()
        assert pushes.count == 1
        generator.generate([[10]], SAMPLING, seed=2)
        assert pushes.count == 2
    assert pushes.closed


def test_an_evaluation_by_a_server_says_so_and_goes_on(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps({"problem": f"What is {i} ?", "answer": "1"}) + "\n" for i in range(4)))
    refused = Script(*[good] * 2, (400, {}, b"{}"))
    out = tmp_path / "numbers.json"
    with serving(refused) as url:
        command = ["eval", "--model", str(tiny_folder), "--data", str(data), "--server", url, "--max-new-tokens", "3"]
        command += ["--batch-size", "1", "--out", str(out), "--json"]
        assert main(command) == 1  # after two of four batches
        assert "HTTP 400" in capsys.readouterr().err
        assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["evaluation"]["model"] == {"name": str(tiny_folder), "served": ["student"]}
    assert told["evaluation"]["engine"] == {"name": "server"}
    assert told["problems"] == 4
    prompts = [tuple(body["prompt"]) for body in refused.asked]
    assert len(prompts) == 2 + 1 + 2  # the refused one is asked again, the first two are not
    assert len(set(prompts)) == 4
