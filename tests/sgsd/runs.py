"""What the tests of whole runs share: folders to run in, configurations, and what a run left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sgsd.config import RunConfig, parse_config
from sgsd.run import RunResult, train_run
from skillbank.store import Bank

from .training import make_bank, problems

LORA = {"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}


class Folders:
    """A model, a bank each test may write to, and configurations over them."""

    def __init__(self, model: Path, at: Path) -> None:
        self.model, self.at = model, at
        self.bank = make_bank(at / "bank")

    def config(self, name: str = "run", **sections: Any) -> RunConfig:
        values: dict[str, Any] = {
            "output_dir": str(self.at / name),
            "seed": 3,
            "model": {"name_or_path": str(self.model), "dtype": "float32"},
            "verifier": {"name": "exact"},
            "bank": {"path": str(self.bank), "k": 3, "mode": "random"},
            "rollout": {"max_new_tokens": 8, "max_prompt_tokens": 200},
            "train": {
                "max_steps": 6,
                "per_device_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-2,
                "save_every": 3,
            },
            "eval": {"every_steps": 2, "sampling": {"temperature": 0, "max_new_tokens": 5}},
        }
        for section, keys in sections.items():
            values[section] = {**values.get(section, {}), **keys}
        return parse_config(values)

    def usage(self) -> list[tuple[Any, ...]]:
        with Bank.open(self.bank) as bank:
            names = "run, step, problem_id, outcome, skill_id, mistake_id, support, polarity"
            return [tuple(row) for row in bank.db.rows(f"SELECT {names} FROM usage WHERE NOT placebo ORDER BY rowid")]


def run(config: RunConfig, held_out: int = 3, **options: Any) -> RunResult:
    return train_run(config, problems(), problems(12)[-held_out:] if held_out else (), **options)


def metrics(config: RunConfig) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    clock = ("seconds/", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(clock)} for line in lines]


def weights(config: RunConfig, name: str = "model.safetensors", folder: str = "student") -> dict[str, Tensor]:
    stored: dict[str, Tensor] = load_file(Path(config.output_dir) / folder / name)
    return stored


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
