"""OPSD and OPD between trainer and tensors: parity with plain formulas over whole logits, in value and gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgsd.config import OPDConfig, OPSDConfig, SamplingConfig, TeacherConfig, parse_config
from sgsd.errors import ConfigError
from sgsd.methods import Method, Window, opd_method, opsd_method
from sgsd.methods.distribution import DistributionObjective, check_same_tokenizer, opd_token_loss, opsd_token_loss
from sgsd.objectives.divergence import DivergenceSettings, divergence
from sgsd.records import Completion, Problem, Rollout, TeacherPrompt, Verdict
from sgsd.teachers import Example, PlainPool, ReferencePool
from sgsd.trainer import DistillationTrainer

from .conftest import WORDS, tiny_model, tiny_tokenizer
from .training import Recorded, TextVerifier, Watch, arguments, method, problems

PROMPT, PRIVILEGED = (3, 4), (3, 10, 11)


def example(ids: Sequence[int], teachers: int = 1, name: str = "p") -> Example:
    rollout = Rollout(Problem(name, "?", "1"), PROMPT, Completion(tuple(ids), "", False), Verdict("unverifiable"))
    return Example(rollout, (TeacherPrompt(PRIVILEGED, 1.0),) * teachers)


def window() -> list[Example]:
    return [example([7, 8, 9, 2]), example([6]), example([8, 9], 0), example([9, 8, 7, 6, 5])]


def logits(model: Any, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
    """[T, V], one row at a time."""
    row = torch.tensor([[*prompt, *ids]])
    return model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1]


def plain_top_k(student: Tensor, teacher: Tensor, k: int) -> Tensor:
    """Reverse KL on the student's k likeliest, weights normalised there; token by token."""
    p, q = student.log_softmax(-1), teacher.log_softmax(-1).detach()
    total = torch.zeros((), dtype=p.dtype)
    for t in range(len(p)):
        ids = p[t].topk(k).indices
        weight = p[t, ids].exp().detach()
        advantage = weight / weight.sum() * (q[t, ids] - p[t, ids].detach())
        total = total - (advantage * p[t, ids]).sum()
    return total


LOSSES = {
    "kl": (
        opsd_token_loss(OPSDConfig(), 1.1),
        lambda s, t: divergence(s, t, DivergenceSettings(temperature=1.1)).sum(),
    ),
    "jsd": (
        opsd_token_loss(OPSDConfig(beta=0.5, clip=None, temperature=1.0), 1.1),
        lambda s, t: divergence(s, t, DivergenceSettings(beta=0.5, clip=None)).sum(),
    ),
    "top_k": (opd_token_loss(OPDConfig(k=3)), lambda s, t: plain_top_k(s, t, 3)),
    "full": (
        opd_token_loss(OPDConfig(loss="full")),
        lambda s, t: (s.softmax(-1) * (s.log_softmax(-1) - t.detach().log_softmax(-1))).sum(),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("own_teacher", [True, False])
def test_loss_and_gradients_equal_those_of_whole_logits(name: str, own_teacher: bool) -> None:
    token_loss, plain = LOSSES[name]
    model, other = tiny_model().double(), tiny_model(seed=5).double()
    objective = DistributionObjective(token_loss, token_budget=20, teacher=None if own_teacher else other)
    scored = objective.score_teachers(model, window())
    assert [e.scored for e in scored] == [True, True, False, True]
    result = objective.loss(model, scored, Window(examples=4, tokens=12))
    expected = (
        sum(
            plain(
                logits(model, PROMPT, e.rollout.completion.token_ids),
                logits(model if own_teacher else other, PRIVILEGED, e.rollout.completion.token_ids).detach(),
            )
            for e in window()
            if e.teachers
        )
        / 12
    )
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert result.sums["loss_tokens"] == 10
    assert objective.metrics(result.sums)["token_loss"] == pytest.approx(expected.item() * 12 / 10)
    weights = list(model.parameters())
    mine = torch.autograd.grad(result.loss, weights, allow_unused=True)
    theirs = torch.autograd.grad(expected, weights, allow_unused=True)
    for ours, restated in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours, restated, rtol=1e-7, atol=1e-10)


def test_sampled_tokens_carry_the_policy_gradient() -> None:
    model = tiny_model().double()
    objective = DistributionObjective(opd_token_loss(OPDConfig(loss="sampled")), token_budget=100)
    result = objective.loss(model, objective.score_teachers(model, window()), Window(4, 12))
    expected = 0.0
    for e in window():
        ids = torch.tensor(e.rollout.completion.token_ids)[:, None]
        if e.teachers:
            p = logits(model, PROMPT, ids[:, 0].tolist()).log_softmax(-1).gather(1, ids)
            q = logits(model, PRIVILEGED, ids[:, 0].tolist()).log_softmax(-1).gather(1, ids)
            expected += (-(q - p) * p).sum().item() / 12
    assert result.loss.item() == pytest.approx(expected, rel=1e-9)


def test_a_loss_is_the_sum_of_its_parts_and_nothing_to_teach_gives_zeros() -> None:
    model = tiny_model().double()
    objective = DistributionObjective(LOSSES["jsd"][0], token_budget=100)
    scored = objective.score_teachers(model, window())
    whole = objective.loss(model, scored, Window(4, 12)).loss.item()
    parts = [objective.loss(model, [one], Window(4, 12)) for one in scored]
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole, rel=1e-9)
    parts[2].loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in model.parameters())


def test_pools_show_what_they_are_to_show() -> None:
    tokenizer = tiny_tokenizer()
    given = [
        Problem("a", "What is 1 + 2 ?", "3", solution="1 + 2 is 3"),
        Problem("b", "What is 1 + 2 ?", "3"),
        Problem("c", "What is 1 ?", "1", solution="step " * 300),
    ]
    pools = ReferencePool(tokenizer, privilege="solution", max_prompt_tokens=200)(given)
    assert [len(teachers) for teachers in pools.teachers] == [1, 1, 0]
    assert pools.too_long == 1
    shown = [tokenizer.decode(teachers[0].prompt_ids) for teachers in pools.teachers[:2]]
    assert "1 + 2 is 3" in shown[0]
    assert "is 3" not in shown[1]
    assert shown[1].index("3") < shown[1].index("What")  # the answer alone
    answers = ReferencePool(tokenizer, privilege="answer", max_prompt_tokens=200)(given).teachers
    assert all("is 3" not in tokenizer.decode(teachers[0].prompt_ids) for teachers in answers)
    plain = PlainPool(tokenizer)(given)
    assert [teachers[0].prompt_ids[-1] for teachers in plain.teachers] == [WORDS.index("assistant")] * 3


def test_another_tokenizer_is_refused_by_its_first_difference() -> None:
    other = tiny_tokenizer()
    other.add_tokens(["more"])
    with pytest.raises(ConfigError, match=rf"token {len(WORDS)} is 'more', the student's None"):
        check_same_tokenizer(tiny_tokenizer(), other, "big")
    check_same_tokenizer(tiny_tokenizer(), tiny_tokenizer(), "big")


def test_configuration_of_the_methods() -> None:
    assert parse_config({"method": "opsd"}).teacher.weights == "base"
    assert parse_config({"method": "opsd", "teacher": {"weights": "ema"}}).teacher.weights == "ema"
    assert parse_config({"method": "sgsd"}).teacher == TeacherConfig()
    with pytest.raises(ConfigError, match=r"teacher\.weights = base: the teacher of opd is opd\.teacher"):
        parse_config({"method": "opd", "teacher": {"weights": "base"}})
    with pytest.raises(ConfigError, match=r"opd\.teacher is not set"):
        opd_method(parse_config({"method": "opd"}), tiny_tokenizer())


def trained(tmp_path: Path, made: Method, steps: int = 3, **changes: Any) -> tuple[DistillationTrainer, Watch]:
    watch = Watch()
    trainer = DistillationTrainer(
        model=tiny_model().double(),
        args=arguments(tmp_path, max_steps=steps, train_sampling_strategy="sequential", **changes),
        config=method(teacher={"weights": "base"}) if made.name == "opsd" else method(),
        method=made,
        verifier=TextVerifier(),
        train_dataset=problems(),
        processing_class=tiny_tokenizer(),
        generator=Recorded(),
        callbacks=[watch],
    )
    trainer.train()
    return trainer, watch


@pytest.mark.parametrize("name", ["opsd", "opd"])
def test_a_split_into_micro_batches_changes_nothing(tmp_path: Path, name: str) -> None:
    def made() -> Method:
        if name == "opsd":
            return opsd_method(parse_config({"method": "opsd", "opsd": {"clip": None}}), tiny_tokenizer())
        objective = DistributionObjective(opd_token_loss(OPDConfig()), token_budget=99, teacher=tiny_model(7).double())
        return Method("opd", PlainPool(tiny_tokenizer()), objective)

    whole = trained(tmp_path / "a", made(), per_device_train_batch_size=4)[1]
    split = trained(tmp_path / "b", made(), per_device_train_batch_size=1, gradient_accumulation_steps=4)[1]
    assert whole.losses == pytest.approx(split.losses, rel=1e-6)
    assert whole.losses[0] != 0
    for one, other in zip(whole.gradients, split.gradients, strict=True):
        for key, gradient in one.items():
            torch.testing.assert_close(gradient, other[key], rtol=1e-6, atol=1e-9)
    assert {"token_loss", "reward"} <= whole.logs[0].keys()
    assert "helpful" not in whole.logs[0]


class Numbered(Recorded):
    """Each further completion of a prompt is another one, whether asked for by n or by asking for the prompt again."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, seed: int, on_progress: Any = None
    ) -> list[list[Completion]]:
        asked: Counter[tuple[int, ...]] = Counter()
        drawn = []
        for prompt in map(tuple, prompts):
            first = asked[prompt]
            asked[prompt] += sampling.n
            drawn.append([self.complete(prompt, number) for number in range(first, asked[prompt])])
        return drawn


@pytest.mark.parametrize("name", ["opsd", "opd"])
def test_rollouts_of_one_problem_count_like_those_of_several(tmp_path: Path, name: str) -> None:
    """Two problems of three rollouts each are a step of six, in two micro-batches or in one."""

    def losses(where: str, n: int, data: Sequence[Problem], **sizes: int) -> Watch:
        made = opsd_method(parse_config({"method": "opsd", "opsd": {"clip": None}}), tiny_tokenizer())
        if name == "opd":
            teacher = tiny_model(7).double()
            objective = DistributionObjective(opd_token_loss(OPDConfig()), token_budget=99, teacher=teacher)
            made = Method("opd", PlainPool(tiny_tokenizer()), objective)
        watch = Watch()
        trainer = DistillationTrainer(
            model=tiny_model().double(),
            args=arguments(tmp_path / where, max_steps=2, train_sampling_strategy="sequential", **sizes),
            config=parse_config({"method": name, "rollout": {"n": n, "max_new_tokens": 8, "temperature": 1.0}}),
            method=made,
            verifier=TextVerifier(),
            train_dataset=data,
            processing_class=tiny_tokenizer(),
            generator=Numbered(),
            callbacks=[watch],
        )
        trainer.train()
        tokens.append(trainer.generated_tokens)
        return watch

    tokens: list[int] = []

    thrice = [problem for problem in problems(4) for _ in range(3)]
    expected = losses("thrice", 1, thrice, per_device_train_batch_size=6)
    for where, sizes in (
        ("whole", {"per_device_train_batch_size": 2}),
        ("split", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}),
    ):
        found = losses(where, 3, problems(4), **sizes)
        assert tokens[-1] == tokens[0] > 0
        assert found.losses == pytest.approx(expected.losses, rel=1e-6)
        assert expected.losses[0] != 0
        for one, other in zip(found.gradients, expected.gradients, strict=True):
            for key, gradient in one.items():
                torch.testing.assert_close(gradient, other[key], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "instead"), [("sgsd", "raise the batch"), ("grpo", "grpo.gen"), ("sft", "leave it")])
def test_other_methods_take_one_rollout_a_problem(name: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=rf"rollout\.n = 2: {name} .*{instead}"):
        parse_config({"method": name, "rollout": {"n": 2}})


def test_opsd_reads_the_initial_student(tmp_path: Path) -> None:
    """With the answer out of sight and the same prompt, only the frozen teacher differs: nothing to learn at first."""
    made = opsd_method(parse_config({"method": "opsd", "opsd": {"clip": None}}), tiny_tokenizer())
    made = Method("opsd", PlainPool(tiny_tokenizer()), made.objective)
    trainer, watch = trained(tmp_path, made, steps=1)
    assert watch.losses[0] == pytest.approx(0.0, abs=1e-12)
    assert trainer.teacher_weights.config.weights == "base"
