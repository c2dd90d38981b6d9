"""The ledger of a model's calls: what is recorded is there for everybody at once, and stays as it was said."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillbank.errors import BankBusy
from skillbank.mine.model.background import Background
from skillbank.mine.model.calls import CallMaker, ExtractSettings
from skillbank.mine.model.complete import Complete, FromFunction, Reply, Request
from skillbank.mine.model.ledger import FinishedCall, Ledger
from skillbank.records import Rollout
from skillbank.store.database import Database

ROLLOUT = Rollout(rollout_id="r1", problem_id="p1", problem="What is 2 zorp 3?", completion="6 ⚡", outcome="correct")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(Database(tmp_path / "bank.sqlite", create=True))
    yield ledger
    ledger.close()


def finished(key: str, *replies: str, error: str | None = None, attempts: int = 1) -> FinishedCall:
    return FinishedCall(
        key=key,
        kind="skills",
        rollouts=("r1",),
        prompt_hash="abc",
        model="tiny",
        state="done" if error is None else "dead",
        replies=replies,
        call=None if error is None else CallMaker(ExtractSettings(), "tiny").prepare([ROLLOUT]).call,
        error=error,
        attempts=attempts,
        prompt_tokens=100,
        completion_tokens=None,
        seconds=0.5,
    )


def as_written(call: FinishedCall) -> FinishedCall:
    return call.model_copy(update={"at": None})


def test_what_is_recorded_is_there_for_everybody(ledger: Ledger) -> None:
    calls = [finished("a", '{"skills": []}'), finished("b", "<think>\x00 \\ud800", "⚡", error="reply invalid")]
    ledger.record(calls)
    other = ledger.again()
    known = other.get(["a", "b", "c"])
    assert {key: as_written(call) for key, call in known.items()} == {"a": calls[0], "b": calls[1]}
    assert all(call.at is not None and call.at.endswith("Z") for call in known.values())
    assert [call.key for call in other.dead()] == ["b"]
    assert other.counts() == {"done": 1, "dead": 1}
    other.close()


def test_a_dead_call_brings_all_that_is_needed_to_make_it_again(ledger: Ledger) -> None:
    prepared = CallMaker(ExtractSettings(), "tiny").prepare([ROLLOUT])
    ledger.record([finished("b", error="no reply")])
    (dead,) = ledger.dead()
    assert dead.call == prepared.call
    assert dead.call is not None
    assert dead.call.rollouts() == [ROLLOUT]


def test_a_later_outcome_takes_the_place_of_the_earlier(ledger: Ledger) -> None:
    ledger.record([finished("a", error="no reply")])
    ledger.record([finished("a", "{}", attempts=2)])
    assert as_written(ledger.get(["a"])["a"]) == finished("a", "{}", attempts=2)
    assert ledger.counts() == {"done": 1, "dead": 0}


def test_half_a_batch_is_never_there(ledger: Ledger) -> None:
    broken = finished("b").model_copy(update={"state": "unknown"})
    with pytest.raises(sqlite3.IntegrityError):
        ledger.record([finished("a"), broken])
    assert ledger.get(["a", "b"]) == {}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3))
def test_replies_are_kept_letter_by_letter(replies: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Database(Path(folder) / "bank.sqlite", create=True))
        ledger.record([finished("k", *replies)])
        assert ledger.get(["k"])["k"].replies == tuple(replies)
        ledger.close()


# ---------------------------------------------------------------------------------------------------------- background


def silent(request: Request) -> Reply:
    raise AssertionError("nobody is asked here")


def run(ledger: Ledger, calls: list[FinishedCall]) -> list[FinishedCall]:
    async def make(call: FinishedCall) -> FinishedCall:
        await asyncio.sleep(0)
        return call

    with Background(FromFunction(silent, model="tiny"), ledger) as background:
        futures = [background.submit(lambda _, call=call: make(call)) for call in calls]  # type: ignore[misc]
        done = []
        for future in futures:
            done.append(future.result())
            assert ledger.get([done[-1].key]), "a call is done when it is committed"
    return done


def test_a_call_is_done_when_it_is_committed(ledger: Ledger) -> None:
    calls = [finished(f"k{number}", "{}") for number in range(50)]
    assert run(ledger, calls) == calls
    assert ledger.counts() == {"done": 50, "dead": 0}


def test_a_held_lock_is_waited_for(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    record, tries = Ledger.record, []

    def busy_twice(self: Ledger, calls: list[FinishedCall]) -> None:
        tries.append(len(calls))
        if len(tries) <= 2:
            raise BankBusy("held")
        record(self, calls)

    monkeypatch.setattr(Ledger, "record", busy_twice)
    assert len(run(ledger, [finished("a", "{}")])) == 1
    assert tries == [1, 1, 1]


def test_a_lock_that_is_held_for_ever_is_an_error(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Ledger, calls: list[FinishedCall]) -> None:
        raise BankBusy("held")

    monkeypatch.setattr(Ledger, "record", busy)
    with pytest.raises(BankBusy):
        run(ledger, [finished(f"k{number}", "{}") for number in range(3)])
    assert ledger.counts() == {"done": 0, "dead": 0}


def test_what_is_under_way_at_the_end_is_dropped(ledger: Ledger) -> None:
    async def never(_: Complete) -> FinishedCall:
        await asyncio.sleep(3600)
        raise AssertionError

    with Background(FromFunction(silent, model="tiny"), ledger) as background:
        future = background.submit(never)
    assert future.cancelled() or future.exception() is not None
    assert ledger.counts() == {"done": 0, "dead": 0}


def test_a_model_that_cannot_be_opened_is_told(ledger: Ledger) -> None:
    class Closed(FromFunction):
        async def __aenter__(self) -> Closed:
            raise OSError("no such device")

    with pytest.raises(OSError, match="no such device"), Background(Closed(silent, model="m"), ledger):
        raise AssertionError("it was opened")
