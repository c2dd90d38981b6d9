"""The one thread that has the embedder: nearness, duplicates, retrieval. Requests queue for it.

Loading an embedder takes seconds and comparing a hundred thousand entries takes minutes, so a page waits a moment, says
that work is under way when it is, and asks again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from skillbank.errors import ForeignFingerprint, SkillBankWarning
from skillbank.store import Bank

if TYPE_CHECKING:
    from skillbank.index.embed import Embedder
    from skillbank.retrieve import Retriever, Settings

Answer = TypeVar("Answer")
PATIENCE_S = 2.0
"""A page waits so long for an answer."""
ENDING_S = 2.0
"""The end waits so long for work under way: what it writes is written in transactions, and can be left at any point."""
KEPT = 8
"""Answers that are kept until they are asked for again."""


@dataclass(frozen=True)
class Working:
    """No answer yet: ask again."""


class Tools:
    """What the thread keeps: use it there alone."""

    def __init__(self, bank: Bank, embedder: Embedder) -> None:
        self.bank, self.embedder = bank, embedder
        self._retrievers: dict[Settings, Retriever] = {}

    def retriever(self, settings: Settings) -> Retriever:
        """A retriever with these settings; the last few are kept, and share one index."""
        from skillbank.retrieve import Retriever

        known = self._retrievers.pop(settings, None)
        if known is None:
            known = Retriever(self.bank, self.embedder, settings)
            known.index = next((other.index for other in self._retrievers.values()), None)
        self._retrievers[settings] = known
        while len(self._retrievers) > KEPT:
            del self._retrievers[next(iter(self._retrievers))]
        return known


class Desk:
    """Runs work that wants the embedder, one piece after another, in a thread that keeps bank and embedder open."""

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self._path, self._readonly = path, readonly
        self._pieces: SimpleQueue[tuple[Future[Any], Callable[[Tools], Any]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work_off, name="desk", daemon=True)  # nobody waits minutes for an end
        self._tools: Tools | None = None
        self._asked: dict[Hashable, Future[Any]] = {}
        self._lock = Lock()
        self._thread.start()

    def ask(self, key: Hashable, work: Callable[[Tools], Answer]) -> Answer | Working:
        """The answer to `work`, or Working when it takes longer; the same key asked again gets the same piece of work.

        Raises what the work raised.
        """
        with self._lock:
            future: Future[Answer] | None = self._asked.pop(key, None)
            if future is None:
                future = Future()
                self._pieces.put((future, work))
            self._asked[key] = future
            while len(self._asked) > KEPT:
                self._asked.pop(next(iter(self._asked))).cancel()
        wait([future], timeout=PATIENCE_S)
        if not future.done():
            return Working()
        try:
            return future.result()
        except CancelledError:  # too many others came in between: asked again it gets another turn
            return Working()
        except BaseException:
            self._forget(key)
            raise

    def _forget(self, key: Hashable) -> None:
        with self._lock:
            self._asked.pop(key, None)

    def _run(self, work: Callable[[Tools], Answer]) -> Answer:
        with warnings.catch_warnings():  # what they say of few entries is seen on the page
            warnings.simplefilter("ignore", SkillBankWarning)
            return work(self._kept_tools())

    def _kept_tools(self) -> Tools:
        from skillbank.index.vectors import bank_embedder, check_fingerprint

        try:
            if self._tools is not None:
                check_fingerprint(self._tools.bank, self._tools.embedder)
        except ForeignFingerprint:  # the bank was embedded anew since
            self._close()
        if self._tools is None:
            bank = Bank.open(self._path, readonly=self._readonly)
            try:
                self._tools = Tools(bank, bank_embedder(bank))
            except BaseException:
                bank.close()
                raise
        return self._tools

    def _work_off(self) -> None:
        while (piece := self._pieces.get()) is not None:
            future, work = piece
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._run(work))
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is asked for
                future.set_exception(error)
        self._close()

    def close(self) -> None:
        """Ends after the work under way, or without it when that takes long; what waits for its turn is not done."""
        with self._lock:
            for future in self._asked.values():
                future.cancel()
        self._pieces.put(None)
        self._thread.join(ENDING_S)

    def _close(self) -> None:
        if self._tools is not None:
            self._tools.bank.close()
            self._tools = None
