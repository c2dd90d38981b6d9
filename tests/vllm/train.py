"""Whole runs whose rollouts vLLM draws, beside the student on the CPU. Runs with the interpreter of `.venv-vllm`, for
test_training.py.

    python train.py ANSWER

Two runs of the command line on the arena, an adapter's and a full student's with a curve, in one process after another
engine each. ANSWER gets the exit codes and what the runs' folders hold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from sgsd.arena.demo import run_demo
from sgsd.cli import main as command_line


def configuration(folder: Path, **sections: Any) -> Path:
    small = {"max_steps": 3, "per_device_batch_size": 8, "learning_rate": 1e-3, "max_grad_norm": 1.0, "save_every": 2}
    values = {
        "output_dir": str(folder / "run"),
        "model": {"name_or_path": "arena", "dtype": "float32"},
        "data": {"source": "arena:easy", "limit": 64},
        "bank": {"path": str(folder.parent / "demo" / "bank"), "k": 2},
        "rollout": {"temperature": 1.0, "max_new_tokens": 24, "max_prompt_tokens": 512},
        "train": small,
        "generation": {"engine": "vllm", "vllm": {"gpu_memory_utilization": 0.1}},
    }
    folder.mkdir()
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values | sections), encoding="utf-8")
    return file


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def main(answer: str) -> None:
    work = Path(answer).parent
    run_demo("easy", out=work / "demo", quick=True)
    lora = configuration(work / "lora", model={"name_or_path": "arena", "dtype": "float32", "lora": {"r": 8}})
    full = configuration(
        work / "full",
        eval={
            "data": {"source": "arena:easy", "split": "test", "limit": 8},
            "sampling": {"temperature": 0.0, "max_new_tokens": 24, "max_prompt_tokens": 512},
            "every_steps": 2,
        },
    )
    seen: dict[str, Any] = {"codes": []}
    seen["codes"].append(command_line(["train", str(lora), "--set", "train.max_steps=2"]))
    seen["codes"].append(command_line(["train", str(lora), "--resume"]))
    seen["codes"].append(command_line(["train", str(full)]))
    student = str(work / "lora" / "run" / "student")
    asked = ["eval", "--model", student, "--data", "arena:easy", "--limit", "8", "--json", "--out"]
    memory = ["--gpu-memory-utilization", "0.1"]
    seen["codes"].append(command_line([*asked, str(work / "vllm.json"), "--engine", "vllm", *memory]))
    seen["codes"].append(command_line([*asked, str(work / "transformers.json")]))
    for name in ("vllm", "transformers"):
        seen[name] = json.loads((work / f"{name}.json").read_text(encoding="utf-8"))
    seen |= {"lora": metrics(work / "lora"), "full": metrics(work / "full")}
    Path(answer).write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
