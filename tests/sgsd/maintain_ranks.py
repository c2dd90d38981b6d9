"""For torchrun: `maintain_ranks.py FOLDER` trains on the bank FOLDER/bank-2 while it is maintained, then once more from
the first checkpoint. What came of it goes to FOLDER/two.json; `maintained` does the same in one process.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from sgsd.config import SamplingConfig
from sgsd.records import Completion, Problem, Verdict
from skillbank.retrieve import Retriever, Settings
from skillbank.store import Bank, Query
from tests.sgsd.conftest import Tiny
from tests.sgsd.training import make_trainer, method

RULES = ("triple", "reverse", "rotate", "double", "negate")
RANKS = 4099
"""Of `draw_seed`: seeds of one step differ below it."""


class Spoken:
    """A generator whose completions state a rule, by the prompt and the seed's step alone: the first rule is right."""

    def __init__(self, *_: Any) -> None: ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        return [[self.complete(prompt, seed // RANKS)] for prompt in prompts]

    def complete(self, prompt: Sequence[int], step: int) -> Completion:
        rng = random.Random(str((list(prompt), step)))
        ids = [rng.randrange(5, 38) for _ in range(rng.randrange(2, 8))]
        subject = "zorp" if sum(prompt) % 2 else "blick"
        return Completion((*ids, 2), f"{subject} means {rng.choice(RULES)}", False)


class RuleVerifier:
    def verify_many(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        return [Verdict("correct" if RULES[0] in text else "wrong") for text in completions]

    def close(self) -> None:
        pass


def maintained(folder: Path, ranks: int) -> dict[str, Any]:
    """Six steps of four problems, a look every second, a checkpoint after three; then from there once more."""
    with Bank.open(folder / f"bank-{ranks}") as bank:
        first = _train(bank, folder, ranks)
        again = _train(bank, folder, ranks, resume=True)
        online = bank.entries(Query(origin="online", status="active"))
        revisions = bank.db.rows("SELECT step, count(DISTINCT revision) AS n FROM usage GROUP BY step")
        return {
            "losses": first["losses"],
            "again": again["losses"],
            "looks": first["looks"],
            "looks_again": again["looks"],
            "online": sorted([entry.id, entry.kind, str(entry.content)] for entry in online),
            "revisions_a_step": [row["n"] for row in revisions],
            "usage": bank.stats().usage,
        }


def _train(bank: Bank, folder: Path, ranks: int, *, resume: bool = False) -> dict[str, Any]:
    out = folder / f"run-{ranks}"
    maintain = {"every_steps": 2, "max_new": 2, "capacity": 3, "young_steps": 3}
    trainer, watch = make_trainer(
        Tiny,
        Retriever(bank, None, Settings(mode="random", k=3)),
        out,
        config=method(maintain=maintain),
        verifier=RuleVerifier(),
        generator=Spoken(),
        max_steps=6,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4 // ranks,
        train_sampling_strategy="sequential",
        save_strategy="steps",
        save_steps=3,
    )
    assert trainer.accelerator.num_processes == ranks
    trainer.train(resume_from_checkpoint=str(out / "checkpoint-3") if resume else None)
    trainer.accelerator.wait_for_everyone()
    said = ("rollouts", "success", "mined", "added", "merged", "left_out", "quarantined", "retired")
    looks = [[log[f"maintain/{name}"] for name in said] for log in watch.logs if "maintain/rollouts" in log]
    return {"losses": watch.losses, "looks": looks}


if __name__ == "__main__":
    told = maintained(Path(sys.argv[1]), ranks=2)
    dist.barrier()
    if os.environ["RANK"] == "0":
        (Path(sys.argv[1]) / "two.json").write_text(json.dumps(told), encoding="utf-8")
    dist.destroy_process_group()
