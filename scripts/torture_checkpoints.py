"""Kill training while it saves, over and over, and see that nothing but the step under way is lost.

    python scripts/torture_checkpoints.py                        # 50 kills
    python scripts/torture_checkpoints.py --kills 5 --seed 7 --json

A small run that saves after each step is killed (SIGKILL) and resumed until it ends, then the next begins. Half of the
kills fall on a file operation of a save that is drawn, half on a moment that is drawn. After each, every `checkpoint-N`
must hold what was written; each run's losses and last weights must be those of a run that nobody killed. Exits with 1
when one does not. docs/checkpoints.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from safetensors.torch import load_file
from torch import Tensor

from sgsd.arena.tasks import OPERATIONS, RULES, TRUE_RULE, load_problems, rule_line
from sgsd.checkpoint import STAGING, damage, numbered_checkpoints
from sgsd.config import RunConfig, parse_config
from sgsd.run import train_run
from skillbank.mine.wording import mistake_from_step, skill_from_step
from skillbank.records import Evidence, MinedPair
from skillbank.store import Bank

STEPS = 6
OPERATIONS_OF_A_SAVE = 60
"""File operations that Python sees of one save, about."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder without it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = torture(args.kills, random.Random(args.seed), Path(folder))
    result["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(result, indent=2) if args.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    sys.exit(bool(result["failures"]))


def torture(kills: int, rng: random.Random, at: Path) -> dict[str, Any]:
    """Runs until `kills` of them were killed and the last has ended."""
    make_bank(at / "bank")
    began = time.monotonic()
    whole = run_config(at, "whole")
    failures = [] if child(lambda: train(whole, resume=False)) == 0 else ["the run that nobody kills failed"]
    span_s = time.monotonic() - began
    counts: Counter[str] = Counter()
    name = 0
    while not failures and (counts["kills"] < kills or name == 0 or (at / f"run-{name}").exists()):
        if not (at / f"run-{name}").exists():
            name += 1
        config = run_config(at, f"run-{name}")
        out = Path(config.output_dir)
        resume = bool(numbered_checkpoints(out))
        if not resume:
            shutil.rmtree(out, ignore_errors=True)  # killed before its first checkpoint: begun anew
        kill = no_kill if counts["kills"] >= kills else draw_kill(rng, span_s)
        code = child(lambda config=config, resume=resume, kill=kill: train(config, resume, kill))
        if code == -signal.SIGKILL:
            counts["kills"] += 1
            counts["left half a checkpoint"] += (out / STAGING).exists()
            for path in numbered_checkpoints(out).values():
                if fault := damage(path):
                    failures.append(f"{path.name} after a kill: {fault}")
        elif code == 0:
            counts["runs"] += 1
            failures += differences(whole, config)
            shutil.rmtree(out)
        else:
            failures.append(f"a run ended with {code}")
        counts["resumed"] += resume
    return {**counts, "failures": failures}


def train(config: RunConfig, resume: bool, kill: Callable[[Path], None] = lambda out: None) -> None:
    kill(Path(config.output_dir))
    train_run(config, load_problems("easy", "train", limit=16), resume=resume)


def no_kill(out: Path) -> None:
    """Let it end."""


def draw_kill(rng: random.Random, span_s: float) -> Callable[[Path], None]:
    """What ends the process that it is called in: at a file operation of its first three saves, or at a moment."""
    count, delay_s, by_operation = rng.randrange(3 * OPERATIONS_OF_A_SAVE), rng.uniform(0, span_s), rng.random() < 0.5

    def at_operation(out: Path) -> None:
        left = count

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            path = str(arguments[0]) if arguments else ""
            of_a_save = STAGING in path or f"{out.name}/checkpoint-" in path
            if of_a_save and event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    def at_moment(out: Path) -> None:
        threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()

    return at_operation if by_operation else at_moment


def child(work: Callable[[], None]) -> int:
    """Exit code of a forked process that does `work`: minus the signal that ended it, 1 after an exception."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            errors = os.open(os.devnull, os.O_WRONLY)
            shown = os.dup(2)
            os.dup2(errors, 1)
            os.dup2(errors, 2)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - a child ends here, whatever happened
            os.dup2(shown, 2)
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def differences(whole: RunConfig, killed: RunConfig) -> list[str]:
    found = []
    if losses(killed) != losses(whole):
        found.append(f"losses {losses(killed)} are not {losses(whole)}")
    if rollouts(killed) != rollouts(whole):
        found.append("the rollouts are not those of the run that nobody killed")
    here, there = weights(killed), weights(whole)
    if any(not here[name].equal(there[name]) for name in there):
        found.append("the weights are not those of the run that nobody killed")
    return found


def losses(config: RunConfig) -> list[tuple[int, float]]:
    lines = map(json.loads, (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def rollouts(config: RunConfig) -> list[list[str]]:
    files = sorted((Path(config.output_dir) / "rollouts").iterdir())
    return [[json.loads(line)["completion"] for line in file.read_text().splitlines()] for file in files]


def weights(config: RunConfig) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = load_file(Path(config.output_dir) / "student" / "model.safetensors")
    return stored


def run_config(at: Path, name: str) -> RunConfig:
    """All weights of the arena's model and an average of them, so that a checkpoint has every kind of file."""
    return parse_config(
        {
            "output_dir": str(at / name),
            "threads": 1,
            "model": {"name_or_path": "arena", "dtype": "float32"},
            "bank": {"path": str(at / "bank"), "k": 2, "mode": "random"},
            "rollout": {"max_new_tokens": 12, "temperature": 1.0},
            "teacher": {"weights": "ema"},
            "train": {
                "max_steps": STEPS,
                "per_device_batch_size": 2,
                "gradient_accumulation_steps": 1,
                "learning_rate": 1e-3,
                "save_every": 1,
                "keep_checkpoints": 2,
            },
        }
    )


def make_bank(folder: Path) -> None:
    def pair(operation: str) -> MinedPair:
        right = rule_line(operation, TRUE_RULE[operation])
        wrong = rule_line(operation, next(rule for rule in RULES if rule != TRUE_RULE[operation]))
        evidence = (Evidence(rollout_id=operation, problem_id=operation, outcome="correct", quote=right),)
        return MinedPair(
            skill=skill_from_step(right, [operation]),
            mistake=mistake_from_step(wrong, right),
            skill_evidence=evidence,
            mistake_evidence=evidence,
        )

    with Bank.create(folder) as bank:
        bank.add_mined([pair(operation) for operation in OPERATIONS], actor="torture")


if __name__ == "__main__":
    main()
