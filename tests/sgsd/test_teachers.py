"""Pools of teachers and the weights they are read under, with values worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from sgsd.config import TeacherConfig
from sgsd.errors import TrainingError
from sgsd.prompts import NEUTRAL, Guidance, guided_user_text, render
from sgsd.records import Problem
from sgsd.score import ScoreRow, score
from sgsd.teachers import SkillPairPool
from sgsd.weights import TeacherWeights
from skillbank.store import Bank

from .training import Pairs, make_bank, make_trainer, method, mined, problems

# transformers 5.23 renames them; peft 0.21 and transformers 5.19 know the old names alone
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")
ROW = ScoreRow([3, 4, 5, 6], [7, 8, 9])
LORA = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", init_lora_weights=False)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.open(make_bank(tmp_path / "bank")) as bank:
        yield bank


def trained(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def step(model: Any, by: float) -> None:
    """An update that can be foreseen: every trained weight grows by `by`."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by


def seen_by_teacher(weights: TeacherWeights) -> dict[str, Tensor]:
    with weights.active():
        return trained(weights.model)


def assert_all(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("config", "offset"),
    [
        # steps of 1, 2, 4 and 8 thousandths: the teacher's weights are the initial ones and this many thousandths
        ({"weights": "live"}, 15.0),
        ({"weights": "base"}, 0.0),
        ({"weights": "ema", "ema_decay": 0.5}, 9.6875),  # 0.5, 1.75, 4.375, 9.6875 after 1, 3, 7, 15
        ({"weights": "periodic", "period_steps": 3}, 7.0),
        ({"weights": "periodic", "period_steps": 5}, 0.0),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_teacher_weights_after_known_steps(tiny: Any, config: dict[str, Any], offset: float) -> None:
    model = tiny.model().double()
    initial = trained(model)
    weights = TeacherWeights(TeacherConfig.model_validate(config), model)
    for number, size in enumerate((1, 2, 4, 8), start=1):
        step(model, size / 1000)
        weights.after_step(number)
    students = trained(model)
    assert_all(seen_by_teacher(weights), {name: value + offset / 1000 for name, value in initial.items()})
    assert all(torch.equal(p, students[name]) for name, p in model.named_parameters())


def test_a_teacher_pass_leaves_the_student_bit_for_bit(tiny: Any) -> None:
    model = tiny.model()
    weights = TeacherWeights(TeacherConfig(weights="ema", ema_decay=0.9), model)
    step(model, 0.03)
    weights.after_step(1)
    step(model, 0.04)
    before = trained(model)
    places = [p.data_ptr() for p in model.parameters()]
    alone = score(model, [ROW])
    with weights.active():
        teacher = score(model, [ROW])
    assert not torch.equal(teacher, alone)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert [p.data_ptr() for p in model.parameters()] == places  # the optimiser still holds them
    assert torch.equal(score(model, [ROW]), alone)
    with pytest.raises(RuntimeError, match="in the middle"), weights.active():
        raise RuntimeError("in the middle")
    assert [p.data_ptr() for p in model.parameters()] == places


def test_base_switches_an_adapter_off_and_stores_nothing(tiny: Any, tmp_path: Path) -> None:
    plain = score(tiny.model(), [ROW])
    model = get_peft_model(tiny.model(), LORA)
    weights = TeacherWeights(TeacherConfig(weights="base"), model)
    step(model, 0.05)
    assert not torch.allclose(score(model, [ROW]), plain, atol=1e-2)
    with weights.active():
        torch.testing.assert_close(score(model, [ROW]), plain, rtol=0, atol=0)
    assert not torch.allclose(score(model, [ROW]), plain, atol=1e-2)
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())
    weights.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_an_adapter_run_holds_the_adapter_alone(tiny: Any, tmp_path: Path) -> None:
    model = get_peft_model(tiny.model(), LORA)
    weights = TeacherWeights(TeacherConfig(weights="periodic", period_steps=2), model)
    step(model, 0.01)
    weights.save(tmp_path)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "teacher.safetensors")
    assert stored.keys() == {name for name, _ in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("kind", ["ema", "periodic"])
def test_weights_go_on_where_a_checkpoint_left_them(tiny: Any, tmp_path: Path, kind: Any) -> None:
    config = TeacherConfig(weights=kind, ema_decay=0.75, period_steps=2)
    model, other = tiny.model(), tiny.model(seed=5)
    weights, resumed = TeacherWeights(config, model), TeacherWeights(config, other)
    step(model, 0.01)
    weights.after_step(2)
    step(model, 0.01)
    weights.save(tmp_path)
    resumed.load(tmp_path)
    other.load_state_dict(model.state_dict())
    for number in (3, 4):
        for one, its in ((model, weights), (other, resumed)):
            step(one, 0.02)
            its.after_step(number)
    mine, theirs = seen_by_teacher(weights), seen_by_teacher(resumed)
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_checkpoint_without_the_teachers_is_refused(tiny: Any, tmp_path: Path) -> None:
    live = TeacherWeights(TeacherConfig(), tiny.model())
    live.save(tmp_path)
    live.load(tmp_path)
    ema = TeacherWeights(TeacherConfig(weights="ema"), tiny.model())
    with pytest.raises(TrainingError, match=r"not made with\s+teacher.weights ema"):
        ema.load(tmp_path)


def test_an_average_of_bfloat16_weights_is_kept_in_float32(tiny: Any) -> None:
    """A hundredth of a step of 0.05 is lost in bfloat16 next to 1."""
    model = tiny.model().to(torch.bfloat16)
    weights = TeacherWeights(TeacherConfig(weights="ema", ema_decay=0.99), model)
    model.model.norm.weight.data.fill_(1.05)
    for number in range(1, 51):
        weights.after_step(number)
    expected = 1.05 - 0.05 * 0.99**50
    seen = seen_by_teacher(weights)["model.norm.weight"]
    assert seen.dtype == torch.bfloat16
    torch.testing.assert_close(seen.float(), torch.full_like(seen.float(), expected), rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", ["live", "base", "ema", "periodic"])
def test_the_trainer_follows_with_its_teachers(tiny: Any, bank: Bank, tmp_path: Path, kind: str) -> None:
    """After n steps of training the teachers are what the trainer's own weights say they must be."""
    config = method(teacher={"weights": kind, "ema_decay": 0.5, "period_steps": 2})
    trainer, _ = make_trainer(tiny, Pairs(bank), tmp_path, config=config, max_steps=3)
    path: list[dict[str, Tensor]] = [trained(trainer.student)]
    trainer.on_rollouts = lambda number, rollouts: path.append(trained(trainer.student)) if number > 1 else None
    trainer.train()
    path.append(trained(trainer.student))
    assert len(path) == 4
    average = path[0]
    for later in path[1:]:
        average = {name: 0.5 * value + 0.5 * later[name] for name, value in average.items()}
    expected = {"live": path[3], "base": path[0], "periodic": path[2], "ema": average}[kind]
    assert_all(seen_by_teacher(trainer.teacher_weights), expected)


# ---- pools -----------------------------------------------------------------------------------------------------------


def test_a_pool_prompts_one_teacher_a_pair(tiny: Any, bank: Bank) -> None:
    tokenizer, some = tiny.tokenizer(), problems(3)
    pool = SkillPairPool(Pairs(bank, (2, 0, 3)), tokenizer, max_prompt_tokens=400, placebo_share=1.0)
    pools = pool(some)
    assert [len(teachers) for teachers in pools.teachers] == [2, 0, 3]
    first = pools.teachers[2][0]
    pair = mined(2)
    text = guided_user_text(some[2].problem, [Guidance(pair.skill, pair.mistake)])
    assert list(first.prompt_ids) == render(tokenizer, text)
    assert [teacher.weight for teacher in pools.teachers[2]] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert first.label == {"skill_id": 7, "mistake_id": 8, "pair_id": None, "revision": 1}
    assert pools.too_long == 0
    neutral = [placebo.prompt_ids for placebo in pools.placebos if placebo]
    assert neutral == [tuple(render(tokenizer, guided_user_text(p.problem, [NEUTRAL]))) for p in some]


def test_a_pool_without_placebos_thinking_and_with_a_limit(tiny: Any, bank: Bank) -> None:
    tokenizer, some = tiny.tokenizer(), problems(4)
    whole = SkillPairPool(Pairs(bank), tokenizer, max_prompt_tokens=400, thinking=True)(some)
    assert whole.placebos == [None] * 4
    think = tokenizer.convert_tokens_to_ids("think")
    assert all(teacher.prompt_ids[-1] == think for teachers in whole.teachers for teacher in teachers)
    lengths = [[len(teacher.prompt_ids) for teacher in teachers] for teachers in whole.teachers]
    limit = sorted(length for of_one in lengths for length in of_one)[7]
    cut = SkillPairPool(Pairs(bank), tokenizer, max_prompt_tokens=limit, thinking=True)(some)
    assert cut.too_long == sum(length > limit for of_one in lengths for length in of_one) > 0
    for before, after in zip(whole.teachers, cut.teachers, strict=True):
        assert after == [teacher for teacher in before if len(teacher.prompt_ids) <= limit]  # weights as they were


def test_placebos_are_drawn_by_seed_step_and_problem(tiny: Any, bank: Bank) -> None:
    """The same on every rank and in a resumed run, and a share of them."""
    some = [Problem(f"p{n}", "What is 1 ?", "1") for n in range(200)]

    def drawn(share: float, seed: int, step: int, among: list[Problem] = some) -> list[str]:
        pool = SkillPairPool(Pairs(bank), tiny.tokenizer(), max_prompt_tokens=400, placebo_share=share, seed=seed)
        found = zip(among, pool(among, step).placebos, strict=True)
        return [problem.problem_id for problem, placebo in found if placebo is not None]

    third = drawn(0.3, 1, 5)
    assert 40 <= len(third) <= 80
    assert drawn(0.3, 1, 5, some[::-2]) == [p.problem_id for p in some[::-2] if p.problem_id in third]
    assert third != drawn(0.3, 1, 6) != drawn(0.3, 2, 6)
    assert set(third) <= set(drawn(0.5, 1, 5))
    assert (drawn(0.0, 1, 5), len(drawn(1.0, 1, 5))) == ([], 200)


def test_the_revision_is_the_one_retrieved_under(tiny: Any, bank: Bank) -> None:
    pool = SkillPairPool(Pairs(bank), tiny.tokenizer(), max_prompt_tokens=400)
    assert pool(problems(1)).teachers[0][0].label["revision"] == 1
    bank.add_mined([mined(9)], actor="someone")
    assert pool(problems(1)).teachers[0][0].label["revision"] == 2
