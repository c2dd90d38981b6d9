"""A build on a cluster: reading, mining, guarding and embedding as Ray Data stages (extra `ray`).

    with Sharded() as engine:
        build_bank(files, "bank", engine=engine)

The driver keeps what has one writer: spool, ledger and bank. It hands out work in windows, so its memory does not grow
with the rollouts, and takes results in order, so the bank is the one that `Local` makes. A rollout file is read by one
worker: give shards. Workers need the package, the rollout files and the bank's folder at the same paths, and for a
server's key the environment variable that the client's settings name.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

from skillbank import errors
from skillbank.building import workers
from skillbank.building.guarding import contexts
from skillbank.building.miners import Groups
from skillbank.errors import CompletionFailed, InvalidOption, SkillBankError
from skillbank.guard import Guard
from skillbank.index.embed import Embedder
from skillbank.mine.contrast import MinedProblem
from skillbank.mine.model.answer import Mined, mined_from
from skillbank.mine.model.calls import Call, CallMaker, ExtractSettings
from skillbank.mine.model.client import ChatClient, ClientSettings
from skillbank.mine.model.complete import Complete
from skillbank.mine.model.extract import FAILURES_IN_A_ROW
from skillbank.mine.model.ledger import FinishedCall, Ledger
from skillbank.records import Flag, Kind, Rollout
from skillbank.rollouts import OnReject, Reading
from skillbank.store import Bank
from skillbank.store.query import SIDES, retrievable

WINDOW = 8192
"""Problems, calls or wordings that are under way at a time."""
TEXTS = 131_072
"""To be embedded, in one window: every window loads the embedder."""
AT_ONCE = 64
"""Of a window, what one task takes."""
TASKS_PER_CPU = 4


class Sharded:
    """Work on the Ray cluster of the environment (RAY_ADDRESS), else on one of this machine for as long as it is open.

    Raises InvalidOption when Ray is not installed.
    """

    def __init__(self, *, cpus: int | None = None) -> None:
        """`cpus`: of a cluster of this machine; all by default."""
        self._cpus = cpus
        self._own = False

    def __enter__(self) -> Self:
        try:
            ray = _ray()
        except ImportError as error:
            raise InvalidOption("engine is 'ray', which is not installed: pip install 'sgsd[ray]'") from error
        if not ray.is_initialized():
            self._own = True
            address = os.environ.get("RAY_ADDRESS")
            if address is None:  # of this machine: nothing is reported and no token is written anywhere
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            ray.init(
                address=address,
                num_cpus=self._cpus if address is None else None,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        return self

    def __exit__(self, *error: object) -> None:
        if self._own:
            _ray().shutdown()

    # The stages

    def read(self, files: Sequence[Path], reading: Reading, on_reject: OnReject) -> Iterator[tuple[Path, Rollout]]:
        ray = _ray()
        shards = ray.data.from_items([{"file": str(file)} for file in files], override_num_blocks=max(1, len(files)))
        for row in shards.map_batches(
            workers.read, batch_size=1, batch_format="pyarrow", fn_kwargs={"reading": reading}
        ).iter_rows():
            file, rollouts, rejected, failure = pickle.loads(row["work"])
            for one in rejected:
                on_reject(one)
            for rollout in rollouts:
                yield Path(file), rollout
            if failure is not None:
                raise _error(failure)

    def contrasts(self, groups: Groups) -> Iterator[MinedProblem]:
        for mined in _stage(groups, workers.contrasts):
            yield from mined

    def extracts(
        self, complete: Complete, settings: ExtractSettings, ledger: Ledger
    ) -> Callable[[Groups], Iterator[Mined]]:
        if not isinstance(complete, ChatClient):
            raise InvalidOption("on a cluster the writer is a model behind servers: name at least one endpoint")
        return _Extraction(complete.settings, settings, ledger).mine

    def flags(self, guard: Guard, bank: Bank, ids: Sequence[int]) -> Iterator[tuple[int, Sequence[Flag]]]:
        """The driver looks up what entries rest on; the registry, which is large, travels once."""
        evaluations = _ray().put(guard.evaluations)
        looked = ((entry_id, replace(context, evaluations=None)) for entry_id, context in contexts(guard, bank, ids))
        for found in _stage(looked, workers.flags, evaluations=evaluations, rules=tuple(guard.rules)):
            yield from found

    def embed(self, bank: Bank, embedder: Embedder, on_progress: Callable[[int, int], None]) -> None:
        gpus = int(_ray().cluster_resources().get("GPU", 0))
        digest = embedder.fingerprint.digest
        missing = [row for kind in SIDES for row in _without_vector(bank, kind, digest)]
        done = 0
        loads = _Pool(workers.Embedding, (embedder.name,), size=max(1, gpus), gpus=min(1, gpus))
        for vectors in _stage(missing, loads, window=TEXTS):
            with bank.db.transaction():
                bank.db.run_many(
                    "INSERT INTO vectors VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    [(digest, chash, vector) for chash, vector in vectors],
                )
            done += len(vectors)
            on_progress(done, len(missing))


class _Extraction:
    """`ModelMiner.mine`, its calls made by workers. An actor beside the driver commits each as it comes back."""

    def __init__(self, client: ClientSettings, settings: ExtractSettings, ledger: Ledger) -> None:
        self._client, self._settings, self._ledger = client, settings, ledger
        self._maker = CallMaker(settings, client.model)
        self._in_a_row = 0

    def mine(self, groups: Groups) -> Iterator[Mined]:
        keeper = self._keeper()
        rest = iter(groups)
        while window := [self._maker.prepare(group) for group in islice(rest, WINDOW)]:
            calls = {prepared.call.key: prepared.call for prepared in window if prepared.call is not None}
            finished = self._ledger.get(calls)
            missing = [call for key, call in calls.items() if key not in finished]
            made = {call.key: call for call in self._make(missing, keeper)}
            for prepared in window:
                key = None if prepared.call is None else prepared.call.key
                new = made.pop(key, None) if key is not None else None
                if new is not None:
                    finished[new.key] = new
                yield mined_from(prepared, None if key is None else finished[key], made=new is not None)

    def _make(self, calls: Sequence[Call], keeper: Any) -> Iterator[FinishedCall]:
        """Raises EndpointUnavailable, EndpointRefuses, CompletionFailed; the ledger keeps what was finished."""
        writers = max(1, min(len(self._client.endpoints), _cpus()))
        share = _shared(self._client, writers)
        writing = _Pool(workers.Writing, (share, self._settings.prompts, keeper), size=writers)
        for outcomes in _stage(calls, writing, at_once=max(AT_ONCE, 4 * share.concurrency)):
            for outcome in outcomes:
                if not isinstance(outcome, FinishedCall):
                    raise _error(outcome)
                self._in_a_row = 0 if outcome.replies else self._in_a_row + 1
                if self._in_a_row >= FAILURES_IN_A_ROW:
                    raise CompletionFailed(
                        f"{self._in_a_row} calls in a row failed, the last with: {outcome.error}; they are dead "
                        "letters: put the cause right and retry them"
                    )
                yield outcome

    def _keeper(self) -> Any:
        """The one writer of the ledger: an actor on this node, where the bank's file is."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = _ray()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        keeper = ray.remote(num_cpus=0, scheduling_strategy=here)(workers.Keeper)
        return keeper.remote(str(self._ledger.db.file.resolve()))


def _shared(client: ClientSettings, writers: int) -> ClientSettings:
    """What one of several writers may ask of the servers."""

    def part(limit: int | None) -> int | None:
        return None if limit is None else max(1, limit // writers)

    return client.model_copy(
        update={
            "concurrency": -(-client.concurrency // writers),
            "requests_per_minute": part(client.requests_per_minute),
            "tokens_per_minute": part(client.tokens_per_minute),
        }
    )


class _Pool(NamedTuple):
    """Workers that each make one of a class before they begin."""

    kind: type
    arguments: tuple[Any, ...]
    size: int
    gpus: int = 0
    """Of each."""


def _stage(
    items: Iterable[Any],
    work: Callable[..., Any] | _Pool,
    *,
    window: int = WINDOW,
    at_once: int = AT_ONCE,
    **arguments: Any,
) -> Iterator[list[Any]]:
    """What `work` makes of the items, in order, a task's results at a time: one Ray Data stage for every window.

    `arguments` are those of a function, besides its row.
    """
    how: dict[str, Any] = {"fn": work, "fn_kwargs": arguments}
    if isinstance(work, _Pool):
        workforce = _ray().data.ActorPoolStrategy(size=work.size)
        how = {"fn": work.kind, "fn_constructor_args": work.arguments, "compute": workforce, "num_gpus": work.gpus}
    rest = iter(items)
    while batch := list(islice(rest, window)):
        rows = [{"work": pickle.dumps(batch[start : start + at_once])} for start in range(0, len(batch), at_once)]
        blocks = min(len(rows), TASKS_PER_CPU * _cpus())
        for row in _ray().data.from_items(rows, override_num_blocks=blocks).map(**how).iter_rows():
            yield pickle.loads(row["work"])


def _ray() -> Any:
    """Ray with Ray Data; its types say less than its documentation."""
    import ray.data

    return ray


def _cpus() -> int:
    return max(1, int(_ray().cluster_resources().get("CPU", 1)))


def _without_vector(bank: Bank, kind: Kind, digest: str) -> list[tuple[str, str]]:
    """(content hash, text) of the retrievable entries whose vector is missing."""
    source, parameters = retrievable(kind)
    rows = bank.db.rows(
        f"SELECT e.content_hash, min(e.text) FROM {source} AND NOT EXISTS"
        " (SELECT 1 FROM vectors v WHERE v.fingerprint = ? AND v.content_hash = e.content_hash)"
        " GROUP BY e.content_hash",
        [*parameters, digest],
    )
    return [(row[0], row[1]) for row in rows]


def _error(failure: tuple[str, str]) -> SkillBankError:
    """What a worker met, by name and message."""
    name, message = failure
    kind: type[SkillBankError] = getattr(errors, name)
    return kind(message)
