"""From rollouts to validated entries by a model: evidence, fates, repair, dead letters, order, and the ledger."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillbank.errors import CompletionFailed, EndpointUnavailable
from skillbank.mine.model.client import ChatClient, ClientSettings
from skillbank.mine.model.complete import FromFunction, Reply, Request
from skillbank.mine.model.extract import ExtractSettings, Mined, ModelMiner, make_plan, retry_dead
from skillbank.mine.model.ledger import Ledger
from skillbank.records import Evidence, MinedEntry, MinedPair, Mistake, Provenance, Rollout, Skill, rollout_hash
from skillbank.store.database import Database

from .scripted_server import Answer, Asked, ScriptedServer, completion, refusal
from .writer import PROBLEM, groups, mistake, rollout, skill, written


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(Database(tmp_path / "bank.sqlite", create=True))
    yield ledger
    ledger.close()


class Writer:
    """A model that answers by a function of the prompt, and keeps what it was asked."""

    def __init__(self, answer: Callable[[str], str] = written, *, concurrency: int = 4) -> None:
        self.asked: list[Request] = []
        self._answer = answer
        self.complete = FromFunction(self._reply, model="tiny", concurrency=concurrency)

    def _reply(self, request: Request) -> Reply:
        self.asked.append(request)
        text = self._answer("\n".join(message.content for message in request.messages))
        return Reply(text=text, prompt_tokens=10, completion_tokens=2)


def mine(ledger: Ledger, writer: Writer, *given: Sequence[Rollout], **settings: Any) -> list[Mined]:
    return list(ModelMiner(writer.complete, ExtractSettings(**settings), ledger).mine(given))


RIGHT, ALSO, WRONG = rollout(1, "zorp", "correct"), rollout(2, "zorp", "correct"), rollout(3, "zorp", "wrong")


def place(one: Rollout, words: str | None) -> Evidence:
    start = one.completion.index(words) if words else 0
    return Evidence(
        rollout_id=one.rollout_id,
        problem_id=one.problem_id,
        outcome=one.outcome,
        quote=words or "",
        span=(start, start + len(words)) if words else None,
        source=one.source,
    )


# --------------------------------------------------------------------------------------------------- items and evidence


def test_a_pair_with_its_evidence_and_where_it_comes_from(ledger: Ledger) -> None:
    (one,) = mine(ledger, Writer(), [WRONG, RIGHT, ALSO])
    (pair,) = one.items
    ((key, call),) = ledger.get(row["key"] for row in ledger.db.rows("SELECT key FROM calls")).items()
    assert pair == MinedPair(
        skill=Skill(title="Do What is zorp?", principle="What is zorp? works.", when_to_apply="Often."),
        mistake=Mistake(
            description="Not doing What is zorp?", why_it_happens="It tempts.", how_to_avoid="Do What is zorp?."
        ),
        skill_evidence=(
            place(RIGHT, "zorp: attempt 1 goes a correct way"),
            place(ALSO, "zorp: attempt 2 goes a correct way"),
        ),
        mistake_evidence=(place(WRONG, "zorp: attempt 3 goes a wrong way"),),
        provenance=Provenance(miner="model", model="tiny", prompt=call.prompt_hash, detail=f"call {key}"),
    )
    assert (one.calls, one.calls_made, one.prompt_tokens, one.completion_tokens) == (1, 1, 10, 2)
    assert one.notices == {}


def test_one_outcome_gives_entries_of_one_kind(ledger: Ledger) -> None:
    skills, mistakes = mine(ledger, Writer(), [RIGHT], [rollout(3, "blick", "wrong")])
    assert [type(item.content) for item in skills.items if isinstance(item, MinedEntry)] == [Skill]
    assert [type(item.content) for item in mistakes.items if isinstance(item, MinedEntry)] == [Mistake]


def evidence_of(ledger: Ledger, *cited: tuple[int, str]) -> tuple[tuple[Evidence, ...], dict[str, int]]:
    reply = json.dumps({"skills": [skill("x", *cited)]})
    (one,) = mine(ledger, Writer(lambda prompt: reply), [RIGHT, ALSO])
    (item,) = one.items
    assert isinstance(item, MinedEntry)
    return item.evidence, one.notices


def test_a_quote_that_is_nowhere_leaves_the_whole_attempt(ledger: Ledger) -> None:
    evidence, notices = evidence_of(ledger, (2, "never said"))
    assert evidence == (place(ALSO, None),)
    assert notices == {"quote not found, the whole attempt is the evidence": 1}


def test_a_quote_from_another_attempt_is_that_attempts(ledger: Ledger) -> None:
    evidence, notices = evidence_of(ledger, (1, "attempt 2 goes"))
    assert evidence == (place(ALSO, "attempt 2 goes"),)
    assert notices == {"quote found in another attempt than the one named": 1}


def test_an_item_that_cites_nothing_that_was_shown_rests_on_all(ledger: Ledger) -> None:
    evidence, notices = evidence_of(ledger, (9, "never said"))
    assert evidence == (place(RIGHT, None), place(ALSO, None))
    assert notices == {
        "evidence from no attempt that was shown, left out": 1,
        "item without evidence, rests on all attempts of its outcome": 1,
    }


def test_rollouts_that_say_the_same_all_bear_the_evidence(ledger: Ledger) -> None:
    twin = RIGHT.model_copy(update={"rollout_id": "twin"})
    (one,) = mine(ledger, Writer(), [RIGHT, twin])
    (item,) = one.items
    assert isinstance(item, MinedEntry)
    assert [bearer.rollout_id for bearer in item.evidence] == ["twin", "zorp-1"]
    assert {fate.fate for fate in one.fates} == {"accepted"}


# ---------------------------------------------------------------------------------------------------------------- fates


def test_every_rollout_has_a_fate(ledger: Ledger) -> None:
    reply = json.dumps({"pairs": [{"skill": skill("x", (1, "attempt 1")), "mistake": mistake("x", (3, "attempt 3"))}]})
    odd = rollout(4, "zorp", "unverifiable")
    (one,) = mine(ledger, Writer(lambda prompt: reply), [odd, WRONG, ALSO, RIGHT])
    assert [(fate.rollout_id, fate.fate, fate.reason) for fate in one.fates] == [
        ("zorp-1", "accepted", ""),
        ("zorp-2", "rejected", "no item of its call rests on it"),
        ("zorp-3", "accepted", ""),
        ("zorp-4", "rejected", "outcome is unverifiable"),
    ]
    first, second = one.fates[:2]
    assert (first.completion, first.content_hash, first.miner) == (RIGHT.completion, rollout_hash(RIGHT), "model")
    assert second.completion is None


def test_a_writer_that_finds_nothing_rejects(ledger: Ledger) -> None:
    (one,) = mine(ledger, Writer(lambda prompt: '{"skills": []}'), [RIGHT])
    assert one.items == ()
    assert [fate.reason for fate in one.fates] == ["the writer found nothing worth keeping"]


REPLIES = st.one_of(
    st.text(),
    st.builds(
        lambda kind, items, cut: json.dumps({kind: items})[: cut or None],
        st.sampled_from(["skills", "mistakes", "pairs"]),
        st.lists(
            st.builds(
                lambda number, quote, side: (
                    {"skill": skill("a", (number, quote)), "mistake": mistake("b", (number, quote))}
                    if side == "pair"
                    else (skill if side == "skill" else mistake)("a", (number, quote))
                ),
                st.integers(-1, 9),
                st.text() | st.sampled_from(["attempt 1 goes", "boxed"]),
                st.sampled_from(["pair", "skill", "mistake"]),
            ),
            max_size=5,
        ),
        st.integers(0, 300),
    ),
)


@given(
    st.lists(REPLIES, min_size=1, max_size=4),
    st.lists(st.tuples(st.sampled_from(["correct", "wrong", "unverifiable"]), st.booleans()), min_size=1, max_size=12),
)
def test_whatever_is_answered_every_rollout_has_one_fate(replies: list[str], drawn: list[tuple[Any, bool]]) -> None:
    group = [rollout(n, "zorp", outcome, completion="" if said else " ") for n, (outcome, said) in enumerate(drawn)]
    answers = iter(replies * 10)
    one = _mined_in_passing(group, lambda prompt: next(answers))
    assert sorted(fate.rollout_id for fate in one.fates) == sorted(one.rollout_id for one in group)
    assert len(one.items) <= 3
    borne = {
        where.rollout_id
        for item in one.items
        for where in ((*item.skill_evidence, *item.mistake_evidence) if isinstance(item, MinedPair) else item.evidence)
    }
    assert borne == {fate.rollout_id for fate in one.fates if fate.fate == "accepted"}
    texts = {rollout.rollout_id: rollout.completion for rollout in group}
    for item in one.items:
        sides = (item.skill_evidence, item.mistake_evidence) if isinstance(item, MinedPair) else (item.evidence,)
        for side in sides:
            assert side
            for where in side:
                assert where.quote == ("" if where.span is None else texts[where.rollout_id][slice(*where.span)])


def _mined_in_passing(group: Sequence[Rollout], answer_text: Callable[[str], str]) -> Mined:
    """Mined without a ledger: the parts that `ModelMiner` is made of."""
    from skillbank.mine.model.answer import answer, mined_from
    from skillbank.mine.model.calls import CallMaker

    writer = Writer(answer_text)
    maker = CallMaker(ExtractSettings(), "tiny")
    prepared = maker.prepare(group)

    async def make() -> Mined:
        async with writer.complete as complete:
            call = prepared.call
            finished = None if call is None else await answer(call, complete, maker.prompts)
            return mined_from(prepared, finished, made=True)

    return asyncio.run(make())


# ----------------------------------------------------------------------------------------------- repair, dead letters


def test_a_reply_is_repaired_once(ledger: Ledger) -> None:
    replies = iter(['{"skills": [{"title": "Half"}]}', json.dumps({"skills": [skill("x", (1, "attempt 1 goes"))]})])
    writer = Writer(lambda prompt: next(replies))
    (one,) = mine(ledger, writer, [RIGHT])
    assert len(one.items) == 1
    first, second = writer.asked
    assert second.messages[: len(first.messages)] == first.messages
    shown, asked = second.messages[len(first.messages) :]
    assert (shown.role, shown.content) == ("assistant", '{"skills": [{"title": "Half"}]}')
    assert (asked.role, "skill 1: principle: Field required" in asked.content) == ("user", True)
    assert second.reply_schema == first.reply_schema
    assert (one.prompt_tokens, one.calls_made) == (20, 1)


def test_what_is_usable_of_a_reply_is_kept_when_its_repair_fails(ledger: Ledger) -> None:
    half = json.dumps({"skills": [skill("x", (1, "attempt 1 goes")), {"title": "Half"}]})
    replies = iter([half, "I cannot."])
    (one,) = mine(ledger, Writer(lambda prompt: next(replies)), [RIGHT])
    assert len(one.items) == 1
    assert one.notices == {"item faulty, left out": 1}
    assert ledger.counts() == {"done": 1, "dead": 0}


def test_what_cannot_be_repaired_is_a_dead_letter_and_is_not_asked_again(ledger: Ledger) -> None:
    writer = Writer(lambda prompt: "I would rather not.")
    for made in (1, 0):
        (one,) = mine(ledger, writer, [RIGHT, ALSO])
        assert one.items == ()
        assert {(fate.fate, fate.reason) for fate in one.fates} == {
            ("dead", 'reply invalid after a repair: it is no JSON object with a list "skills"')
        }
        assert one.calls_made == made
    assert len(writer.asked) == 2
    (dead,) = ledger.dead()
    assert dead.replies == ("I would rather not.",) * 2
    assert dead.rollouts == ("zorp-1", "zorp-2")


def test_replies_are_read_anew_so_a_better_reader_profits(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    from skillbank.mine.model import answer as answer_module

    good = json.dumps({"skills": [skill("x", (1, "attempt 1 goes"))]})
    with monkeypatch.context() as patch:
        blind = answer_module.read_reply
        patch.setattr(answer_module, "read_reply", lambda text, *a, **k: blind("?", *a, **k))
        (one,) = mine(ledger, Writer(lambda prompt: good), [RIGHT])
        assert one.fates[0].fate == "dead"
    (one,) = mine(ledger, Writer(lambda prompt: "nobody is asked"), [RIGHT])
    assert one.fates[0].fate == "accepted"
    assert one.calls_made == 0


def test_retry_makes_the_dead_calls_again_and_only_those(ledger: Ledger) -> None:
    stubborn = {"What is p001?", "What is p004?"}
    given = groups(6)

    def moody(prompt: str) -> str:
        return "no" if PROBLEM.findall(prompt)[0] in stubborn else written(prompt)

    before = mine(ledger, Writer(moody), *given)
    dead = [one.problem_id for one in before if any(fate.fate == "dead" for fate in one.fates)]
    assert dead == ["p001", "p004"]
    stubborn.remove("What is p004?")
    writer = Writer(moody)
    retried = list(retry_dead(writer.complete, ledger, temperature=0.7))
    assert len(writer.asked) == 3  # p001 twice, for its repair
    assert {request.temperature for request in writer.asked} == {0.7}
    assert {one.problem_id: len(one.items) for one in retried} == {"p001": 0, "p004": 1}
    (left,) = ledger.dead()
    assert (left.attempts, left.call.problem_id if left.call else None) == (2, "p001")

    silent = Writer(lambda prompt: "nobody is asked")
    after = mine(ledger, silent, *given)
    assert silent.asked == []
    assert [len(one.items) for one in after] == [1, 0, 1, 1, 1, 1]
    assert list(retry_dead(FromFunction(silent._reply, model="other"), ledger)) == []


def test_a_failing_call_is_dead_and_the_others_go_on(ledger: Ledger) -> None:
    def script(asked: Asked) -> Answer:
        if "What is p002?" in asked.prompt:
            return refusal(400, "This model's maximum context length is 9 tokens.")
        return completion(written(asked.prompt))

    with ScriptedServer(script) as server:
        client = ChatClient(ClientSettings(endpoints=(server.url,), model="tiny"))
        mined = list(ModelMiner(client, ExtractSettings(), ledger).mine(groups(6)))
    assert [len(one.items) for one in mined] == [1, 1, 0, 1, 1, 1]
    reasons = {fate.reason for fate in mined[2].fates if fate.fate == "dead"}
    assert reasons == {f"{server.url} answers HTTP 400: This model's maximum context length is 9 tokens."}


def test_a_server_that_fails_every_call_ends_the_build(ledger: Ledger) -> None:
    with ScriptedServer(lambda asked: refusal(500, "out of order")) as server:
        settings = ClientSettings(endpoints=(server.url,), model="tiny", attempts=1, concurrency=2)
        with pytest.raises(
            CompletionFailed, match=r"calls in a row failed, the last with: no usable answer .*HTTP 500"
        ):
            list(ModelMiner(ChatClient(settings), ExtractSettings(), ledger).mine(groups(60)))
    assert 16 <= ledger.counts()["dead"] < 60  # those under way when it ended are written down too


def test_no_server_ends_the_build_and_buries_nothing(ledger: Ledger) -> None:
    settings = ClientSettings(endpoints=("http://127.0.0.1:9",), model="tiny", attempts=1)
    with pytest.raises(EndpointUnavailable, match="no connection"):
        list(ModelMiner(ChatClient(settings), ExtractSettings(), ledger).mine(groups(6)))
    assert ledger.counts() == {"done": 0, "dead": 0}


# ------------------------------------------------------------------------------------------------- order, plan, resume


def test_results_come_in_order_whatever_order_replies_come_in(ledger: Ledger) -> None:
    rng = random.Random(3)

    def slow(prompt: str) -> str:
        time.sleep(rng.random() / 100)
        return written(prompt)

    given = groups(30)
    seen: list[int] = []
    miner = ModelMiner(Writer(slow, concurrency=8).complete, ExtractSettings(), ledger)
    mined = list(miner.mine(iter(given), seen.append))
    assert [one.problem_id for one in mined] == [group[0].problem_id for group in given]
    assert seen == list(range(1, 31))
    assert Counter(fate.fate for one in mined for fate in one.fates) == {"accepted": 60, "rejected": 20}


def test_only_a_window_of_problems_is_read_ahead(ledger: Ledger) -> None:
    read = 0

    def reading() -> Iterator[Sequence[Rollout]]:
        nonlocal read
        for group in groups(200):
            read += 1
            yield group

    mining = ModelMiner(Writer(concurrency=2).complete, ExtractSettings(), ledger).mine(reading())
    next(mining)
    assert read <= 8
    mining.close()  # type: ignore[attr-defined]
    assert ledger.counts()["done"] <= 8


def test_the_same_attempts_under_other_names_are_asked_about_once(ledger: Ledger) -> None:
    twins = [one.model_copy(update={"rollout_id": f"{one.rollout_id}-b"}) for one in (RIGHT, WRONG)]
    writer = Writer()
    first, second = mine(ledger, writer, [RIGHT, WRONG], twins)
    assert len(writer.asked) == 1
    assert (first.calls_made, second.calls_made) == (1, 0)
    assert {fate.rollout_id for fate in second.fates} == {"zorp-1-b", "zorp-3-b"}


def test_a_plan_counts_and_calls_nothing(ledger: Ledger) -> None:
    given = groups(6)
    writer = Writer()
    miner = ModelMiner(writer.complete, ExtractSettings(max_tokens=100), ledger)
    plan = miner.plan(given)
    assert writer.asked == []
    assert (plan.groups, plan.rollouts, plan.calls) == (6, 16, {"mistakes": 2, "pairs": 2, "skills": 2})
    assert plan.rejected == {"outcome is unverifiable": 4}
    assert (plan.calls_in_ledger, plan.calls_to_make, plan.max_completion_tokens) == (0, 6, 600)
    list(miner.mine(given[:4]))
    asked = [sum(len(message.content) for message in request.messages) for request in writer.asked]
    assert sum(-(-characters // 4) for characters in asked) == miner.plan(
        given[:4]
    ).prompt_tokens + plan.prompt_tokens - (miner.plan(given).prompt_tokens)
    again = miner.plan(given, count_tokens=lambda text: 1)
    assert (again.calls_in_ledger, again.calls_to_make, again.prompt_tokens) == (4, 2, 4)
    assert (plan.tokens_by, again.tokens_by) == ("characters / 4", "tokenizer")
    assert make_plan(given, ExtractSettings(max_tokens=100), "tiny").calls_to_make == 6


def test_mining_inside_a_transaction_of_the_bank_is_refused(ledger: Ledger) -> None:
    with ledger.db.transaction(), pytest.raises(RuntimeError, match="inside a transaction"):
        mine(ledger, Writer(), [RIGHT])


PROBLEMS = 40


def start(server: ScriptedServer, folder: Path, out: str) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("mining_process.py")
    command = [sys.executable, script, server.url, folder / "bank.sqlite", PROBLEMS, folder / out]
    return subprocess.Popen([str(part) for part in command], cwd=folder)


def problem_of(asked: Asked) -> str:
    return str(PROBLEM.findall(asked.prompt)[0])


def in_ledger(file: Path) -> set[str]:
    """The problems whose call is finished."""
    if not file.exists():
        return set()
    ledger = Ledger(Database(file))
    ids = [json.loads(row["rollouts"])[0] for row in ledger.db.rows("SELECT rollouts FROM calls")]
    ledger.close()
    return {f"What is {rollout_id.split('-')[0]}?" for rollout_id in ids}


UNREADABLE = "What is p010?"


def stumbling(asked: Asked) -> Answer:
    """Answers by the writer's rule after a moment, now and then not at once, and to one problem never well."""
    time.sleep(0.03)
    if asked.number % 7 == 0:
        return refusal(429, "slow down", Retry_After="0")
    if problem_of(asked) == UNREADABLE:
        return completion("never JSON")
    return completion(written(asked.prompt))


@pytest.mark.slow
def test_killed_at_any_moment_it_repeats_no_finished_call_and_ends_the_same(tmp_path: Path) -> None:
    rng = random.Random(5)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    with ScriptedServer(stumbling) as server:
        assert start(server, whole, "out").wait(120) == 0

    finished: set[str] = set()
    kills = 0
    with ScriptedServer(stumbling) as server:
        while not (killed / "out").exists():
            asked_before, enough = len(server.asked), len(server.served) + rng.randint(1, 12)
            process = start(server, killed, "out")
            while kills < 5 and process.poll() is None and len(server.served) < enough:
                time.sleep(0.002)
            if kills < 5:
                process.kill()
                kills += 1
            assert process.wait(120) in (0, -signal.SIGKILL)
            server.wait_until_idle()
            repeated = finished & {problem_of(asked) for asked in server.asked[asked_before:]}
            assert not repeated, f"in the ledger at the kill, asked again after it: {repeated}"
            finished = in_ledger(killed / "bank.sqlite")
            # Of the replies that were sent whole, only the last before a kill may be missing: on each of the four
            # connections one that was on its way, and one that was about to be written down.
            sent = {problem_of(asked) for asked, answer in server.served if answer.status == 200} - {UNREADABLE}
            assert len(sent - finished) <= 8
    assert kills == 5
    assert (killed / "out").read_text() == (whole / "out").read_text()
    lines = [Mined.model_validate_json(line) for line in (whole / "out").read_text().splitlines()]
    assert len(lines) == PROBLEMS
    assert sum(bool(one.items) for one in lines) == PROBLEMS - 1
