"""A model's calls in the background: an event loop in one thread, the ledger's writer in another.

Whoever consumes the results may take its time: replies are received and committed meanwhile. Left out: what a call is.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from skillbank.errors import BankBusy
from skillbank.mine.model.complete import Complete
from skillbank.mine.model.ledger import FinishedCall, Ledger

PATIENCE = 20
"""Times that the writer waits for the bank's lock, each as long as the database waits (30 s), before it gives up."""


class Background:
    """`complete`, open for the length of a `with`, and a place to run its calls."""

    def __init__(self, complete: Complete, ledger: Ledger) -> None:
        self._complete = complete
        self._writer = _Writer(ledger)
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, name="mining", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop = self._ready.result()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends calls that are still under way: nothing of them is kept."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._writer.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # handed to whoever waits for the start
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with self._complete:
            self._ready.set_result(asyncio.get_running_loop())
            await self._stop.wait()
            under_way = asyncio.all_tasks() - {asyncio.current_task()}
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def submit(self, make: Callable[[Complete], Coroutine[Any, Any, FinishedCall]]) -> Future[FinishedCall]:
        """Starts a call. Its future is done when the call is over and committed."""
        return asyncio.run_coroutine_threadsafe(self._finish(make), self._loop)

    async def _finish(self, make: Callable[[Complete], Coroutine[Any, Any, FinishedCall]]) -> FinishedCall:
        finished = await make(self._complete)
        await self._writer.commit(finished)
        return finished


class _Writer:
    """Commits calls in a thread of its own, whose connection it is; what comes while it commits goes in together."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._own: Ledger | None = None
        self._waiting: deque[FinishedCall] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    async def commit(self, call: FinishedCall) -> None:
        self._waiting.append(call)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._commit)

    def _commit(self) -> None:
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not batch:
            return  # went in with another's
        try:
            if self._own is None:
                self._own = self._ledger.again()
            for patience in range(PATIENCE, 0, -1):
                try:
                    self._own.record(batch)
                    return
                except BankBusy:
                    if patience == 1:
                        raise
        except BaseException:
            self._waiting.extendleft(
                reversed(batch)
            )  # each of them waits for its own commit, and learns that it failed
            raise

    def close(self) -> None:
        if self._own is not None:
            self._thread.submit(self._own.close).result()
        self._thread.shutdown()
