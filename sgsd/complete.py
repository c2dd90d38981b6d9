"""A local transformers model as the `Complete` that mining asks: for machines without a server.

Requests that wait together are drawn together. Left out: structured output. A reply is free text, the prompt tells its
format, and what does not hold to it is repaired once or becomes a dead letter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from sgsd.config import SamplingConfig
from sgsd.generate.transformers import TransformersGenerator
from skillbank.errors import CompletionFailed
from skillbank.mine.model.complete import Message, Reply, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Waiting = tuple[Request, list[int], "asyncio.Future[Reply]"]


class LocalModel:
    """`model`, known as `name` in the ledger, answering up to `batch_size` requests at a time. See `Complete`."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, name: str, batch_size: int = 8) -> None:
        self._generator = TransformersGenerator(model, tokenizer)
        self._tokenizer = tokenizer
        self._name, self._batch_size = name, batch_size
        self._waiting: deque[Waiting] = deque()

    @property
    def model(self) -> str:
        return self._name

    @property
    def concurrency(self) -> int:
        return self._batch_size

    @property
    def notices(self) -> Mapping[str, int]:
        return {}

    async def __aenter__(self) -> Self:
        self._more = asyncio.Event()
        self._work = asyncio.create_task(self._answer_all())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    async def __call__(self, request: Request) -> Reply:
        """Raises CompletionFailed when prompt and reply do not fit into the model's context."""
        ids = self._prompt(request.messages)
        room = getattr(self._generator.model.config, "max_position_embeddings", None)
        if room is not None and len(ids) + request.max_tokens > room:
            raise CompletionFailed(
                f"a prompt of {len(ids)} tokens and a reply of up to {request.max_tokens} exceed the {room} tokens of "
                f"{self._name}: show shorter attempts, or ask for fewer tokens"
            )
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, ids, future))
        self._more.set()
        return await future

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids. The system's words open the first user turn: not every chat template knows a system."""
        system = "\n\n".join(message.content for message in messages if message.role == "system")
        turns = [{"role": message.role, "content": message.content} for message in messages if message.role != "system"]
        if system:
            turns[0]["content"] = f"{system}\n\n{turns[0]['content']}"
        ids: Any = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=False
        )
        return [int(i) for i in ids]

    async def _answer_all(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                batch = self._next_batch()
                try:
                    replies = await asyncio.to_thread(self._draw, batch)
                except (RuntimeError, ValueError) as error:  # out of memory, a broken model: whoever asked is told
                    for _, _, future in batch:
                        if not future.cancelled():
                            future.set_exception(error)
                    continue
                for (_, _, future), reply in zip(batch, replies, strict=True):
                    if not future.cancelled():
                        future.set_result(reply)

    def _next_batch(self) -> list[Waiting]:
        """Those that are drawn like the first that waits, up to the size of a batch."""
        alike = _drawn_by(self._waiting[0][0])
        batch = [waiting for waiting in self._waiting if _drawn_by(waiting[0]) == alike][: self._batch_size]
        taken = {id(waiting) for waiting in batch}
        self._waiting = deque(waiting for waiting in self._waiting if id(waiting) not in taken)
        return batch

    def _draw(self, batch: Sequence[Waiting]) -> list[Reply]:
        first = batch[0][0]
        own = getattr(self._generator.model.generation_config, "temperature", None)
        sampling = SamplingConfig(
            max_new_tokens=first.max_tokens,
            temperature=first.temperature if first.temperature is not None else own or 1.0,
            batch_size=self._batch_size,
        )
        drawn = self._generator.generate([ids for _, ids, _ in batch], sampling, seed=first.seed or 0)
        return [
            Reply(
                text=completion.text,
                prompt_tokens=len(ids),
                completion_tokens=len(completion.token_ids),
                finish_reason="length" if completion.truncated else "stop",
            )
            for (_, ids, _), (completion,) in zip(batch, drawn, strict=True)
        ]


def _drawn_by(request: Request) -> tuple[int, float | None, int | None]:
    return request.max_tokens, request.temperature, request.seed
