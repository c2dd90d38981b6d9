"""A run's folder as `sgsd train` leaves it. Reading only; nothing heavy is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sgsd.checkpoint import numbered_checkpoints, read_about
from sgsd.config import RunConfig, load_config
from sgsd.errors import ConfigError
from skillbank.records import Rollout
from skillbank.rollouts import read_rollouts


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, under way or done. Use `open_run`."""

    path: Path
    config: RunConfig

    @cached_property
    def checkpoints(self) -> dict[int, Path]:
        """By optimiser step, oldest first."""
        return numbered_checkpoints(self.path)

    @cached_property
    def ledger_name(self) -> str:
        """What the run is called in its bank's usage ledger."""
        for folder in reversed(self.checkpoints.values()):
            name = read_about(folder).get("usage_run")
            if name is not None:
                return str(name)
        return Path(self.config.output_dir).name

    def logs(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; the last may be cut short while the run is writing it."""
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            raise ConfigError(f"{self.path} has no metrics.jsonl: the run ended before its first step")
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise ConfigError(f"{file} is damaged ({error}): take the run's folder from a copy") from error

    def rollouts(self, step: int | None = None) -> Iterator[tuple[int, Rollout]]:
        """(optimiser step, rollout) of all ranks, of one step or of all, in their order."""
        name = "step-*" if step is None else f"step-{step:06d}*"
        for file in sorted((self.path / "rollouts").glob(f"{name}.jsonl"), key=_step_and_rank):
            for rollout in read_rollouts(file):
                yield int(file.name[5:11]), rollout

    @property
    def exact_steps(self) -> list[int]:
        """The steps whose very weights are kept: the first, and the one after each checkpoint."""
        return [1, *(done + 1 for done in self.checkpoints)]

    def weights_before(self, step: int) -> tuple[int, Path | None]:
        """The newest weights kept that no rollout of optimiser step `step` (from 1) has changed yet: how many steps
        they have behind them, and their checkpoint; 0 and None are the initial ones. `step` - 1 are the very weights
        that drew and judged it."""
        kept = [done for done in self.checkpoints if done < step]
        return (max(kept), self.checkpoints[max(kept)]) if kept else (0, None)


def _step_and_rank(file: Path) -> tuple[int, int]:
    """Of `step-000012-rank3.jsonl`."""
    return int(file.name[5:11]), int(file.stem.rpartition("-rank")[2]) if "-rank" in file.stem else 0


def open_run(path: Path) -> RunFolder:
    """Raises ConfigError when the folder is none of a run."""
    if not (path / "config.yaml").is_file():
        inner = path / "run"
        hint = f"; {inner} is one" if (inner / "config.yaml").is_file() else ""
        raise ConfigError(f"{path} is not the folder of a run (it has no config.yaml): name an output_dir{hint}")
    return RunFolder(path, load_config(path / "config.yaml"))
