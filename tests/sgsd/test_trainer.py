"""The training step against a plain restatement, and what must not change it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig
from torch import nn

from sgsd.config import SamplingConfig
from sgsd.errors import ConfigError, DataInvalid, TrainingError
from sgsd.generate.transformers import TransformersGenerator
from sgsd.prompts import guided_user_text, render
from sgsd.records import Completion, Rollout
from sgsd.trainer import SGSDTrainer, draw_seed
from skillbank.store import Bank

from .restated import Restated
from .training import (
    Pairs,
    TextVerifier,
    Watch,
    arguments,
    make_bank,
    make_trainer,
    method,
    problems,
)

# transformers 5.23 renames them; peft 0.21 and transformers 5.19 know the old names alone
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")
LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.open(make_bank(tmp_path / "bank")) as bank:
        yield bank


@pytest.fixture
def pairs(bank: Bank) -> Pairs:
    """From none to four teachers a problem."""
    return Pairs(bank, (4, 0, 2, 1, 3))


# ---- the step against its restatement --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"tau": 2.0, "clip": 0.5, "eps": 0.15},
        {"gate": "quadratic"},
        {"polarity": "off"},
        {"support_baseline": "pool"},
        {"support_baseline": "placebo"},
        {"support_top_k": 3},
        {"support_top_k": 3, "gate": "quadratic", "eps": 0.2},
        {"support_top_k": 3, "polarity": "off"},
    ],
    ids=lambda objective: "-".join(f"{key}={value}" for key, value in objective.items()) or "paper",
)
def test_a_step_equals_the_method_restated(tiny: Any, pairs: Pairs, tmp_path: Path, objective: dict[str, Any]) -> None:
    trainer, watch = make_trainer(
        tiny, pairs, tmp_path, config=method(objective=objective), gradient_accumulation_steps=2
    )
    seen: list[Rollout] = []
    trainer.on_rollouts = lambda step, rollouts: seen.extend(rollouts)
    trainer.train()
    plain = Restated(tiny.model().double(), tiny.tokenizer(), pairs, **objective)
    expected = plain.run(seen)
    assert len(seen) == 8
    assert {rollout.verdict.outcome for rollout in seen} == {"correct", "wrong", "unverifiable"}
    assert abs(expected) > 1e-4
    assert watch.losses[0] == pytest.approx(expected, rel=1e-6)  # the parent adds losses up in float32
    for name, parameter in plain.model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(watch.gradients[0][name], parameter.grad, rtol=1e-6, atol=1e-9)


def test_teachers_read_with_their_own_weights(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    config = method(teacher={"weights": "base"})
    trainer, watch = make_trainer(tiny, pairs, tmp_path, config=config, max_steps=2, learning_rate=0.05)
    student, seen = tiny.model().double(), []

    def note(step: int, rollouts: Any) -> None:
        if step == 2:
            student.load_state_dict(trainer.student.state_dict())
            seen.extend(rollouts)

    trainer.on_rollouts = note
    trainer.train()
    initial = tiny.model().double()
    expected = Restated(student, tiny.tokenizer(), pairs, teacher=initial).run(seen)
    assert expected != pytest.approx(Restated(student, tiny.tokenizer(), pairs).run(seen), rel=0.1)
    assert watch.losses[1] == pytest.approx(expected, rel=1e-6)


def test_one_student_pass_and_k_teacher_passes_within_the_budget(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    config = method(teacher={"token_budget": 200})
    trainer, _ = make_trainer(tiny, pairs, tmp_path, config=config, gradient_accumulation_steps=2)
    passes: list[tuple[bool, bool, tuple[int, int]]] = []
    trainer.student.model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(
            (torch.is_grad_enabled(), module.training, tuple(kwargs["input_ids"].shape))
        ),
        with_kwargs=True,
    )
    seen: list[Rollout] = []
    trainer.on_rollouts = lambda step, rollouts: seen.extend(rollouts)
    trainer.train()
    verified = [r for r in seen if r.verdict.outcome != "unverifiable"]
    teachers = [
        len(found) for found in pairs.retrieve([""] * 8, [r.problem.problem_id for r in verified])[: len(verified)]
    ]
    student = [shape for grad, _, shape in passes if grad]
    assert len(student) == 2  # micro-batches
    assert sum(rows for rows, _ in student) == sum(count > 0 for count in teachers)
    others = [shape for grad, _, shape in passes if not grad]
    assert sum(rows for rows, _ in others) == sum(teachers)
    assert len(others) > 1
    assert all(rows == 1 or rows * length <= 200 for rows, length in others)
    assert not any(training for _, training, _ in passes)


@pytest.mark.parametrize("objective", [{}, {"support_baseline": "placebo"}, {"support_top_k": 3}])
def test_micro_batches_do_not_change_the_step(
    tiny: Any, pairs: Pairs, tmp_path: Path, objective: dict[str, Any]
) -> None:
    watches = []
    for size, accumulation in ((4, 1), (2, 2), (1, 4)):
        trainer, watch = make_trainer(
            tiny,
            pairs,
            tmp_path / str(size),
            config=method(objective=objective),
            max_steps=3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        watches.append(watch)
    whole, *split = watches
    assert len(whole.losses) == 3
    assert any(abs(loss) > 1e-3 for loss in whole.losses)
    for watch in split:
        assert watch.losses == pytest.approx(whole.losses, rel=1e-6)
        for mine, theirs in zip(watch.gradients, whole.gradients, strict=True):
            for name, gradient in mine.items():
                torch.testing.assert_close(gradient, theirs[name], rtol=1e-6, atol=1e-9)


def test_n_counts_examples_that_teach_nothing(tiny: Any, bank: Bank, tmp_path: Path) -> None:
    """Six examples of which one has teachers: its part of the loss is a sixth of what it is alone."""
    losses = []
    for count in (1, 6):
        watch = Watch()
        trainer, watch = make_trainer(
            tiny,
            Pairs(bank, (4, 0, 0, 0, 0, 0)),
            tmp_path / str(count),
            data=problems(count),
            verifier=TextVerifier("wrong"),
            per_device_train_batch_size=6,
        )
        trainer.train()
        losses.append(watch.losses[0])
    assert losses[1] == pytest.approx(losses[0] / 6, rel=1e-6)
    assert watch.logs[0]["examples"] == 6
    assert watch.logs[0]["without_teachers"] == 5


# ---- rollouts --------------------------------------------------------------------------------------------------------


class Spy:
    """A generator that tells what it was asked."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls: list[tuple[int, int]] = []
        self.drawn: list[list[Completion]] = []

    def generate(self, prompts: Any, sampling: Any, *, seed: int, on_progress: Any = None) -> list[list[Completion]]:
        self.calls.append((len(prompts), seed))
        found: list[list[Completion]] = self.inner.generate(prompts, sampling, seed=seed)
        self.drawn += found
        return found


def with_spy(tiny: Any, pairs: Pairs, out: Path, **changes: Any) -> tuple[SGSDTrainer, Spy, Watch]:
    model = tiny.model()
    spy = Spy(TransformersGenerator(model, tiny.tokenizer()))
    trainer, watch = make_trainer(tiny, pairs, out, model=model, generator=spy, **changes)
    return trainer, spy, watch


def test_a_window_is_drawn_in_one_call_and_cut_at_its_ends(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    trainer, spy, watch = with_spy(
        tiny,
        pairs,
        tmp_path,
        config=method(rollout={"max_new_tokens": 30}),
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        seed=7,
    )
    trainer.train()
    # eight problems: a window of six, and the two that are left of the epoch
    assert spy.calls == [(6, draw_seed(7, 0, 0)), (2, draw_seed(7, 1, 0))]
    completions = [completion for found in spy.drawn for completion in found]
    lengths = [len(completion.token_ids) for completion in completions]
    assert min(lengths) < 30
    for completion in completions:
        assert (tiny.end_id in completion.token_ids) == (not completion.truncated)
        assert tiny.end_id not in completion.token_ids[:-1]
        assert tiny.pad_id not in completion.token_ids or completion.token_ids[-1] != tiny.pad_id
    assert trainer.generated_tokens == sum(lengths)
    assert [log["generated_tokens"] for log in watch.logs] == [sum(lengths[:6]), sum(lengths[6:])]


def test_what_else_draws_random_numbers_changes_nothing(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    runs = []
    for noisy in (False, True):
        trainer, spy, watch = with_spy(tiny, pairs, tmp_path / str(noisy), max_steps=3)
        if noisy:
            torch.manual_seed(99)
            trainer.on_rollouts = lambda step, rollouts, t=trainer, s=spy: (
                torch.rand(step),
                s.inner.generate([[3, 4]], SamplingConfig(max_new_tokens=3), seed=1),
            )
        trainer.train()
        runs.append((watch.losses, [[c.token_ids for c in found] for found in spy.drawn]))
    assert runs[0] == runs[1]
    assert len({tuple(map(tuple, found)) for found in runs[0][1]}) > 6  # completions differ


def test_seeds_differ_by_step_rank_and_seed_and_stay_small() -> None:
    seeds = {draw_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)}
    assert len(seeds) == 600
    assert draw_seed(2**32 - 1, 10**6, 4098) < 2**64


# ---- what the pass does to the network -------------------------------------------------------------------------------


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_checkpointing_gives_the_same_gradients(tiny: Any, pairs: Pairs, tmp_path: Path, peft_config: Any) -> None:
    watches = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        trainer, watch = make_trainer(
            tiny,
            pairs,
            tmp_path / str(checkpointing),
            peft_config=peft_config,
            max_steps=2,
            activation_checkpointing=checkpointing,
        )
        layer = next(m for m in trainer.student.modules() if type(m).__name__ == "Qwen3DecoderLayer")
        recomputed: list[bool] = []
        layer.self_attn.register_forward_hook(lambda *a, r=recomputed: r.append(torch.is_grad_enabled()))
        trainer.train()
        assert sum(recomputed) == (4 if checkpointing else 2)  # passes with gradient: again in the backward pass
        watches.append(watch)
    assert watches[1].losses == watches[0].losses
    for mine, theirs in zip(watches[1].gradients, watches[0].gradients, strict=True):
        assert len(mine) == len(theirs) > 5
        for name, gradient in mine.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-9, atol=1e-12)


def test_lora_trains_the_adapter_alone(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    trainer, watch = make_trainer(tiny, pairs, tmp_path, model=tiny.model(), peft_config=LORA, max_steps=2)
    before = {name: p.detach().clone() for name, p in trainer.student.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.student.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert watch.gradients[0].keys() == {name for name in before if "lora_" in name}


def dropouts_that_acted(trainer: SGSDTrainer) -> set[str]:
    """Names of the dropout modules that a student's pass ran through in training mode."""
    acted: set[str] = set()
    for name, module in trainer.student.named_modules():
        if isinstance(module, nn.Dropout):

            def note(module: nn.Module, *_: Any, name: str = name) -> None:
                if module.training:
                    acted.add(name)
                    assert torch.is_grad_enabled()  # never a teacher

            module.register_forward_hook(note)
    return acted


def test_dropout_is_off_unless_the_adapter_asks_for_it(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    model = tiny.model()
    for layer in model.model.layers:  # a model with dropout of its own, in a module and in a function
        layer.mlp.act_fn = nn.Sequential(layer.mlp.act_fn, nn.Dropout(0.5))
        layer.self_attn.attention_dropout = 0.5
    trainer, watch = make_trainer(tiny, pairs, tmp_path / "a", model=model, max_steps=2)
    acted = dropouts_that_acted(trainer)
    trainer.train()
    assert acted == set()
    plain, same = make_trainer(tiny, pairs, tmp_path / "b", model=tiny.model(), max_steps=2)
    plain.train()
    assert watch.losses == same.losses

    asking = LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trainer, _ = make_trainer(tiny, pairs, tmp_path / "c", model=tiny.model(), peft_config=asking)
    acted = dropouts_that_acted(trainer)
    trainer.train()
    assert len(acted) == 2
    assert all("lora_dropout" in name for name in acted)


@pytest.mark.parametrize("case", ["empty bank", "no teachers", "unverifiable"])
@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_nothing_to_teach_is_a_zero_that_backpropagates(
    tiny: Any, bank: Bank, tmp_path: Path, case: str, peft_config: Any
) -> None:
    empty = Bank.open(make_bank(tmp_path / "empty", pairs=0))
    teachers = Pairs(empty, (0,)) if case == "empty bank" else Pairs(bank, (0,) if case == "no teachers" else (4,))
    verifier = TextVerifier("unverifiable") if case == "unverifiable" else None
    for objective in ({}, {"support_baseline": "placebo"}, {"support_top_k": 2}):
        trainer, watch = make_trainer(
            tiny,
            teachers,
            tmp_path / "out",
            verifier=verifier,
            peft_config=peft_config,
            config=method(objective=objective),
            gradient_accumulation_steps=2,
        )
        before = {name: p.detach().clone() for name, p in trainer.student.named_parameters()}
        trainer.train()
        assert watch.losses == [0.0]
        assert watch.gradients[0]
        assert all(not gradient.any() for gradient in watch.gradients[0].values())
        assert all(torch.equal(p, before[name]) for name, p in trainer.student.named_parameters())
        assert (watch.logs[0]["helpful"], watch.logs[0]["support"]) == (0.0, 0.0)
    empty.close()


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    model = tiny.model()
    trainer, _ = make_trainer(tiny, pairs, tmp_path, model=model)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(TrainingError, match="the loss of step 1 is nan: lower the learning rate"):
        trainer.train()


def test_a_gradient_that_is_no_number_ends_the_run_before_it_is_saved(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    trainer, _ = make_trainer(tiny, pairs, tmp_path, save_strategy="steps", save_steps=1)
    trainer.student.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=r"the gradient norm of step 1 is (inf|nan): lower"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_problems_that_are_too_long_are_counted(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    lengths = sorted(len(render(tiny.tokenizer(), guided_user_text(p.problem, ()))) for p in problems())
    limit = lengths[5]
    kept = sum(length <= limit for length in lengths)
    assert kept < 8
    trainer, _ = make_trainer(tiny, pairs, tmp_path, config=method(rollout={"max_prompt_tokens": limit}))
    assert trainer.dropped_problems == 8 - kept
    assert len(trainer.train_dataset) == kept
    expected = f"the shortest prompt has {lengths[0]} tokens, rollout.max_prompt_tokens is 3"
    with pytest.raises(DataInvalid, match=expected):
        make_trainer(tiny, pairs, tmp_path, config=method(rollout={"max_prompt_tokens": 3}))
    with pytest.raises(DataInvalid, match="there are no problems"):
        make_trainer(tiny, pairs, tmp_path, data=[])


def test_teachers_that_are_too_long_are_counted(tiny: Any, bank: Bank, tmp_path: Path) -> None:
    pairs = Pairs(bank, (4,))
    trainer, _ = make_trainer(tiny, pairs, tmp_path)
    lengths = [len(ids) for p in problems() for ids, _ in Restated(nn.Module(), tiny.tokenizer(), pairs).teachers(p)]
    limit = sorted(lengths)[10]
    config = method(rollout={"max_prompt_tokens": limit})
    trainer, watch = make_trainer(tiny, pairs, tmp_path, config=config, per_device_train_batch_size=8)
    trainer.train()
    assert watch.logs[0]["teachers_too_long"] == sum(length > limit for length in lengths)


def test_a_model_without_its_tokenizer_is_refused(tiny: Any, pairs: Pairs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs its tokenizer"):
        SGSDTrainer(model=tiny.model(), args=arguments(tmp_path), method=method(), bank=pairs)


# ---- the python interface --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["objects", "names", "dataset", "lora"])
def test_as_the_readme_shows_it(tiny: Any, tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    from sgsd import SGSDConfig, SGSDTrainer

    rows = [{"problem": problem.problem, "answer": problem.answer} for problem in problems(4)]
    given: dict[str, Any] = {"model": tiny.model(), "processing_class": tiny.tokenizer(), "train_dataset": rows}
    if kind == "names":
        given |= {"model": str(tiny_folder), "processing_class": None}
    if kind == "dataset":
        given["train_dataset"] = datasets.Dataset.from_list(rows)
    if kind == "lora":
        given["peft_config"] = LORA
    values = {"rollout": {"max_new_tokens": 6}, "bank": {"mode": "random", "k": 2}, "ledger": {"placebo_share": 1}}
    trainer = SGSDTrainer(
        args=arguments(tmp_path / "out", max_steps=2),
        method=SGSDConfig.model_validate(values),
        bank=make_bank(tmp_path / "bank"),
        verifier="exact",
        **given,
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    weights = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    assert (tmp_path / "student" / weights).is_file()
    assert trainer.state.global_step == 2
    settings = json.loads((tmp_path / "student" / "generation_config.json").read_text())
    assert settings["max_new_tokens"] == 6
    with Bank.open(tmp_path / "bank") as bank:
        assert (
            bank.stats().usage == (2 + 1) * 2 * 4
        )  # two teachers and a placebo, of four rollouts in each of two steps


def test_sgsd_is_light_until_a_trainer_is_asked_for() -> None:
    code = (
        "import sys, sgsd; heavy = {'torch', 'transformers', 'pydantic'}; assert not heavy & set(sys.modules);"
        "from sgsd import SGSDConfig; assert 'torch' not in sys.modules;"
        "assert not hasattr(sgsd, 'nothing') and 'SGSDTrainer' in sgsd.__all__"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
