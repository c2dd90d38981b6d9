"""A transformers model in this process as a writer: what it draws is what the generator draws, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sgsd.complete import LocalModel
from sgsd.config import ModelConfig, SamplingConfig
from sgsd.generate.transformers import TransformersGenerator
from sgsd.models import load_student
from sgsd.prompts import plain_user_text, render
from skillbank.errors import CompletionFailed
from skillbank.mine.model.complete import Message, Reply, Request
from skillbank.mine.model.extract import ExtractSettings, ModelMiner
from skillbank.mine.model.ledger import Ledger
from skillbank.records import Rollout
from skillbank.store.database import Database

PROBLEMS = [f"What is {operation} of {code}?" for operation in ("zorp", "blick", "dax") for code in (527, 314)]


@pytest.fixture(scope="module")
def arena() -> tuple[Any, Any]:
    return load_student(ModelConfig(name_or_path="arena", dtype="float32"), device="cpu")


def request(text: str, **settings: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), max_tokens=24, **settings)


def ask(local: LocalModel, requests: Sequence[Request]) -> list[Reply]:
    async def all_of_them() -> list[Reply]:
        async with local:
            return await asyncio.gather(*(local(one) for one in requests))

    return asyncio.run(all_of_them())


def test_replies_are_the_generators(arena: tuple[Any, Any]) -> None:
    model, tokenizer = arena
    texts = [plain_user_text(problem) for problem in PROBLEMS]
    prompts = [render(tokenizer, text) for text in texts]
    drawn = TransformersGenerator(model, tokenizer).generate(
        prompts, SamplingConfig(max_new_tokens=24, temperature=0.0), seed=0
    )
    replies = ask(LocalModel(model, tokenizer, name="arena", batch_size=4), [request(text) for text in texts])
    assert [reply.text for reply in replies] == [row[0].text for row in drawn]
    assert [reply.prompt_tokens for reply in replies] == [len(ids) for ids in prompts]
    assert [reply.completion_tokens for reply in replies] == [len(row[0].token_ids) for row in drawn]
    assert [reply.finish_reason for reply in replies] == ["length" if row[0].truncated else "stop" for row in drawn]


def test_requests_that_wait_together_are_drawn_together(
    arena: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, batches = TransformersGenerator.generate, []

    def counting(self: Any, prompts: Any, sampling: SamplingConfig, **rest: Any) -> Any:
        batches.append((len(prompts), sampling.temperature, rest["seed"]))
        return generate(self, prompts, sampling, **rest)

    monkeypatch.setattr(TransformersGenerator, "generate", counting)
    local = LocalModel(*arena, name="arena", batch_size=4)
    asked = [*[request(problem) for problem in PROBLEMS], request("again", temperature=0.7, seed=3)]
    assert len(ask(local, asked)) == 7
    assert batches == [(4, 0.0, 0), (2, 0.0, 0), (1, 0.7, 3)]
    assert (local.model, local.concurrency) == ("arena", 4)


def test_the_systems_words_open_the_users_turn(arena: tuple[Any, Any]) -> None:
    _, tokenizer = arena
    local = LocalModel(*arena, name="arena")
    system, user = Message(role="system", content="What is"), Message(role="user", content="zorp of 527?")
    assert local._prompt([system, user]) == render(tokenizer, "What is\n\nzorp of 527?")


def test_a_prompt_without_room_for_a_reply_fails_alone(arena: tuple[Any, Any]) -> None:
    with pytest.raises(CompletionFailed, match=r"prompt of \d+ tokens and a reply of up to 24 exceed the 1024 tokens"):
        ask(LocalModel(*arena, name="arena"), [request("9 " * 2000)])


def test_a_model_that_breaks_is_told_to_whoever_asked(arena: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TransformersGenerator, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(LocalModel(*arena, name="arena"), [request("What is zorp of 527?")])


def test_mining_with_a_local_model_accounts_for_every_rollout(arena: tuple[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "skills.md").write_text("=== user ===\n$problem\n$attempts\nWrite JSON.")
    rollouts = [
        Rollout(
            rollout_id=str(n),
            problem_id="p",
            problem=PROBLEMS[0],
            completion=f"zorp means triple {n}",
            outcome="correct",
        )
        for n in range(3)
    ]
    ledger = Ledger(Database(tmp_path / "bank.sqlite", create=True))
    local = LocalModel(*arena, name="arena")
    settings = ExtractSettings(prompts=(tmp_path,), max_tokens=24)
    (mined,) = ModelMiner(local, settings, ledger).mine([rollouts])
    assert {fate.fate for fate in mined.fates} == {"dead"}  # it solves problems and writes no JSON
    (dead,) = ledger.dead()
    assert len(dead.replies) == 2
    assert all(dead.replies)
    ledger.close()
