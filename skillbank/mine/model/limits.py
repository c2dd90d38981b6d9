"""Keeping to what a server allows: so many requests and tokens in any minute, waiting as long as it says.

Clock and sleep are handed in, so that tests need no time. Left out: learning the limits from a server's headers.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MINUTE_S = 60.0

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class Taken:
    """A share of a limit that a request took."""

    def __init__(self, at_s: float, amount: int) -> None:
        self.at_s, self.amount = at_s, amount


class RateLimit:
    """At most `per_minute` in any 60 seconds, whoever asks first comes first.

    What is asked for at once and exceeds the limit counts as the whole limit: it waits for a minute of its own.
    """

    def __init__(self, per_minute: int, clock: Clock, sleep: Sleep) -> None:
        self.per_minute = per_minute
        self._clock, self._sleep = clock, sleep
        self._taken: deque[Taken] = deque()
        self._turn = asyncio.Lock()

    async def take(self, amount: int) -> Taken:
        """Waits until the amount fits."""
        amount = min(amount, self.per_minute)
        async with self._turn:
            while True:
                now = self._clock()
                while self._taken and self._taken[0].at_s <= now - MINUTE_S:
                    self._taken.popleft()
                if sum(taken.amount for taken in self._taken) + amount <= self.per_minute:
                    break
                # at least a moment: a wait that rounding leaves too short would be repeated for ever
                await self._sleep(max(0.001, self._taken[0].at_s + MINUTE_S - now))
            self._taken.append(Taken(now, amount))
            return self._taken[-1]

    def settle(self, taken: Taken, amount: int) -> None:
        """What was taken turned out to be another amount (tokens are known only afterwards)."""
        taken.amount = min(amount, self.per_minute)


def backoff_s(attempt: int, longest_s: float, rng: random.Random) -> float:
    """Seconds to wait after attempt 1, 2, ...: they double, up to `longest_s`, and up to half of them is chance, so
    that calls which failed together do not come back together."""
    return float(min(longest_s, 2.0 ** min(attempt - 1, 30)) * rng.uniform(0.5, 1.0))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The wait that a server asks for with Retry-After: seconds, or a date, read against the server's own clock."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return float(value)
    until = _date(value)
    if until is None:
        return None
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
