"""One run of a comparison, in a process of its own: `python -m sgsd.compare.child ENTRANT.json`.

Trains (or goes on from the newest checkpoint), chooses the checkpoint of the highest validation accuracy, measures it
on the test split and writes `result.json`, whole or not at all.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sgsd.arena.demo import past_rollouts_of_base
from sgsd.arena.settings import STEPS, arena_config
from sgsd.arena.sources import load_source
from sgsd.checkpoint import numbered_checkpoints
from sgsd.compare.contest import RESULT
from sgsd.compare.entrants import QUICK_STEPS, Entrant
from sgsd.config import EvalConfig, ModelConfig, parse_config
from sgsd.evaluate import EvalResult, evaluate
from sgsd.generate.transformers import TransformersGenerator
from sgsd.methods import open_bank
from sgsd.models import load_student
from sgsd.rollout import bank_guidance
from sgsd.run import RunResult, train_run
from sgsd.verify import load_verifier
from skillbank.building import build_bank


def main(file: str) -> None:
    entrant = Entrant.model_validate_json(Path(file).read_text(encoding="utf-8"))
    if entrant.config.threads:
        torch.set_num_threads(entrant.config.threads)
    if entrant.past is not None:
        prepare_arena(entrant, entrant.past)
    started = time.monotonic()
    trained = _train(entrant) if entrant.trains else None
    step, student = _chosen(entrant, trained)
    result = _measure(entrant, student)
    write(entrant.folder / RESULT, _row(entrant, trained, step, result, time.monotonic() - started))


def _train(entrant: Entrant) -> RunResult:
    config = entrant.config
    problems = load_source(config.data)
    assert config.eval.data is not None  # entrants.py sees to it
    resume = bool(numbered_checkpoints(Path(config.output_dir)))
    if not resume:
        shutil.rmtree(config.output_dir, ignore_errors=True)  # ended before its first checkpoint
    return train_run(config, problems, load_source(config.eval.data), resume=resume)


def _chosen(entrant: Entrant, trained: RunResult | None) -> tuple[int | None, ModelConfig]:
    """The step and the weights of the highest validation accuracy, the earliest of equals."""
    if trained is None:
        return None, entrant.config.model
    points = {point["step"]: point["accuracy"] for point in trained.curve}
    folders = {step: Path(entrant.config.output_dir) / f"checkpoint-{step}" for step in points}
    there = [step for step, folder in folders.items() if folder.is_dir()]
    best = max(there, key=lambda step: (points[step], -step))
    return best, ModelConfig(name_or_path=str(folders[best]), dtype=entrant.config.model.dtype)


def _measure(entrant: Entrant, student: ModelConfig) -> EvalResult:
    config = entrant.config
    model, tokenizer = load_student(student)
    verifier = load_verifier(config.verifier)
    shown = None
    if entrant.method == "base + skill":
        shown = bank_guidance(open_bank(str(config.bank.path), config.bank, seed=entrant.seed))
    try:
        return evaluate(
            TransformersGenerator(model, tokenizer),
            tokenizer,
            load_source(entrant.test),
            verifier,
            EvalConfig(sampling=config.eval.sampling),
            truncated=config.verifier.truncated,
            seed=entrant.seed,
            guidance=shown,
        )
    finally:
        verifier.close()


def _row(
    entrant: Entrant, trained: RunResult | None, step: int | None, result: EvalResult, seconds: float
) -> dict[str, Any]:
    return {
        "method": entrant.method,
        "level": entrant.level,
        "seed": entrant.seed,
        "tokens": trained.generated_tokens if trained else 0,
        "accuracy": result.accuracy,
        "ci": list(result.ci),
        "problems": result.problems,
        "step": step,
        "steps": trained.steps if trained else 0,
        "collapsed": trained.collapsed if trained else False,
        "peak_mb": round(_peak_mb()),
        "seconds": round(seconds, 1),
        "flops": (trained.flops or None) if trained else None,
        "curve": list(trained.curve) if trained else [],
        "config": entrant.config_hash,
    }


def _peak_mb() -> float:
    """Of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def prepare_arena(entrant: Entrant, past: Path) -> None:
    """Past rollouts, bank and OPD's teacher of a level and seed, made once; and this run's own copy of the bank.

    The teacher is the base after supervised training on the reference solutions: as large as the student, and it knows
    what the student does not. The bank is copied because runs write to its ledger.
    """
    level, seed, quick = entrant.level, entrant.seed, entrant.quick
    config = arena_config(level, output_dir=str(past), seed=seed)  # type: ignore[arg-type]
    past.mkdir(parents=True, exist_ok=True)
    rollouts = past / "rollouts.jsonl"
    if not rollouts.exists():
        past_rollouts_of_base(config, level, seed, rollouts, quick)  # type: ignore[arg-type]
    if not (past / "bank.done").exists():
        shutil.rmtree(past / "bank", ignore_errors=True)
        build_bank([rollouts], past / "bank")
        (past / "bank.done").touch()
    if entrant.method == "opd" and not (past / "teacher" / "done").exists():
        shutil.rmtree(past / "teacher", ignore_errors=True)
        values = config.model_dump(mode="json")
        values |= {"method": "sft", "output_dir": str(past / "teacher")}
        values["train"]["max_steps"] = QUICK_STEPS if quick else STEPS[level]  # type: ignore[index]
        values["eval"]["every_steps"] = 0
        train_run(parse_config(values), load_source(config.data))
        (past / "teacher" / "done").touch()
    if entrant.config.bank.path is not None and not Path(entrant.config.bank.path).exists():
        half = Path(f"{entrant.config.bank.path}.tmp")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(past / "bank", half)
        half.rename(entrant.config.bank.path)


def write(path: Path, values: dict[str, Any]) -> None:
    part = path.with_name(f"{path.name}.tmp")
    part.write_text(json.dumps(values, indent=1), encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    main(sys.argv[1])
