"""The settings under which the arena is trained; `configs/arena.yaml` is the `easy` one, written out."""

from __future__ import annotations

from sgsd.arena.tasks import CHAIN_LENGTH, Level
from sgsd.config import (
    BankConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    RunConfig,
    SamplingConfig,
    TrainConfig,
)

TOKENS_A_STEP = 16
"""Of a solution, a little more than any step takes."""


def sampling(level: Level, *, n: int = 1, temperature: float = 1.0) -> SamplingConfig:
    return SamplingConfig(
        n=n,
        temperature=temperature,
        max_new_tokens=TOKENS_A_STEP * CHAIN_LENGTH[level] + 8,
        max_prompt_tokens=512,
        batch_size=256,
    )


def arena_config(level: Level = "easy", *, output_dir: str = "runs/arena", seed: int = 0) -> RunConfig:
    """The method's published settings, but for what follows the model's size: rate, batch, steps, full weights."""
    return RunConfig(
        output_dir=f"{output_dir}/run",
        seed=seed,
        threads=1,  # the matrices are too small to share, and a second thread waits for whatever else runs
        model=ModelConfig(name_or_path="arena", dtype="float32"),
        data=DataConfig(source=f"arena:{level}"),
        bank=BankConfig(path=f"{output_dir}/bank"),
        rollout=sampling(level),
        train=TrainConfig(
            max_steps=STEPS[level],
            per_device_batch_size=32,
            gradient_accumulation_steps=1,
            learning_rate=3e-4,
            schedule="linear",
            max_grad_norm=1.0,
            save_every=50,
            keep_checkpoints=2,
        ),
        eval=EvalConfig(
            data=DataConfig(source=f"arena:{level}", split="test"),
            sampling=sampling(level, temperature=0.0),
            every_steps=STEPS[level] // 10,
        ),
    )


STEPS: dict[Level, int] = {"easy": 60, "medium": 80, "hard": 80}
PAST_PROBLEMS: dict[Level, int] = {"easy": 240, "medium": 320, "hard": 480}
"""Problems on which the base makes the past rollouts that the bank is mined from."""
PAST_DRAWS = 8
"""Rollouts a problem."""
