"""One engine beside a student, through everything that a trainer does to it. Runs with the interpreter of `.venv-vllm`,
for test_colocated.py.

    python colocated.py ANSWER

ANSWER gets what was seen, as JSON. An engine takes seconds to start, so all is asked of one.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from sgsd.arena.settings import sampling
from sgsd.arena.tasks import load_problems
from sgsd.config import ModelConfig, SamplingConfig, VllmConfig
from sgsd.generate.transformers import TransformersGenerator, stop_token_ids
from sgsd.generate.vllm import VllmGenerator
from sgsd.models import ARENA_BASE, load_student
from sgsd.prompts import plain_user_text, render
from sgsd.score import ScoreRow, score

KINDS = ("full", "lora", "dora", "lora-bf16")
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def student_of(kind: str) -> tuple[Any, Any]:
    dtype = "bfloat16" if kind.endswith("bf16") else "float32"
    model, tokenizer = load_student(ModelConfig(name_or_path="arena", dtype=dtype), device="cpu")
    if kind != "full":
        adapter = LoraConfig(r=8, lora_alpha=16, target_modules=MODULES, task_type="CAUSAL_LM", use_dora=kind == "dora")
        model = get_peft_model(model, adapter)
    return model, tokenizer


def step(model: Any, optimiser: torch.optim.Optimizer, rows: list[list[int]]) -> None:
    """An optimiser step away from what the model knows."""
    loss = sum(model(input_ids=torch.tensor([row])).logits[0, :-1].float().log_softmax(-1)[:, 7].mean() for row in rows)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()


def frozen_bits(model: Any) -> str:
    """Of every weight that an optimiser does not move."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def engines_logprobs(generator: VllmGenerator, rows: list[list[int]]) -> list[list[float]]:
    from vllm import SamplingParams, TokensPrompt

    settings = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    outputs = generator.llm.generate([TokensPrompt(prompt_token_ids=row) for row in rows], settings, use_tqdm=False)
    return [
        [at[token].logprob for token, at in list(zip(row, out.prompt_logprobs, strict=True))[1:]]
        for row, out in zip(rows, outputs, strict=True)
    ]


def gap(generator: VllmGenerator, model: Any, rows: list[list[int]]) -> float:
    """The largest difference, in nats, between the engine's log-probs of rows and the trainer's."""
    mine_RT = score(model, [ScoreRow(row[:1], row[1:]) for row in rows])
    theirs = engines_logprobs(generator, rows)
    return max((torch.tensor(t) - mine_RT[r, : len(t)]).abs().max().item() for r, t in enumerate(theirs))


def after_steps(
    generator: VllmGenerator, kind: str, prompts: list[list[int]], greedy: SamplingConfig
) -> dict[str, Any]:
    torch.manual_seed(0)
    model, tokenizer = student_of(kind)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    generator.student = model
    before = frozen_bits(model)
    seen: dict[str, Any] = {"gaps": [], "stale_gaps": [], "equal": []}
    for number in range(3):
        if number:
            step(model, optimiser, prompts)
            moved = {name: p.detach().clone() for name, p in model.named_parameters()}
            seen["stale_gaps"].append(gap(generator, model, prompts))  # the engine's copies are its own
            generator.weights_changed()
        else:
            generator.weights_changed()
            moved = {name: p.detach().clone() for name, p in model.named_parameters()}
        drawn = generator.generate(prompts, greedy, seed=number)
        assert all(torch.equal(p, moved[name]) for name, p in model.named_parameters()), "a push changed the student"
        seen["gaps"].append(gap(generator, model, prompts))
        by_transformers = TransformersGenerator(model, tokenizer).generate(prompts, greedy, seed=0)
        seen["equal"].append(ids_of(drawn) == ids_of(by_transformers))
    return seen | {"frozen_equal": frozen_bits(model) == before}


def ids_of(drawn: list[list[Any]]) -> list[list[list[int]]]:
    return [[list(completion.token_ids) for completion in row] for row in drawn]


def fields(drawn: list[list[Any]]) -> list[list[dict[str, Any]]]:
    return [
        [
            {"ids": list(c.token_ids), "text": c.text, "truncated": c.truncated, "logprobs": list(c.logprobs or ())}
            for c in row
        ]
        for row in drawn
    ]


def drawing(generator: VllmGenerator, prompts: list[list[int]]) -> dict[str, Any]:
    """How sampling settings show in what is drawn."""
    warm = SamplingConfig(n=3, temperature=1.2, top_p=0.95, top_k=20, max_new_tokens=8)
    seen: dict[str, Any] = {}
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    first = generator.generate(prompts, warm, seed=7)
    seen["random_state_kept"] = torch.rand(3).tolist() == expected
    seen["again_equal"] = ids_of(generator.generate(prompts, warm, seed=7)) == ids_of(first)
    seen["other_seed_equal"] = ids_of(generator.generate(prompts, warm, seed=8)) == ids_of(first)
    seen["twins"] = ids_of(generator.generate([prompts[0]] * 6, warm.model_copy(update={"n": 1}), seed=7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen["autocast_equal"] = fields(generator.generate(prompts, warm, seed=7)) == fields(first)
    seen["drawn"] = fields(first)
    rows = [ScoreRow(prompt, c.token_ids) for prompt, row in zip(prompts, first, strict=True) for c in row]
    scored_RT = score(generator.student, rows)
    told = [c.logprobs for row in first for c in row]
    seen["told_gap"] = max((torch.tensor(t) - scored_RT[r, : len(t)]).abs().max().item() for r, t in enumerate(told))
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=8)
    seen["greedy"] = ids_of(generator.generate(prompts, greedy, seed=0))
    ended = generator.generate(prompts, greedy.model_copy(update={"max_new_tokens": 100}), seed=0)
    seen["ended"] = [not c.truncated and c.token_ids[-1] in generator.stop_ids for (c,) in ended]
    seen["top_1"] = ids_of(generator.generate(prompts, warm.model_copy(update={"n": 1, "top_k": 1}), seed=3))
    seen["too_hot"] = refusal(
        lambda: generator.generate(prompts, SamplingConfig(temperature=5.0, max_new_tokens=8), seed=3)
    )
    many = SamplingConfig(n=2000, temperature=1.0, max_new_tokens=1)
    start = prompts[0][:3]  # in the middle of a sentence, where much can follow
    (ones,) = generator.generate([start], many, seed=0)
    with torch.no_grad():
        p_V = generator.student(torch.tensor([start])).logits[0, -1].softmax(-1)
    counts_V = torch.bincount(torch.tensor([c.token_ids[0] for c in ones]), minlength=len(p_V)) / len(ones)
    seen["likeliest"] = float(p_V.max())
    seen["frequency_error"] = float((counts_V - p_V).abs().max())
    progress: list[int] = []
    generator.generate(prompts, greedy, seed=0, on_progress=progress.append)
    seen["progress"] = progress
    seen["nothing"] = generator.generate([], greedy, seed=0)
    seen["refused"] = refusal(lambda: generator.generate([[5] * 300], SamplingConfig(max_new_tokens=600), seed=0))
    seen["empty"] = refusal(lambda: generator.generate([[]], greedy, seed=0))
    return seen


def refusal(call: Any) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - its kind is part of the answer
        return f"{type(error).__name__}: {error}"
    return ""


def engine(model: Any, tokenizer: Any, config: VllmConfig) -> VllmGenerator:
    return VllmGenerator(
        config,
        str(ARENA_BASE),
        tokenizer,
        stop_token_ids(model, tokenizer),
        student=model,
        dtype="float32",
        max_model_len=800,
        logprobs=True,
    )


def main(answer: str) -> None:
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
    model, tokenizer = student_of("full")
    signal.signal(signal.SIGTERM, on_term)
    threads, set_num_threads = torch.get_num_threads(), torch.set_num_threads
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    generator = engine(model, tokenizer, VllmConfig(gpu_memory_utilization=0.1))
    kept = {
        "handler": signal.getsignal(signal.SIGTERM) is on_term,
        "threads": torch.get_num_threads() == threads and torch.set_num_threads is set_num_threads,
        "python": random.getstate() == states[0],
        "numpy": np.random.get_state()[1].tolist() == states[1],
        "torch": torch.equal(torch.get_rng_state(), states[2]),
    }
    problems = [*load_problems("easy", "test", limit=4), *load_problems("hard", "test", limit=4)]
    prompts = [render(tokenizer, plain_user_text(problem.problem)) for problem in problems]
    seen = {"kept": kept, "drawing": drawing(generator, prompts)}
    greedy = sampling("hard", temperature=0.0)
    seen["kinds"] = {kind: after_steps(generator, kind, prompts, greedy) for kind in KINDS}
    generator.close()
    seen["sleep"] = refusal(lambda: engine(model, tokenizer, VllmConfig(sleep=True)))
    seen["stop_ids"] = generator.stop_ids
    Path(answer).write_text(json.dumps(seen), encoding="utf-8")


def on_term(number: int, frame: Any) -> None:
    raise SystemExit(number)


if __name__ == "__main__":
    main(*sys.argv[1:])
