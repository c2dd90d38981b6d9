"""Mining against a real engine: vLLM's OpenAI server with the arena's model, structured output included.

The model knows how to solve the arena's problems and nothing else, so what it writes as entries is without sense. That
the replies hold to the schema, and that every rollout is accounted for, is what is tested.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from sgsd.arena.settings import sampling
from sgsd.arena.tasks import load_problems
from sgsd.config import ModelConfig, VerifierConfig
from sgsd.generate.transformers import TransformersGenerator
from sgsd.models import load_student
from sgsd.rollout import draw_rollouts, write_past_rollouts
from sgsd.verify import load_verifier
from skillbank.errors import CompletionFailed, EndpointRefuses
from skillbank.mine.model.answer import read_replies
from skillbank.mine.model.calls import Call, CallMaker
from skillbank.mine.model.client import ChatClient, ClientSettings
from skillbank.mine.model.complete import Reply
from skillbank.mine.model.extract import ExtractSettings, ModelMiner
from skillbank.mine.model.ledger import Ledger
from skillbank.mine.model.reply import read_reply
from skillbank.records import Rollout
from skillbank.rollouts import read_rollouts
from skillbank.store import Bank

pytestmark = pytest.mark.vllm

SETTINGS = ExtractSettings(max_items=1, max_tokens=2000, temperature=1.0)
"""At temperature 0 the model answers with an empty list, which is a reply too, but a short one. At 1 one call in three
has an item: among some thirty calls there are always several."""


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[list[Rollout]]:
    """Attempts of the arena's base at its own problems, in the order of the problems, as `sgsd rollout` writes them."""
    model, tokenizer = load_student(ModelConfig(name_or_path="arena", dtype="float32"), device="cpu")
    drawing, problems = sampling("easy", n=2), load_problems("easy", "train", limit=32)
    verifier = load_verifier(VerifierConfig())
    drawn = draw_rollouts(TransformersGenerator(model, tokenizer), tokenizer, problems, verifier, drawing, seed=0)
    verifier.close()
    file = tmp_path_factory.mktemp("rollouts") / "rollouts.jsonl"
    write_past_rollouts(file, drawn.rollouts, model="arena", sampling=drawing, seed=0)
    ordered = sorted(read_rollouts(file), key=lambda rollout: (rollout.problem_id, rollout.rollout_id))
    return [list(group) for _, group in groupby(ordered, key=lambda rollout: rollout.problem_id)]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.create(tmp_path / "bank") as bank:
        yield bank


def client(url: str, **settings: object) -> ChatClient:
    return ChatClient(
        ClientSettings.model_validate({"endpoints": (url,), "model": "arena", "concurrency": 4} | settings)
    )


def calls_of(groups: Sequence[Sequence[Rollout]], settings: ExtractSettings = SETTINGS) -> list[Call]:
    maker = CallMaker(settings, "arena")
    return [call for group in groups if (call := maker.prepare(group).call) is not None]


def ask(complete: ChatClient, calls: Sequence[Call]) -> list[Reply]:
    async def all_of_them() -> list[Reply]:
        async with complete:
            return await asyncio.gather(*(complete(call.request) for call in calls))

    return asyncio.run(all_of_them())


def test_replies_hold_to_the_schema(vllm_server: str, groups: list[list[Rollout]]) -> None:
    calls = calls_of(groups)
    assert {call.kind for call in calls} == {"skills", "mistakes", "pairs"}
    complete = client(vllm_server)
    replies = ask(complete, calls)
    assert complete.notices == {}, "json_schema was refused, or a call had to be tried again"
    whole = [(call, reply) for call, reply in zip(calls, replies, strict=True) if reply.finish_reason == "stop"]
    assert len(whole) >= len(calls) - 2
    items = 0
    for call, reply in whole:
        read = read_reply(reply.text, call.kind, 1)
        assert read.faults == ()
        items += len(read.items)
        assert (reply.prompt_tokens or 0) > 100
        assert reply.completion_tokens
    assert items > 0


def test_mining_gives_every_rollout_a_fate_and_the_ledger_saves_every_call(
    vllm_server: str, groups: list[list[Rollout]], bank: Bank
) -> None:
    ledger = Ledger(bank.db)
    miner = ModelMiner(client(vllm_server), SETTINGS, ledger)
    plan = miner.plan(groups)
    assert plan.calls_to_make == len(calls_of(groups))
    mined = list(miner.mine(groups))
    fates = [fate for one in mined for fate in one.fates]
    assert sorted(fate.rollout_id for fate in fates) == sorted(one.rollout_id for group in groups for one in group)
    counts = Counter(fate.fate for fate in fates)
    assert counts["accepted"] > 0
    assert sum(one.calls_made for one in mined) == plan.calls_to_make
    assert sum(one.prompt_tokens for one in mined) > 0
    assert ledger.counts()["done"] >= plan.calls_to_make - 2

    nowhere = client("http://127.0.0.1:9", attempts=1)  # a call would fail
    again = list(ModelMiner(nowhere, SETTINGS, ledger).mine(groups))
    assert [(one.items, one.fates, one.notices) for one in again] == [(m.items, m.fates, m.notices) for m in mined]
    assert sum(one.calls_made for one in again) == 0

    added = bank.add_mined([item for one in mined for item in one.items], actor="miner", reason="vLLM")
    assert added
    entry = bank.get(added[0])
    assert entry.provenance is not None
    assert entry.provenance.model == "arena"
    assert bank.evidence(entry.id)


def test_what_the_server_refuses_is_said_in_its_words(vllm_server: str, groups: list[list[Rollout]]) -> None:
    call = calls_of(groups)[:1]
    with pytest.raises(EndpointRefuses, match=r"HTTP 404: .*nobody.* does not exist"):
        ask(client(vllm_server, model="nobody"), call)
    endless = groups[0][0].model_copy(update={"completion": "9 becomes 9\n" * 1500})
    long = calls_of([[endless]], SETTINGS.model_copy(update={"max_characters": 20_000}))
    with pytest.raises(CompletionFailed, match=r"HTTP 400: .*maximum context length"):
        ask(client(vllm_server), long)


def test_without_a_schema_the_model_writes_no_json(vllm_server: str, groups: list[list[Rollout]]) -> None:
    """So that it is the schema, and neither prompt nor model, which makes the replies above readable."""
    calls = [
        call.model_copy(update={"request": call.request.model_copy(update={"reply_schema": None, "max_tokens": 60})})
        for call in calls_of(groups)[:4]
    ]
    for call, reply in zip(calls, ask(client(vllm_server), calls), strict=True):
        with pytest.raises(Exception, match="no JSON object"):
            read_replies([reply.text], call)
