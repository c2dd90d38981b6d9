"""Mining by a language model: rollouts of a problem in, validated skills, mistakes and pairs out, and every fate told.

Calls run ahead in the background, a window of problems at a time; results come in the order of the problems, whatever
order the replies came in. A call that the ledger has is not made again, and its replies are read anew. Left out:
reading rollout files, merging, and everything a bank does (`build.py`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import NamedTuple

from skillbank.errors import CompletionFailed
from skillbank.mine.model.answer import Mined, answer, mined_from
from skillbank.mine.model.background import Background
from skillbank.mine.model.calls import Call, CallMaker, ExtractSettings, Prepared
from skillbank.mine.model.complete import Complete
from skillbank.mine.model.ledger import FinishedCall, Ledger
from skillbank.mine.model.prompts import load_prompts
from skillbank.records import Record, Rollout

__all__ = ["CallMaker", "ExtractSettings", "Mined", "ModelMiner", "OnProgress", "Plan", "make_plan", "retry_dead"]

AHEAD = 4
"""Problems in the window for each call that the model takes at once: a slow reply then holds nobody up."""
FAILURES_IN_A_ROW = 16
"""So many calls without an answer, none with one between them, and it is the server that is at fault."""

OnProgress = Callable[[int], None]
"""Number of problems that are done."""


class Plan(Record):
    """What a build by a model would do; nothing is called for it."""

    groups: int
    """Problems."""
    rollouts: int
    rejected: dict[str, int]
    """Reason -> rollouts that no call would show."""
    calls: dict[str, int]
    """Kind (skills, mistakes, pairs) -> number, those in the ledger included."""
    calls_in_ledger: int
    calls_to_make: int
    prompt_tokens: int
    """Of the calls to make, without repairs."""
    max_completion_tokens: int
    """Of the calls to make: their number times `max_tokens`."""
    tokens_by: str
    """How tokens were counted: "characters / 4", or "tokenizer"."""
    notices: dict[str, int]
    """What would be shortened, by reason."""


def make_plan(
    groups: Iterable[Sequence[Rollout]],
    settings: ExtractSettings,
    model: str,
    *,
    ledger: Ledger | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> Plan:
    """Counts what mining the groups would take. `ledger` None: nothing was called before."""
    maker = CallMaker(settings, model)
    problems = rollouts = in_ledger = prompt_tokens = 0
    rejected: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    notices: Counter[str] = Counter()
    seen: set[str] = set()
    for group in groups:
        problems += 1
        rollouts += len(group)
        prepared = maker.prepare(group)
        rejected.update(reason for _, reason in prepared.rejected)
        notices.update(prepared.notices)
        call = prepared.call
        if call is None:
            continue
        calls[call.kind] += 1
        if call.key in seen or (ledger is not None and ledger.get([call.key])):
            in_ledger += 1
            continue
        seen.add(call.key)
        texts = [message.content for message in call.request.messages]
        prompt_tokens += -(-call.request.characters() // 4) if count_tokens is None else sum(map(count_tokens, texts))
    to_make = calls.total() - in_ledger
    return Plan(
        groups=problems,
        rollouts=rollouts,
        rejected=dict(sorted(rejected.items())),
        calls=dict(sorted(calls.items())),
        calls_in_ledger=in_ledger,
        calls_to_make=to_make,
        prompt_tokens=prompt_tokens,
        max_completion_tokens=to_make * settings.max_tokens,
        tokens_by="characters / 4" if count_tokens is None else "tokenizer",
        notices=dict(sorted(notices.items())),
    )


class ModelMiner:
    """Mines groups of rollouts with `complete`, keeping every finished call in the ledger.

    Raises InvalidOption when a prompt template cannot be used.
    """

    def __init__(self, complete: Complete, settings: ExtractSettings, ledger: Ledger) -> None:
        self.complete, self.settings, self.ledger = complete, settings, ledger
        self._maker = CallMaker(settings, complete.model)
        self._server = _Server()

    def plan(self, groups: Iterable[Sequence[Rollout]], count_tokens: Callable[[str], int] | None = None) -> Plan:
        """Counts what `mine` would do."""
        return make_plan(groups, self.settings, self.complete.model, ledger=self.ledger, count_tokens=count_tokens)

    def mine(self, groups: Iterable[Sequence[Rollout]], on_progress: OnProgress | None = None) -> Iterator[Mined]:
        """One `Mined` a group, in the order of the groups. A group holds all rollouts of one problem.

        Not to be iterated inside a transaction of the ledger's bank: finished calls are committed as they come.
        Raises EndpointUnavailable, EndpointRefuses, CompletionFailed (many calls in a row failed), BankBusy; the ledger
        keeps what was finished, so that starting again goes on from there.
        """
        window: deque[_Waiting] = deque()
        most = AHEAD * self.complete.concurrency
        done = 0
        with Background(self.complete, self.ledger) as background:
            for group in groups:
                window.append(self._start(background, group, window))
                while window and (len(window) >= most or window[0].is_done()):
                    done += 1
                    yield self._result(window.popleft(), done, on_progress)
            while window:
                done += 1
                yield self._result(window.popleft(), done, on_progress)

    def _start(self, background: Background, group: Sequence[Rollout], window: Iterable[_Waiting]) -> _Waiting:
        """The problem's place in the window: its call under way, or known from the ledger."""
        if self.ledger.db.in_transaction:
            raise RuntimeError("mine() is iterated inside a transaction of its bank: finish that first")
        prepared = self._maker.prepare(group)
        call = prepared.call
        if call is None:
            return _Waiting(prepared, None, None)
        for other in window:  # the same attempts at the same problem under other ids
            if other.future is not None and other.prepared.call is not None and other.prepared.call.key == call.key:
                return _Waiting(prepared, None, other.future)
        known = self.ledger.get([call.key]).get(call.key)
        if known is not None:
            return _Waiting(prepared, known, None)
        return _Waiting(prepared, None, background.submit(partial(self._make, call)), made=True)

    async def _make(self, call: Call, complete: Complete) -> FinishedCall:
        finished = await answer(call, complete, self._maker.prompts)
        self._server.note(finished)
        return finished

    def _result(self, waiting: _Waiting, done: int, on_progress: OnProgress | None) -> Mined:
        finished = waiting.known if waiting.future is None else waiting.future.result()
        self._server.check()
        if on_progress is not None:
            on_progress(done)
        return mined_from(waiting.prepared, finished, made=waiting.made)


class _Waiting(NamedTuple):
    """A problem in the window."""

    prepared: Prepared
    known: FinishedCall | None
    future: Future[FinishedCall] | None
    made: bool = False

    def is_done(self) -> bool:
        return self.future is None or self.future.done()


class _Server:
    """Whether it is the calls that fail or the server."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._last: str | None = None

    def note(self, finished: FinishedCall) -> None:
        if finished.replies:
            self._in_a_row = 0
        else:
            self._in_a_row += 1
            self._last = finished.error

    def check(self) -> None:
        if self._in_a_row >= FAILURES_IN_A_ROW:
            raise CompletionFailed(
                f"{self._in_a_row} calls in a row failed, the last with: {self._last}; they are dead letters: put the "
                "cause right and retry them"
            )


def retry_dead(
    complete: Complete,
    ledger: Ledger,
    *,
    prompts: Sequence[Path] = (),
    temperature: float | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[Mined]:
    """Makes the dead calls of `complete.model` again, and only those, as they were; one `Mined` each, the oldest first.

    `temperature` draws their replies at another: at 0 the same reply may come again. `prompts` are those of a repair.
    Raises what `ModelMiner.mine` raises.
    """
    dead = [finished for finished in ledger.dead() if finished.call is not None and finished.model == complete.model]
    templates = load_prompts(prompts)
    server = _Server()

    async def make(before: FinishedCall, call: Call, model: Complete) -> FinishedCall:
        request = call.request if temperature is None else call.request.model_copy(update={"temperature": temperature})
        again = call.model_copy(update={"request": request})
        finished = await answer(again, model, templates, attempts_before=before.attempts)
        server.note(finished)
        return finished if finished.call is None else finished.model_copy(update={"call": call})

    most = AHEAD * complete.concurrency
    window: deque[tuple[Call, Future[FinishedCall]]] = deque()
    done = 0

    def result() -> Mined:
        call, future = window.popleft()
        finished = future.result()
        server.check()
        if on_progress is not None:
            on_progress(done)
        return mined_from(Prepared(problem_id=call.problem_id, call=call, rejected=(), notices={}), finished, made=True)

    with Background(complete, ledger) as background:
        for finished in dead:
            assert finished.call is not None
            window.append((finished.call, background.submit(partial(make, finished, finished.call))))
            if len(window) >= most:
                done += 1
                yield result()
        while window:
            done += 1
            yield result()
