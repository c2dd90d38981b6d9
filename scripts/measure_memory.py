"""Measure what a whole training run of each method holds in memory: weights, teacher, gradients, optimiser and a step.

    python scripts/measure_memory.py                             # 130 M parameters, all weights and LoRA
    python scripts/measure_memory.py --hidden 512 --layers 4 --json

Student and OPD's teacher are Qwen3 of one shape with random weights under the arena's tokenizer. Each method trains
three steps through `sgsd.run.train_run`, as a user's run would, in a process of its own. `peak_mb` is the process's
highest resident size (on CUDA torch's highest allocation) in units of 10^6 bytes, less that of the same run with the
arena's student of 0.9 M parameters: what is left grows with the model. `of_opd` is relative to OPD with a teacher as
large as the student.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from sgsd.arena.model import network_config
from sgsd.arena.settings import arena_config
from sgsd.arena.sources import load_source
from sgsd.config import parse_config
from sgsd.models import ARENA_BASE, load_tokenizer
from sgsd.run import train_run

METHODS = ("sft", "grpo", "sgsd", "opsd", "opd")
STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024, help="width of student and teacher")
    parser.add_argument("--layers", type=int, default=8, help="layers of student and teacher")
    parser.add_argument("--batch", type=int, default=4, help="rollouts a step")
    parser.add_argument("--lora", type=int, default=64, help="rank of the adapter")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        method, rank, folder, work = args.one
        print(json.dumps(peak_mb(method, int(rank), folder, Path(work), args.batch)))
        return
    rows = measure(args)
    print(json.dumps({"rows": rows}, indent=2) if args.json else table(rows))


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="measure-memory-") as scratch:
        folder = str(Path(scratch, "student"))
        parameters = make_student(folder, args.hidden, args.layers)
        make_bank(Path(scratch))
        for rank in (0, args.lora):
            peaks: dict[str, float] = {}
            for method in METHODS:
                small, whole = (in_own_process(args, method, rank, model, Path(scratch)) for model in ("arena", folder))
                peaks[method] = whole - small
            for method, peak in peaks.items():
                rows.append(
                    {
                        "method": method,
                        "trains": f"LoRA {rank}" if rank else "all weights",
                        "parameters": parameters,
                        "peak_mb": round(peak),
                        "copies": round(peak / (4e-6 * parameters), 2),
                        "of_opd": round(peak / peaks["opd"], 3),
                    }
                )
    return rows


def make_student(folder: str, hidden: int, layers: int) -> int:
    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(ARENA_BASE))
    model = Qwen3ForCausalLM(network_config(tokenizer, hidden=hidden, layers=layers))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def make_bank(scratch: Path) -> None:
    from sgsd.arena.demo import past_rollouts_of_base
    from skillbank.building import build_bank

    config = arena_config("easy", output_dir=str(scratch / "past"))
    past_rollouts_of_base(config, "easy", 0, scratch / "rollouts.jsonl", True)
    build_bank([scratch / "rollouts.jsonl"], scratch / "bank")


def in_own_process(args: argparse.Namespace, method: str, rank: int, model: str, scratch: Path) -> float:
    command = [sys.executable, str(Path(__file__).resolve()), "--batch", str(args.batch)]
    command += ["--one", method, str(rank), model, str(scratch)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def peak_mb(method: str, rank: int, model: str, scratch: Path, batch: int) -> float:
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        values = arena_config("easy", output_dir=out).model_dump(mode="json")
        values |= {"method": method}
        values["model"] |= {"name_or_path": model, "lora": {"r": rank, "alpha": 2 * rank} if rank else None}
        values["bank"]["path"] = str(scratch / "bank")
        values["opd"] |= {"teacher": model, "dtype": "float32"}
        values["sft"]["rollouts"] = str(scratch / "rollouts.jsonl")
        values["grpo"] |= {"generations": batch}
        values["train"] |= {"max_steps": STEPS, "per_device_batch_size": batch, "save_every": STEPS}
        values["eval"]["every_steps"] = 0
        if method == "opsd":
            values["teacher"]["weights"] = "base"
        config = parse_config(values)
        train_run(config, load_source(config.data))
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{rows[0]['parameters'] / 1e6:.0f} M parameters in float32", ""]
    lines += ["| method | trains | peak, MB | times the weights | of OPD |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['method']} | {row['trains']} | {row['peak_mb']:,} | {row['copies']:.2f} | {row['of_opd']:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
