"""What mining asks of a language model, whatever runs it: one `Request` in, one `Reply` out.

`client.py` reaches servers, `sgsd.complete` a local transformers model, `FromFunction` makes any function one. Left
out: streaming, tools, several choices a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, Self

from pydantic import Field

from skillbank.records import Record


class Message(Record):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Request(Record):
    """One call of a model."""

    messages: tuple[Message, ...] = Field(min_length=1)
    schema_name: str = "reply"
    """What the schema is called; letters, digits, - and _."""
    reply_schema: dict[str, Any] | None = None
    """JSON schema of the reply's text, for models whose output can be constrained. None leaves the text free."""
    max_tokens: int = Field(1024, gt=0)
    """Of the reply, thinking included."""
    temperature: float | None = Field(0.0, ge=0)
    """None leaves it to the model's own settings."""
    seed: int | None = None

    def characters(self) -> int:
        """Length of all messages: tokens are about a quarter of it."""
        return sum(len(message.content) for message in self.messages)


class Reply(Record):
    """What came back."""

    text: str
    """As the model wrote it, thinking blocks included."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    """`length` when the token limit cut the text off."""


class Complete(Protocol):
    """A model that answers requests. Entered once for the length of a run, in the event loop that calls it.

    A call raises CompletionFailed when this request gets no answer, EndpointUnavailable or EndpointRefuses when none
    would.
    """

    @property
    def model(self) -> str:
        """The model's name: part of what tells one call from another in the ledger."""
        ...

    @property
    def concurrency(self) -> int:
        """How many requests it is worth giving it at once."""
        ...

    @property
    def notices(self) -> Mapping[str, int]:
        """What went on beside the replies, such as repeated attempts, counted by reason since it was made."""
        ...

    async def __call__(self, request: Request) -> Reply: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...


class FromFunction:
    """A plain function as a `Complete`: it runs in threads, at most `concurrency` calls at a time."""

    def __init__(self, function: Callable[[Request], Reply], *, model: str, concurrency: int = 1) -> None:
        self._function = function
        self._model, self._concurrency = model, concurrency

    @property
    def model(self) -> str:
        return self._model

    @property
    def concurrency(self) -> int:
        return self._concurrency

    @property
    def notices(self) -> Mapping[str, int]:
        return {}

    async def __aenter__(self) -> Self:
        self._slots = asyncio.Semaphore(self._concurrency)
        return self

    async def __aexit__(self, *error: object) -> None:
        """There is nothing to close."""

    async def __call__(self, request: Request) -> Reply:
        async with self._slots:
            return await asyncio.to_thread(self._function, request)
