"""Training on recorded rollouts, by any number of processes: what the tests of distribution compare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from skillbank.store import Bank

from ..conftest import Tiny
from ..training import Pairs, TextVerifier, make_bank, make_trainer, method, problems

BATCH = 4
"""Problems of an optimiser step, over all processes."""


def make_banks(folder: Path) -> None:
    make_bank(folder / "bank")
    make_bank(folder / "empty", pairs=0)


def train(
    folder: Path,
    name: str,
    *,
    steps: int = 3,
    data: int = 8,
    counts: tuple[int, ...] = (0, 3, 0, 2),
    bank: str = "bank",
    lora: bool = False,
    double: bool = True,
    sections: dict[str, Any] | None = None,
    resume: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Steps over problems 0 to 3, 4 to 7 and so on: what came of them, over all ranks.

    Ranks take the problems of a step by turns. Problem i has `counts[i % 4]` teachers: as `counts` stands, none on the
    even ones, which are all that the first of two ranks gets.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    adapter = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    with Bank.open(folder / bank) as opened:
        before = opened.stats().usage
        trainer, watch = make_trainer(
            Tiny,
            Pairs(opened, counts),
            folder / f"{name}-{ranks}",
            model=Tiny.model().double() if double else Tiny.model(),
            config=method(**sections or {}),
            data=problems(data),
            verifier=TextVerifier("correct", "wrong"),
            peft_config=adapter if lora else None,
            max_steps=steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=BATCH // ranks,
            train_sampling_strategy="sequential",
            **changes,
        )
        mine: list[list[str]] = []
        trainer.on_rollouts = lambda step, rollouts: mine.append([r.problem.problem_id for r in rollouts])
        trainer.train(resume_from_checkpoint=resume)
        seen: list[Any] = [mine] * ranks
        if ranks > 1:
            torch.distributed.all_gather_object(seen, mine)
        return {
            "ranks": trainer.accelerator.num_processes,
            "wrapper": trainer.wrapper,
            "problems": seen,
            "losses": watch.losses,
            "grad_norms": [log["grad_norm"] for log in watch.logs],
            "helpful": [log["helpful"] for log in watch.logs],
            "support": [log["support"] for log in watch.logs],
            "examples": [log["examples"] for log in watch.logs],
            "tokens": trainer.generated_tokens,
            "usage": opened.stats().usage - before,
            "at": str(trainer.args.output_dir),
        }
