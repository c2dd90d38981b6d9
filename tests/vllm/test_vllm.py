"""The folders we write are models for vLLM too: its greedy tokens and its log-probs are those of transformers.

vLLM lives in an environment of its own, so engine.py runs there, once a model.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.arena.settings import sampling
from sgsd.arena.tasks import load_problems
from sgsd.config import LoraConfig, ModelConfig
from sgsd.generate.transformers import TransformersGenerator
from sgsd.models import ARENA, ARENA_BASE, load_student, merge_adapter
from sgsd.prompts import plain_user_text, render
from sgsd.score import ScoreRow, score

from .conftest import environment

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The arena's base with a LoRA adapter of random weights, merged into one folder."""
    folder = tmp_path_factory.mktemp("student")
    config = ModelConfig(name_or_path=ARENA, dtype="float32", lora=LoraConfig(r=8, alpha=16))
    model, _ = load_student(config, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder / "adapter")
    return merge_adapter(folder / "adapter", folder / "merged")


def by_transformers(folder: Path) -> tuple[list[list[int]], list[list[int]], torch.Tensor]:
    """Prompts, their greedy completions, and the log-probs of every token of both but the first, [R, T]."""
    model, tokenizer = load_student(ModelConfig(name_or_path=str(folder), dtype="float32"), device="cpu")
    problems = [*load_problems("easy", "test", limit=4), *load_problems("hard", "test", limit=4)]
    prompts = [render(tokenizer, plain_user_text(problem.problem)) for problem in problems]
    drawn = TransformersGenerator(model, tokenizer).generate(prompts, sampling("hard", temperature=0.0), seed=0)
    completions = [list(row[0].token_ids) for row in drawn]
    rows = [ScoreRow(p[:1], p[1:] + c) for p, c in zip(prompts, completions, strict=True)]
    return prompts, completions, score(model, rows)


def by_vllm(python: Path, folder: Path, prompts: list[list[int]], sequences: list[list[int]], work: Path) -> Any:
    limit = sampling("hard").max_new_tokens
    request = {"folder": str(folder), "prompts": prompts, "sequences": sequences, "max_new_tokens": limit}
    (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
    script = Path(__file__).with_name("engine.py")
    command = [str(part) for part in (python, script, work / "request.json", work / "answer.json")]
    done = subprocess.run(
        command, cwd=work, env=environment(work), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((work / "answer.json").read_text(encoding="utf-8"))


def compare(python: Path, folder: Path, work: Path) -> list[list[int]]:
    """Assert that vLLM agrees on `folder`; the completions."""
    prompts, completions, logprobs_RT = by_transformers(folder)
    sequences = [p + c for p, c in zip(prompts, completions, strict=True)]
    answer = by_vllm(python, folder, prompts, sequences, work)
    assert answer["completions"] == completions
    for row, (sequence, theirs) in enumerate(zip(sequences, answer["logprobs"], strict=True)):
        assert len(theirs) == len(sequence) - 1
        torch.testing.assert_close(torch.tensor(theirs), logprobs_RT[row, : len(theirs)], atol=1e-3, rtol=0)
    return completions


def test_vllm_agrees_on_the_arenas_base(vllm_python: Path, tmp_path: Path) -> None:
    completions = compare(vllm_python, ARENA_BASE, tmp_path)
    assert len({tuple(ids) for ids in completions}) > 1


def test_vllm_agrees_on_a_merged_adapter(vllm_python: Path, merged: Path, tmp_path: Path) -> None:
    completions = compare(vllm_python, merged, tmp_path)
    assert completions != by_transformers(ARENA_BASE)[1], "the adapter is lost"
