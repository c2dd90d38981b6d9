"""What a comparison runs: a configuration and a seed each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sgsd.arena.settings import STEPS, TOKENS_A_STEP, arena_config
from sgsd.arena.tasks import CHAIN_LENGTH, Level
from sgsd.config import DataConfig, RunConfig, apply_override, load_config, parse_config
from sgsd.errors import ConfigError

ARENA_METHODS = ("base", "base + skill", "sft", "grpo", "grpo + skill", "opsd", "opsd + skill", "opd", "sgsd")
QUICK_STEPS = 3
RATES = {"opsd": 1e-4, "opd": 1e-4}
"""On the arena, where a method learns best at another rate than `arena_config`'s 3e-4. Chosen of 3e-5 to 1e-3 by the
validation accuracy on `medium`, with a seed that no table has (docs/results.md)."""


class Entrant(BaseModel):
    """One run of a comparison."""

    model_config = ConfigDict(frozen=True)

    method: str
    """The name that the table shows."""
    level: str
    """What it is measured on: a level of the arena, or a source of problems."""
    seed: int
    folder: Path
    """Everything of the run lies here; `result.json` once it is done."""
    config: RunConfig
    test: DataConfig
    """Problems of the reported accuracy. The curve, on which a checkpoint is chosen, is over `config.eval.data`."""
    trains: bool = True
    quick: bool = False
    """A few steps, and little past to learn from."""
    past: Path | None = None
    """Of the arena: folder with the base's past rollouts, the bank mined from them and OPD's teacher."""

    @property
    def config_hash(self) -> str:
        """Of all settings but the seed and the places of files."""
        values = self.config.model_dump(mode="json", exclude={"seed": True, "output_dir": True, "bank": {"path"}})
        values["opd"]["teacher"] = values["sft"]["rollouts"] = None
        return hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:12]


def of_configs(
    files: Sequence[Path], *, seeds: int, out: Path, tokens: int | None, overrides: Sequence[str] = ()
) -> list[Entrant]:
    """The runs of configurations, each over seeds 0 to `seeds` - 1.

    ConfigError for a configuration whose `eval.data` is missing, or is the test split: a checkpoint is chosen on it.
    """
    entrants = []
    for file in files:
        config = load_config(file, list(overrides))
        held_out = config.eval.data
        if held_out is None or not config.eval.every_steps:
            raise ConfigError(
                f"{file} has no curve: set eval.data and eval.every_steps, on which checkpoints are chosen"
            )
        if held_out.split == "test":
            raise ConfigError(
                f"{file}: eval.data is the test split, on which no checkpoint may be chosen: name another"
            )
        for seed in range(seeds):
            folder = out / f"{file.stem}-{seed}"
            values = config.model_dump(mode="json")
            _set(values, output_dir=str(folder / "run"), seed=seed)
            if tokens is not None:
                values["train"]["max_generated_tokens"] = tokens
            entrants.append(
                Entrant(
                    method=file.stem,
                    level=config.data.source,
                    seed=seed,
                    folder=folder,
                    config=parse_config(values),
                    test=held_out.model_copy(update={"split": "test", "limit": None}),
                )
            )
    return entrants


def of_arena(
    levels: Sequence[Level], methods: Sequence[str], *, seeds: int, out: Path, tokens: int | None, quick: bool
) -> list[Entrant]:
    """Every method on levels of the arena, with the settings of its own paper but for what follows the model's size.

    All draw `tokens` or fewer; without a number what the steps of the level come to.
    """
    return [
        _of_arena(level, method, seed, out, tokens, quick)
        for level in levels
        for seed in range(seeds)
        for method in methods
    ]


def _of_arena(level: Level, method: str, seed: int, out: Path, tokens: int | None, quick: bool) -> Entrant:
    folder = out / level / f"{method.replace(' ', '')}-{seed}"
    past = out / level / f"past-{seed}"
    values = arena_config(level, output_dir=str(folder), seed=seed).model_dump(mode="json")
    steps = QUICK_STEPS if quick else STEPS[level]
    # An upper bound for every method alike: sixteen tokens an operation, a batch a step.
    budget = tokens or steps * 32 * (TOKENS_A_STEP * CHAIN_LENGTH[level] + 8)
    name = method.partition(" ")[0]
    values |= {
        "method": name if name != "base" else "sgsd",
        "skills_in_prompt": method in ("grpo + skill", "opsd + skill"),
    }
    values["bank"]["path"] = str(folder / "bank")
    values["train"] |= {"max_steps": steps, "save_every": max(1, steps // 10), "keep_checkpoints": None}
    values["train"]["max_generated_tokens"] = budget
    values["eval"] |= {
        "data": {"source": f"arena:{level}", "split": "validation", "limit": 60 if quick else 300},
        "every_steps": max(1, steps // 10),
        "stop_on_collapse": True,
    }
    _for_method(name, values, past)
    return Entrant(
        method=method,
        level=level,
        seed=seed,
        folder=folder,
        config=parse_config(values),
        test=DataConfig(source=f"arena:{level}", split="test", limit=100 if quick else None),
        trains=name != "base",
        quick=quick,
        past=past,
    )


def _for_method(name: str, values: dict[str, Any], past: Path) -> None:
    """What a method wants besides; in place."""
    values["train"]["learning_rate"] = RATES.get(name, values["train"]["learning_rate"])
    if name == "opsd":
        values["teacher"]["weights"] = "base"
    if name == "opd":
        values["opd"] |= {"teacher": str(past / "teacher" / "student"), "dtype": "float32"}
    if name == "sft":
        values["sft"]["rollouts"] = str(past / "rollouts.jsonl")
    if name == "grpo":
        # Each set of rollouts serves `iterations` steps: as many more steps for the same tokens.
        for key in ("max_steps", "save_every"):
            values["train"][key] *= values["grpo"]["iterations"]
        values["eval"]["every_steps"] *= values["grpo"]["iterations"]


def _set(values: dict[str, Any], **settings: Any) -> None:
    for key, value in settings.items():
        values[key] = value


def with_overrides(entrant: Entrant, overrides: Sequence[str]) -> Entrant:
    """The same run with `a.b=c` over its settings."""
    values = entrant.config.model_dump(mode="json")
    for override in overrides:
        apply_override(values, override)
    return entrant.model_copy(update={"config": parse_config(values, where="--set")})
