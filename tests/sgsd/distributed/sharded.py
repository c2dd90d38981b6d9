"""For torchrun, two processes: a student under `fully_shard`, as accelerate shards it, beside an unsharded one.

Three steps for each kind of teacher weights. Asserts that teachers' scores, student's scores, gradients, generated
tokens and what a checkpoint holds are those of the unsharded student, though the processes have unequal passes to make.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[3]))

from sgsd.config import SamplingConfig, TeacherConfig
from sgsd.generate.transformers import TransformersGenerator
from sgsd.score import ScoreRow, score, score_top
from sgsd.shards import gathered, sharded, whole
from sgsd.weights import TeacherWeights
from tests.sgsd.conftest import Tiny

ROWS = [
    [ScoreRow((3, 5 + i, 7), tuple(range(8, 12 + i))) for i in range(3)],  # of the first process
    [ScoreRow((4, 6), (9, 10, 11))],
]
TEACHERS = [[ScoreRow((3, 4, 5 + i), (9, 10, 11 + i)) for i in range(4)], []]
"""Four passes of one row, and none."""


def shard(model: Any) -> Any:
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model.model.embed_tokens)
    fully_shard([model.model.norm, model.lm_head], reshard_after_forward=False)  # gathered from one pass to the next
    fully_shard(model)
    return model


def follow(kind: str, folder: Path) -> None:
    rank = dist.get_rank()
    config = TeacherConfig.model_validate({"weights": kind, "ema_decay": 0.5, "period_steps": 2})
    plain = Tiny.model().double()
    model = Tiny.model().double()
    weights, expected = TeacherWeights(config, model), TeacherWeights(config, plain)
    shard(model)
    assert sharded(model)
    assert not sharded(plain)
    weights.lay_out()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (model, plain)]
    for step in (1, 2, 3):
        with weights.active():
            taught = score(model, TEACHERS[rank], token_budget=6)
            top = score_top(model, TEACHERS[rank], 3, token_budget=6)
        assert taught.shape == (len(TEACHERS[rank]), 3 if TEACHERS[rank] else 0)
        if TEACHERS[rank]:
            with expected.active():
                torch.testing.assert_close(taught, score(plain, TEACHERS[rank]), rtol=0, atol=1e-9)
                torch.testing.assert_close(top.ids_NK, score_top(plain, TEACHERS[rank], 3).ids_NK)
        mine = score(model, ROWS[rank], grad=True)
        theirs = [score(plain, rows, grad=True) for rows in ROWS]
        torch.testing.assert_close(mine, theirs[rank], rtol=0, atol=1e-9)
        mine.square().mean().backward()
        (sum(logp.square().mean() for logp in theirs) / 2).backward()
        for (name, ours), other in zip(model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(gathered(ours.grad), other.grad, rtol=0, atol=1e-9, msg=f"{kind} {name}")
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        weights.after_step(step)
        expected.after_step(step)
    prompts = [row.prompt_ids for row in TEACHERS[rank]]
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=5, batch_size=1)
    with whole(model):
        drawn = TransformersGenerator(model, Tiny.tokenizer()).generate(prompts, greedy, seed=0)
    assert drawn == TransformersGenerator(plain, Tiny.tokenizer()).generate(prompts, greedy, seed=0)
    torch.testing.assert_close(score(model, ROWS[0]), score(plain, ROWS[0]), rtol=0, atol=1e-9)
    if kind in ("ema", "periodic"):
        with weights.gathering():
            if rank == 0:
                weights.save(folder)
        dist.barrier()
        again = TeacherWeights(config, shard(Tiny.model(1).double()))
        again.load(folder)
        with again.active(), expected.active():
            ours, other = next(again.model.parameters()), next(plain.parameters())
            torch.testing.assert_close(gathered(ours.detach()), other.detach(), rtol=0, atol=1e-12)


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for kind in ("live", "base", "ema", "periodic"):
        follow(kind, Path(sys.argv[1]))
        if dist.get_rank() == 0:
            print(kind)
    dist.barrier()
    dist.destroy_process_group()
