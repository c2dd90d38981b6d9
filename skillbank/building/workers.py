"""What a worker of the cluster does: tasks and actors of `sharded.py`, each taking and giving pickled batches.

Errors that the user should see come back as (name, message): Ray would wrap them in a traceback of its own.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillbank.errors import SkillBankError
from skillbank.guard.contamination import EvaluationIndex
from skillbank.guard.rules import chosen, flags_of
from skillbank.index.embed import Embedder
from skillbank.mine.contrast import mine_problem
from skillbank.mine.model.answer import answer
from skillbank.mine.model.calls import Call
from skillbank.mine.model.client import ChatClient, ClientSettings
from skillbank.mine.model.ledger import FinishedCall, Ledger
from skillbank.mine.model.prompts import load_prompts
from skillbank.records import Rollout
from skillbank.rollouts import Reading, Rejected
from skillbank.store.database import Database

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, bytes]
Failure = tuple[str, str]
READ_AT_ONCE = 512


def _packed(results: object) -> Row:
    return {"work": pickle.dumps(results)}


def read(files: pa.Table, reading: Reading) -> Iterator[pa.Table]:
    """Batches of (file, rollouts, rejected lines, why reading ended early)."""
    import pyarrow as pa

    def batch(file: str, failure: Failure | None = None) -> pa.Table:
        table = pa.table({"work": [pickle.dumps((file, rollouts, rejected, failure))]})
        rollouts.clear()
        rejected.clear()
        return table

    rollouts: list[Rollout] = []
    rejected: list[Rejected] = []
    for file in files["file"].to_pylist():
        failure: Failure | None = None
        try:
            for rollout in reading.rollouts(file, rejected.append):
                rollouts.append(rollout)
                if len(rollouts) + len(rejected) >= READ_AT_ONCE:
                    yield batch(file)
        except SkillBankError as error:
            failure = type(error).__name__, str(error)
        yield batch(file, failure)


def contrasts(row: Row) -> Row:
    """Groups of rollouts -> what `mine_problem` finds in each."""
    return _packed([mine_problem(group) for group in pickle.loads(row["work"])])


def flags(row: Row, evaluations: Any, rules: tuple[str, ...]) -> Row:
    """(id, context) of entries -> (id, flags) of those that the guard flags."""
    found = []
    for entry_id, context in pickle.loads(row["work"]):
        whole = replace(context, evaluations=_registry(evaluations))
        if raised := list(flags_of(whole, chosen(rules))):
            found.append((entry_id, raised))
    return _packed(found)


@lru_cache(maxsize=1)
def _registry(evaluations: Any) -> EvaluationIndex | None:
    """The registry behind an object reference, fetched once a worker."""
    import ray

    registry: EvaluationIndex | None = ray.get(evaluations)
    return registry


class Embedding:
    """(content hash, text) -> (content hash, vector as the bank keeps it)."""

    def __init__(self, name: str) -> None:
        self._embedder = Embedder.load(name)

    def __call__(self, row: Row) -> Row:
        rows = pickle.loads(row["work"])
        vectors_ND = self._embedder.encode_documents([text for _, text in rows]).astype("<f4")
        return _packed([(chash, vector_D.tobytes()) for (chash, _), vector_D in zip(rows, vectors_ND, strict=True)])


class Writing:
    """Calls -> finished calls, several at once, each with the keeper before it is given back."""

    def __init__(self, client: ClientSettings, prompts: tuple[Path, ...], keeper: Any) -> None:
        self._client, self._prompts, self._keeper = ChatClient(client), load_prompts(prompts), keeper

    def __call__(self, row: Row) -> Row:
        return _packed(asyncio.run(self._answer_all(pickle.loads(row["work"]))))

    async def _answer_all(self, calls: Sequence[Call]) -> list[FinishedCall | Failure]:
        async with self._client:
            return await asyncio.gather(*map(self._answer, calls))

    async def _answer(self, call: Call) -> FinishedCall | Failure:
        try:
            finished = await answer(call, self._client, self._prompts)
        except SkillBankError as error:
            return type(error).__name__, str(error)
        await self._keeper.record.remote(finished)
        return finished


class Keeper:
    """The ledger's one writer."""

    def __init__(self, file: str) -> None:
        self._ledger = Ledger(Database(Path(file)))

    def record(self, call: FinishedCall) -> None:
        self._ledger.record([call])
