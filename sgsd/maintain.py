"""The bank, maintained while it teaches: what the last steps showed goes in, what did not help gives way.

Every rank's rollouts come together, step by step. Every N optimiser steps, at the end of a step and before it is saved,
the main rank looks at all of them since the last look: where too few succeeded it mines new entries, and it keeps the
number of those that training made within its bounds by what the usage ledger measured of them. All it does is one
revision of the bank; the other ranks wait for it and retrieve from it in the next step.

A checkpoint holds the window, the earlier rollouts that it is contrasted with, and the revision it stands on. A resumed
run takes back what it had changed after that, so it goes on as if it had never been interrupted.

Left out: mining (`skillbank.building.window`), and what a bank may hold (`skillbank.curate.runs`).
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, wait_for_everyone
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sgsd.complete import LocalModel
from sgsd.config import MaintainConfig, SamplingConfig
from sgsd.errors import ConfigError, TrainingError
from sgsd.records import Rollout
from sgsd.rollout import past_rollouts
from skillbank.building.window import MinedWindow, WindowSettings, mine_window, store_window
from skillbank.curate import runs
from skillbank.errors import BankBusy, CompletionFailed, EndpointRefuses, EndpointUnavailable
from skillbank.index.vectors import embed_missing
from skillbank.mine.model.client import ChatClient, ClientSettings
from skillbank.mine.model.extract import ExtractSettings
from skillbank.records import Kind
from skillbank.records import Rollout as PastRollout
from skillbank.rollouts import write_rollouts
from skillbank.store.query import SIDES
from skillbank.usage.keep import KeepRule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from skillbank.mine.model.complete import Complete
    from skillbank.retrieve import Retriever
    from skillbank.store import Bank

STATE_FILE = "maintain.json"
WINDOW_FILE, EARLIER_FILE = "window.jsonl", "earlier.jsonl"
"""In a checkpoint: rollouts since the last look, and those of the looks before."""

EARLIER = 4096
"""Rollouts of earlier windows that are kept for contrast; the oldest go first."""

OUT_OF_REACH = (BankBusy, EndpointUnavailable, EndpointRefuses, CompletionFailed)
"""What may be over by the next look: the run goes on, and its rollouts are not lost."""


class Maintenance(TrainerCallback):
    """Looks after the bank of one run. Every rank has one; the main rank's does the work.

    Raises InvalidOption for a rule that cannot be read; ConfigError when the bank cannot be written, or holds what an
    earlier start of this very run made.
    """

    def __init__(
        self,
        config: MaintainConfig,
        retriever: Retriever,
        *,
        output_dir: str,
        sampling: SamplingConfig,
        student: tuple[Any, PreTrainedTokenizerBase],
    ) -> None:
        if retriever.bank.readonly:
            raise ConfigError(f"maintain.every_steps is set but {retriever.bank.path} cannot be written: give a copy")
        self.config, self.retriever = config, retriever
        self.output_dir, self.sampling, self.student = output_dir, sampling, student
        self.rule = None if config.prune is None else KeepRule.parse(config.prune)
        place = Path(output_dir).resolve()
        self.run = f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
        """What the run is called in the bank; a folder that was moved keeps its name through its checkpoints."""
        self.window: list[PastRollout] = []
        """Of the main rank: all ranks' rollouts since the last look."""
        self.earlier: list[PastRollout] = []
        self.added: dict[int, int] = {}
        """Entry -> step in which this run brought it in."""
        self.told: dict[str, float] = {}
        """What the last look came to, until the log takes it."""

    @property
    def bank(self) -> Bank:
        return self.retriever.bank

    @property
    def actor(self) -> str:
        """Who changes the bank."""
        return f"train {self.run}"

    def take(self, step: int, rollouts: Sequence[Rollout], *, seed: int) -> None:
        """The rollouts of one rank in optimiser step `step` (from 1), drawn with `seed`. All ranks must call it."""
        past = past_rollouts(rollouts, model=f"{self.output_dir}@{step - 1}", sampling=self.sampling, seed=seed)
        everyones: list[PastRollout] = gather_object(list(past))
        if PartialState().is_main_process:
            self.window += everyones

    def take_metrics(self) -> dict[str, float]:
        """What there is to log of a look since the last time."""
        told, self.told = self.told, {}
        return told

    # When

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.config.miner == "model" and self.config.model is None and _sharded(self.student[0]):
            raise ConfigError(
                "maintain.miner is model and maintain.model is not set, but no rank holds the student whole: name a "
                "model and its endpoint, or mine by contrast"
            )
        if state.global_step:
            return  # resumed, and what came after the checkpoint was taken back
        standing = runs.standing_revisions(self.bank, self.actor)
        if standing and runs.differs(self.bank, standing[-1] - 1):
            raise ConfigError(
                f"{self.bank.path} holds {len(standing)} revisions that an earlier start of {self.output_dir} made: go "
                f"back with `sgsd bank checkout {standing[-1] - 1} --bank {self.bank.path}`, or set another output_dir"
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.config.every_steps:
            return
        # What every rank measured up to this step is in the bank: the ledger has been written.
        told = [self.look(state.global_step) if state.is_world_process_zero else {}]
        broadcast_object_list(told)  # and every rank waits for the revision
        self.told = told[0]

    # What

    def look(self, step: int) -> dict[str, float]:
        """Maintain the bank after optimiser step `step`; on the main rank alone. What was done, to be logged."""
        started = time.monotonic()
        verified = [rollout.outcome == "correct" for rollout in self.window if rollout.outcome != "unverifiable"]
        success = sum(verified) / len(verified) if verified else 1.0
        counts: dict[str, float] = {"rollouts": len(self.window), "success": success}
        try:
            counts |= self._change(step, mine=success < self.config.success_below)
        except OUT_OF_REACH as error:
            warnings.warn(f"the bank was not maintained in step {step}, the window is kept: {error}", stacklevel=2)
            counts["failed"] = 1
        else:
            self.earlier = [*self.earlier, *self.window][-EARLIER:]
            self.window = []
        counts |= {"revision": self.bank.revision, "seconds": time.monotonic() - started}
        return {f"maintain/{name}": float(value) for name, value in counts.items()}

    def _change(self, step: int, *, mine: bool) -> dict[str, int]:
        """One revision: new entries in, surplus ones out."""
        mined = self._mine(step) if mine else None
        counts = dict.fromkeys(("mined", "added", "merged", "left_out", "quarantined", "retired", "pruned"), 0)
        added = dict(self.added)
        with self.bank.change(actor=self.actor, reason=f"{self.output_dir}, step {step}") as change:
            if mined is not None:
                stored = store_window(self.bank, change, mined, max_new=self._room(step))
                ids = [i for of_kind in stored.added.values() for i in of_kind]
                added |= dict.fromkeys(ids, step)
                counts |= {"mined": len(mined.found), "added": len(ids), "merged": stored.known}
                counts |= {"left_out": stored.left_out, "quarantined": stored.quarantined}
            young = self._young(step, added)
            if self.rule is not None:
                ruled_out = runs.ruled_out(self.bank, self.rule, young=young)
                change.set_status(ruled_out, "retired")
                counts["pruned"] = len(ruled_out)
            for kind in SIDES:
                surplus = runs.over_capacity(self.bank, kind, self.config.capacity, young=young)
                change.set_status(surplus, "retired")
                counts["retired"] += len(surplus)
        self.added = added
        if self.retriever.embedder is not None:
            embed_missing(self.bank, self.retriever.embedder)  # once, and not on every rank
        return counts

    def _young(self, step: int, added: dict[int, int]) -> set[int]:
        return {entry_id for entry_id, since in added.items() if step - since < self.config.young_steps}

    def _room(self, step: int) -> dict[Kind, int]:
        """New entries of each kind that fit in beside those that are too young to give way."""
        young = self._young(step, self.added)
        held = {kind: len(young.intersection(runs.dynamic_entries(self.bank, kind))) for kind in SIDES}
        return {kind: max(0, min(self.config.max_new, self.config.capacity - held[kind])) for kind in SIDES}

    def _mine(self, step: int) -> MinedWindow:
        problems = {rollout.problem_id: rollout.problem for rollout in self.window}
        retrieved = self.retriever.retrieve(list(problems.values()), list(problems))
        entries = {i for pairs in retrieved for pair in pairs for i in (pair.skill_id, pair.mistake_id)}
        config = self.config
        return mine_window(
            self.bank,
            self.window,
            WindowSettings(run=self.actor, near_cosine=config.near_cosine, max_problems=config.max_problems),
            earlier=self.earlier,
            entries=sorted(entries),
            embedder=self.retriever.embedder,
            index=self.retriever.index,
            complete=self._writer(step) if config.miner == "model" else None,
            extract=ExtractSettings(max_tokens=config.max_tokens),
        )

    def _writer(self, step: int) -> Complete:
        config = self.config
        if config.model is not None and config.endpoint is not None:
            return ChatClient(ClientSettings(endpoints=(config.endpoint,), model=config.model))
        # Named by its weights: what it said before it learned is not what it says now.
        return LocalModel(*self.student, name=f"{self.run}@{step}")

    # A checkpoint's part

    def save(self, folder: Path) -> None:
        """On the main rank: all that a resumed run needs."""
        write_rollouts(folder / WINDOW_FILE, self.window)
        write_rollouts(folder / EARLIER_FILE, self.earlier)
        bank = {"bank_id": self.bank.meta("bank_id"), "revision": self.bank.revision}
        state = {"run": self.run, **bank, "added": self.added}
        (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """On every rank: go on from there; the main rank takes back what this run did to the bank since.

        Raises TrainingError when the checkpoint was made without maintenance.
        """
        if not (folder / STATE_FILE).is_file():
            raise TrainingError(
                f"{folder} was saved without maintain.every_steps: set it to 0, or start anew in another folder"
            )
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        self.run = state["run"]
        if PartialState().is_main_process:
            self.added = {int(entry_id): step for entry_id, step in state["added"].items()}
            self.window, self.earlier = (_read(folder / name) for name in (WINDOW_FILE, EARLIER_FILE))
            if self.bank.meta("bank_id") == state["bank_id"]:  # another bank is the ledger's to refuse
                self._take_back(state["revision"], folder.name)
        wait_for_everyone()

    def _take_back(self, revision: int, checkpoint: str) -> None:
        back = runs.take_back(self.bank, self.actor, after=revision, reason=f"resumed from {checkpoint}")
        if back.left:
            warnings.warn(
                f"{self.bank.path}: entries {', '.join(map(str, back.left))}, made after {checkpoint}, were changed by "
                "others since and stay: the run goes on with them, and so differently",
                stacklevel=2,
            )


def _sharded(model: Any) -> bool:
    """Whether a rank alone cannot generate with it: under `fully_shard`, or DeepSpeed's third stage."""
    return any(hasattr(p, "ds_id") or hasattr(p, "device_mesh") for p in model.parameters())


def _read(file: Path) -> list[PastRollout]:
    return [PastRollout.model_validate_json(line) for line in file.read_bytes().splitlines()]
