"""Golden losses: ten optimiser steps of every method on recorded rollouts, in float64 on one thread of a CPU.

`golden/steps.json` holds the loss and the gradient's norm of each step. Those of SGSD, OPSD and OPD are held twice: the
file says what they were, and restated.py, plain float64 written from docs/method.md and docs/systems.md, says what each
of the ten has to be at the weights it was taken at. GRPO and SFT are TRL's trainers as they are: of theirs the file
alone speaks, and it tells whether another release of TRL trains alike.

A change that is meant to be numeric writes the file anew, and says so in the changelog:

    SGSD_GOLDEN=write python -m pytest tests/sgsd/test_golden.py

What differs from the restatement is not written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sgsd.config import RunConfig, parse_config
from sgsd.methods import Method, opsd_method
from sgsd.methods.distribution import DistributionObjective, opd_token_loss
from sgsd.prompts import plain_user_text, reference_user_text, render
from sgsd.recipe import training_settings
from sgsd.records import Problem, Rollout
from sgsd.teachers import PlainPool
from sgsd.trainer import DistillationTrainer, SGSDTrainer
from skillbank.store import Bank

from .restated import Restated, RestatedDistribution, gradient_norm, opd_token, opsd_token
from .training import Pairs, Recorded, TextVerifier, Watch, arguments, make_bank, problems

FILE = Path(__file__).parent / "golden" / "steps.json"
STEPS = 10
# transformers 5.23 renames them; peft 0.21, TRL 1.16 and transformers 5.19 know the old names alone
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")

VARIANTS: dict[str, dict[str, Any]] = {
    "sgsd": {},
    "sgsd-local": {"objective": {"support_top_k": 3}},
    "opsd": {"method": "opsd"},  # KL(T || S), clipped, at the rollout's temperature
    "opsd-jsd": {"method": "opsd", "opsd": {"beta": 0.5, "clip": None}},
    "opsd-reverse": {"method": "opsd", "opsd": {"beta": 1.0, "clip": 0.2, "temperature": 1.0}},
    "opsd-top-k": {"method": "opsd", "opsd": {"top_k": 4, "clip": None}},
    "opsd-sampled": {"method": "opsd", "opsd": {"loss": "sampled"}},
    "opd": {"method": "opd", "opd": {"k": 5}},  # the student's likeliest, weighted by the student
    "opd-teacher": {"method": "opd", "opd": {"k": 5, "strategy": "teacher", "weighting": "teacher_p"}},
    "opd-union": {"method": "opd", "opd": {"k": 5, "strategy": "union", "weighting": "none"}},
    "opd-apart": {"method": "opd", "opd": {"k": 5, "strategy": "union-intersection"}},
    "opd-shared": {"method": "opd", "opd": {"k": 9, "strategy": "intersection", "temperature": 1.3}},
    "opd-full": {"method": "opd", "opd": {"loss": "full"}},
    "opd-sampled": {"method": "opd", "opd": {"loss": "sampled"}},
}


@pytest.fixture
def pairs(tmp_path: Path) -> Iterator[Pairs]:
    """From none to four teachers a problem."""
    with Bank.open(make_bank(tmp_path / "bank")) as bank:
        yield Pairs(bank, (4, 0, 2, 1, 3))


def exact_model(tiny: Any, seed: int = 0) -> Any:
    """In float64 throughout, from weights that every machine draws alike: the model's own norms and rotary angles are
    float32 whatever its dtype, and torch's normal numbers depend on the processor."""
    model = tiny.model().double()
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data = torch.tensor(0.3 * rng.standard_normal(tuple(parameter.shape)))

    def norm(module: Any) -> Any:
        def forward(x: Tensor) -> Tensor:
            return module.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)

        return forward

    for module in model.modules():
        if type(module).__name__ == "Qwen3RMSNorm":
            module.forward = norm(module)
    frequencies = 10_000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)

    def rotary(x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = (position_ids[..., None] * frequencies).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    model.model.rotary_emb.forward = rotary
    return model


def configuration(out: Path, sections: dict[str, Any]) -> RunConfig:
    values: dict[str, Any] = {
        "output_dir": str(out),
        "rollout": {"max_new_tokens": 9, "temperature": 1.1},
        "model": {"dtype": "float32"},
        "train": {
            "max_steps": STEPS,
            "per_device_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "max_grad_norm": 1.0,
        },
    }
    return parse_config(values | sections)


def solved() -> list[Problem]:
    """Half of them with a solution: OPSD's teacher is shown the answer of the others."""
    return [replace(p, solution=f"step by {p.answer} step") if i % 2 else p for i, p in enumerate(problems())]


# ---- ten steps -------------------------------------------------------------------------------------------------------


@dataclass
class Steps:
    """What ten steps were."""

    dtype: torch.dtype = torch.float64
    """Of the loss."""
    losses: list[float] = field(default_factory=lambda: [0.0] * STEPS)
    norms: list[float] = field(default_factory=list)
    """Of the gradient, before it is clipped."""
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    """The student's, at which each step was taken."""
    rollouts: list[list[Rollout]] = field(default_factory=list)

    def take(self, trainer: Any, watch: Watch) -> Steps:
        part = trainer.compute_loss

        def noted(*args: Any, **kwargs: Any) -> Tensor:  # the parent adds up in float32
            loss: Tensor = part(*args, **kwargs)
            assert loss.dtype == self.dtype
            self.losses[trainer.state.global_step] += loss.item()
            return loss

        trainer.compute_loss = noted
        trainer.train()
        self.norms = [log["grad_norm"] for log in watch.logs]
        return self

    def on_rollouts(self, trainer: Any) -> Callable[[int, Sequence[Rollout]], None]:
        def note(step: int, rollouts: Sequence[Rollout]) -> None:
            self.weights.append({name: w.detach().clone() for name, w in trainer.student.state_dict().items()})
            self.rollouts.append(list(rollouts))

        return note


def ten_steps(tiny: Any, pairs: Pairs, config: RunConfig) -> Steps:
    """Of sgsd, opsd or opd."""
    steps, watch, out = Steps(), Watch(), Path(config.output_dir)
    common: dict[str, Any] = {
        "model": exact_model(tiny),
        "args": arguments(
            out, max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_grad_norm=1.0
        ),
        "verifier": TextVerifier(),
        "train_dataset": solved(),
        "processing_class": tiny.tokenizer(),
        "generator": Recorded(seeded=True),
        "callbacks": [watch],
    }
    trainer: DistillationTrainer
    if config.method == "sgsd":
        trainer = SGSDTrainer(method=config, bank=pairs, **common)
    else:
        trainer = DistillationTrainer(config=config, method=_method(tiny, config), **common)
    trainer.on_rollouts = steps.on_rollouts(trainer)
    return steps.take(trainer, watch)


def _method(tiny: Any, config: RunConfig) -> Method:
    if config.method == "opsd":
        return opsd_method(config, tiny.tokenizer())
    objective = DistributionObjective(
        opd_token_loss(config.opd), token_budget=None, teacher=exact_model(tiny, seed=1).requires_grad_(False)
    )
    return Method("opd", PlainPool(tiny.tokenizer()), objective)


def restated(tiny: Any, pairs: Pairs, config: RunConfig, student: nn.Module) -> Restated | RestatedDistribution:
    tokenizer = tiny.tokenizer()
    if config.method == "sgsd":
        return Restated(student, tokenizer, pairs, support_top_k=config.objective.support_top_k)

    def plain(problem: Problem) -> list[int]:
        return render(tokenizer, plain_user_text(problem.problem))

    def shown(problem: Problem) -> list[int]:
        reference = problem.solution or f"Answer: {problem.answer}"
        return render(tokenizer, reference_user_text(problem.problem, reference))

    if config.method == "opd":
        teacher = exact_model(tiny, seed=1)
        return RestatedDistribution(student, teacher, opd_token(config.opd), student_prompt=plain, teacher_prompt=plain)
    token_loss = opsd_token(config.opsd, config.opsd.temperature or config.rollout.temperature)
    return RestatedDistribution(student, exact_model(tiny), token_loss, student_prompt=plain, teacher_prompt=shown)


def compare(name: str, steps: Steps, *, rtol: float = 1e-6, atol: float = 0.0) -> None:
    golden = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if os.environ.get("SGSD_GOLDEN") == "write":
        golden[name] = {"loss": steps.losses, "grad_norm": steps.norms}
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(golden[key])}" for key in sorted(golden))
        FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    assert steps.losses == pytest.approx(golden[name]["loss"], rel=rtol, abs=atol)
    assert steps.norms == pytest.approx(golden[name]["grad_norm"], rel=rtol, abs=atol)


@pytest.mark.parametrize("name", VARIANTS)
def test_ten_steps_are_what_they_were_and_what_the_method_says(
    tiny: Any, pairs: Pairs, tmp_path: Path, name: str
) -> None:
    config = configuration(tmp_path / "run", VARIANTS[name])
    steps = ten_steps(tiny, pairs, config)
    student = exact_model(tiny)
    plain = restated(tiny, pairs, config, student)
    assert len(steps.weights) == len(steps.norms) == STEPS
    assert sum(abs(loss) > 1e-3 for loss in steps.losses) > 5
    for number, (weights, rollouts) in enumerate(zip(steps.weights, steps.rollouts, strict=True)):
        student.load_state_dict(weights)
        assert steps.losses[number] == pytest.approx(plain.run(rollouts), rel=1e-6, abs=1e-12)
        assert steps.norms[number] == pytest.approx(gradient_norm(student), rel=1e-6, abs=1e-12)
    compare(name, steps)


# ---- TRL's trainers --------------------------------------------------------------------------------------------------

# Whatever the weights' precision, TRL's head makes log-probs in float32 (trl 1.16). Their last digits are those of a
# processor's order of summation; AdamW and, in GRPO, advantages of both signs that cancel make them larger.
OF_TRL: dict[str, float] = {"rtol": 1e-4, "atol": 1e-6}


def test_ten_steps_of_grpo_are_what_they_were(tiny: Any, tmp_path: Path) -> None:
    """Two steps on each set of rollouts: in the second the ratio is not 1, and the loss depends on the weights."""
    from sgsd.baselines import GroupTrainer

    config = configuration(tmp_path / "run", {"method": "grpo", "grpo": {"generations": 4, "iterations": 2}})
    steps, watch, recorded = Steps(torch.float32), Watch(), Recorded(seeded=True)
    trainer = GroupTrainer(
        exact_model(tiny), _settings(config), config, TextVerifier(), problems(), tiny.tokenizer(), callbacks=[watch]
    )
    drawn: list[int] = []

    def replayed(prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        found = [recorded.complete(ids, seed=len(drawn) + row) for row, ids in enumerate(prompt_ids)]
        drawn.extend(len(completion.token_ids) for completion in found)
        return [list(completion.token_ids) for completion in found], None

    trainer._generate_single_turn = replayed
    steps.take(trainer, watch)
    assert len(drawn) == STEPS // 2 * 4
    assert trainer.generated_tokens == sum(drawn)
    compare("grpo", steps, **OF_TRL)


def test_ten_steps_of_sft_are_what_they_were(tiny: Any, tmp_path: Path) -> None:
    from sgsd.baselines import TextTrainer

    recorded, file = Recorded(seeded=True), tmp_path / "rollouts.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for i, problem in enumerate(problems()):
            ids = recorded.complete([i], seed=i).token_ids
            row = {"rollout_id": f"r{i}", "problem_id": problem.problem_id, "problem": problem.problem}
            text = tiny.tokenizer().decode(list(ids), skip_special_tokens=True)
            out.write(json.dumps(row | {"completion": text, "outcome": "correct"}) + "\n")
    config = configuration(tmp_path / "run", {"method": "sft", "sft": {"rollouts": str(file)}})
    steps, watch = Steps(torch.float32), Watch()
    trainer = TextTrainer(
        exact_model(tiny), _settings(config), config, TextVerifier(), problems(), tiny.tokenizer(), callbacks=[watch]
    )
    assert trainer.dropped_problems == 0
    compare("sft", steps.take(trainer, watch), **OF_TRL)


def _settings(config: RunConfig) -> dict[str, Any]:
    return training_settings(config) | {"save_strategy": "no", "use_cpu": True}
