"""GRPO and SFT through TRL: the contract with its trainers, rewards, texts, and whole runs in the common folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgsd.baselines import rewards_of
from sgsd.checkpoint import damage
from sgsd.config import RunConfig, parse_config
from sgsd.errors import ConfigError, DataInvalid
from sgsd.prompts import guided_user_text, plain_user_text, render
from sgsd.records import Problem
from sgsd.run import train_run

from .conftest import END, WORDS, save_tiny, tiny_tokenizer
from .training import make_bank


def test_a_completion_without_a_verdict_has_no_advantage() -> None:
    outcomes: list[Any] = ["correct", "wrong", "unverifiable", "unverifiable", "wrong", "unverifiable"]
    assert rewards_of([1, 1, 1, 2, 3, 3], outcomes) == [1.0, 0.0, 0.5, 0.0, 0.0, 0.0]


def config(tmp_path: Path, method: str, **sections: Any) -> RunConfig:
    model = save_tiny(tmp_path / "model") if not (tmp_path / "model").exists() else tmp_path / "model"
    values: dict[str, Any] = {
        "method": method,
        "output_dir": str(tmp_path / "run"),
        "model": {"name_or_path": str(model), "dtype": "float32"},
        "rollout": {"max_new_tokens": 6, "temperature": 1.0},
        "verifier": {"name": "exact"},
        "train": {"max_steps": 2, "per_device_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3},
        "grpo": {"generations": 4, "iterations": 1},
    }
    return parse_config(values | sections)


def problems(solution: str | None = "step by step 3") -> list[Problem]:
    return [Problem(f"p{i}", f"What is {i} + 1 ?", str(i + 1), solution=solution) for i in range(6)]


def logs(tmp_path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_grpo_leaves_what_the_other_methods_leave(tmp_path: Path) -> None:
    result = train_run(config(tmp_path, "grpo"), problems())
    assert result.steps == 2
    assert result.polarity == {}
    assert len(logs(tmp_path)) == 2
    assert {"loss", "reward", "grad_norm"} <= logs(tmp_path)[0].keys()
    files = sorted((tmp_path / "run" / "rollouts").iterdir())
    assert [file.name for file in files] == ["step-000001.jsonl", "step-000002.jsonl"]
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert len(rows) == 8
    assert len({row["problem_id"] for row in rows}) == 2  # two groups of four
    assert len({row["rollout_id"] for row in rows}) == 8
    assert not any(row.get("guided") for row in rows)
    assert 16 <= result.generated_tokens <= 2 * 8 * 6
    assert (result.student / "model.safetensors").is_file()
    assert (tmp_path / "run" / "config.yaml").is_file()


def parameters(tmp_path: Path) -> int:
    """N of the formulas: all weights but the embeddings."""
    from sgsd.models import load_student

    return int(load_student(config(tmp_path, "sft").model)[0].num_parameters(exclude_embeddings=True))


def test_flops_of_grpo_are_rollouts_and_passes(tmp_path: Path) -> None:
    """A step's rollouts cost 2 N a token, each of two passes over them 6 N; before those, 2 N for their log-probs."""
    grpo = {"generations": 4, "iterations": 2}
    result = train_run(config(tmp_path, "grpo", grpo=grpo, rollout={"max_new_tokens": 6, "n": 1}), problems())
    (file,) = (tmp_path / "run" / "rollouts").iterdir()
    asked = [json.loads(line)["problem"] for line in file.read_text().splitlines()]
    prompts = sum(len(render(tiny_tokenizer(), plain_user_text(problem))) for problem in asked)
    assert result.flops == (2 + 2 * 6 + 2) * parameters(tmp_path) * (prompts + result.generated_tokens)


def test_flops_of_sft_are_passes_without_padding(tmp_path: Path) -> None:
    given = [Problem(f"p{i}", f"What is {'1 + ' * i}1 ?", str(i + 1), solution="step by step 3") for i in range(8)]
    result = train_run(config(tmp_path, "sft", train={"max_steps": 2, "per_device_batch_size": 8}), given)
    texts = [len(render(tiny_tokenizer(), plain_user_text(problem.problem))) + 5 for problem in given]
    assert result.flops == 6 * parameters(tmp_path) * 2 * sum(texts)  # each step is an epoch


def test_groups_that_a_step_does_not_fill_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"= 4 times gradient_accumulation_steps = 2 is no multiple of .* = 3"):
        train_run(config(tmp_path, "grpo", grpo={"generations": 3}), problems())
    assert not (tmp_path / "run").exists()


def test_prompts_of_grpo_are_those_of_every_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgsd.baselines import GroupTrainer

    seen: list[list[int]] = []
    whole = GroupTrainer._generate_single_turn

    def spy(self: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        seen.extend(prompt_ids)
        return whole(self, prompt_ids, *args, **kwargs)

    monkeypatch.setattr(GroupTrainer, "_generate_single_turn", spy)
    train_run(config(tmp_path, "grpo"), problems())
    tokenizer = tiny_tokenizer()
    plain = [render(tokenizer, plain_user_text(problem.problem)) for problem in problems()]
    assert seen
    assert all(list(ids) in plain for ids in seen)


def test_skills_in_the_prompt_of_grpo_are_told(tmp_path: Path) -> None:
    bank = {"path": str(make_bank(tmp_path / "bank")), "mode": "random", "k": 1}
    given = config(tmp_path, "grpo", bank=bank, skills_in_prompt=True)
    train_run(given, problems())
    rows = [json.loads(line) for line in (tmp_path / "run/rollouts/step-000001.jsonl").read_text().splitlines()]
    assert all(row["guided"] for row in rows)
    with pytest.raises(ConfigError, match="skills_in_prompt wants a bank"):
        config(tmp_path, "grpo", skills_in_prompt=True)
    with pytest.raises(ConfigError, match="skills_in_prompt is for grpo and opsd, the method is sgsd"):
        config(tmp_path, "sgsd", bank=bank, skills_in_prompt=True)
    assert guided_user_text("x", []) == plain_user_text("x")


def test_sft_learns_texts_under_the_prompt_of_a_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgsd.baselines import TextTrainer

    batches: list[Any] = []
    whole = TextTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        batches.append({key: value.tolist() for key, value in inputs.items() if key in ("input_ids", "labels")})
        return whole(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(TextTrainer, "compute_loss", spy)
    given = [*problems(), Problem("none", "What is 1 ?", "1"), Problem("long", "What is 1 ?", "1", solution="by " * 20)]
    result = train_run(config(tmp_path, "sft"), given)
    assert result.generated_tokens == 0
    assert result.dropped_problems == 2
    tokenizer = tiny_tokenizer()
    text = [*tokenizer.encode("step by step 3", add_special_tokens=False), WORDS.index(END)]
    expected = [render(tokenizer, plain_user_text(p.problem)) for p in problems()]
    for batch in batches:
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            learned = [label for label in labels if label != -100]
            assert learned == text
            prompt = ids[: labels.index(learned[0])]
            assert prompt in expected
            assert ids[len(prompt) : len(prompt) + len(text)] == text
    assert logs(tmp_path)[1]["loss"] < logs(tmp_path)[0]["loss"]


def test_sft_on_the_right_rollouts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "past.jsonl"
    rows = [
        {"rollout_id": f"r{i}", "problem_id": f"p{i}", "problem": f"What is {i} + 1 ?", "completion": "step 3"}
        | {"outcome": "correct" if i < 3 else "wrong"}
        for i in range(6)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = train_run(config(tmp_path, "sft", sft={"rollouts": str(file)}), problems(solution=None))
    assert result.dropped_problems == 3
    with pytest.raises(DataInvalid, match="none of 6 problems has a reference solution"):
        train_run(config(tmp_path, "sft", output_dir=str(tmp_path / "other")), problems(solution=None))


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, method: str) -> None:
    train = {"per_device_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-3, "save_every": 1}
    whole = config(tmp_path, method, output_dir=str(tmp_path / "run"), train={**train, "max_steps": 3})
    tokens = train_run(whole, problems()).generated_tokens
    expected = logs(tmp_path)
    (tmp_path / "run").rename(tmp_path / "whole")
    train_run(whole.model_copy(update={"train": whole.train.model_copy(update={"max_steps": 2})}), problems())
    assert [damage(path) for path in (tmp_path / "run").glob("checkpoint-*")] == [None, None]
    assert train_run(whole, problems(), resume=True).generated_tokens == tokens
    assert [line["loss"] for line in logs(tmp_path)] == [line["loss"] for line in expected]
