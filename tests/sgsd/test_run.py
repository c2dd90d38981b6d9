"""Whole runs from a configuration: the folder they leave, resuming, adapters, and what is refused before it begins."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sgsd.config import ModelConfig, parse_config
from sgsd.errors import ConfigError, DataInvalid, ModelNotFound, VerifierError
from sgsd.models import load_student
from sgsd.recipe import training_arguments
from sgsd.records import Problem
from sgsd.run import train_run
from skillbank.errors import BankNotFound, ForeignFingerprint
from skillbank.index.embed import Embedder, build_lexical_embedder
from skillbank.index.vectors import bank_embedder
from skillbank.retrieve import Retriever, Settings
from skillbank.rollouts import read_rollouts
from skillbank.store import Bank

from .runs import LORA, Folders, assert_same, metrics, run, weights
from .training import Recorded, make_bank, make_trainer, problems

# transformers 5.23 renames them; peft 0.21 and transformers 5.19 know the old names alone
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_a_run_leaves_all_that_was_asked_for(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    config = folders.config()
    result = run(config)
    out = Path(config.output_dir)
    names = {"config.yaml", "metrics.jsonl", "rollouts", "student", "checkpoint-3", "checkpoint-6"}
    assert {path.name for path in out.iterdir()} == names
    assert parse_config(yaml.safe_load((out / "config.yaml").read_text())) == config

    lines = metrics(config)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert {"grad_norm", "learning_rate", "reward", "truncated", "helpful", "harmful", "neutral"} <= steps[0].keys()
    assert all(line["helpful"] + line["harmful"] + line["neutral"] == pytest.approx(1) for line in steps)
    assert sum(line["generated_tokens"] for line in steps) == result.generated_tokens
    assert sum(line["unverifiable"] for line in steps) > 0
    assert "train_runtime" in (out / "metrics.jsonl").read_text().splitlines()[-1]

    written = [list(read_rollouts(out / "rollouts" / f"step-{step:06d}.jsonl")) for step in range(1, 7)]
    assert [len(rollouts) for rollouts in written] == [4] * 6
    texts = {problem.problem_id: problem.problem for problem in problems()}
    assert all(texts[rollout.problem_id] == rollout.problem for rollouts in written for rollout in rollouts)
    assert len({rollout.rollout_id for rollouts in written for rollout in rollouts}) == 24
    assert [rollouts[0].model for rollouts in written] == [f"{out}@{step}" for step in range(6)]
    right = [sum(rollout.outcome == "correct" for rollout in rollouts) / 4 for rollouts in written]
    assert right == [line["reward"] for line in steps]
    assert len(set(right)) > 1

    assert [point["step"] for point in result.curve] == [0, 2, 4, 6]
    assert result.curve[-1]["tokens"] == result.generated_tokens
    assert result.steps == 6
    assert sum(result.polarity.values()) == pytest.approx(1)
    assert result.seconds["train"] > 0 < result.seconds["curve"]

    usage = folders.usage()
    judged = [rollout for rollouts in written for rollout in rollouts if rollout.outcome != "unverifiable"]
    assert len(usage) == 3 * len(judged)  # K teachers each
    assert {row[0] for row in usage} == {"run"}
    for _, _, _, outcome, _, _, support, polarity in usage:
        sign = 0 if abs(support) <= 0.05 else (1 if support > 0 else -1)
        assert polarity == (sign if outcome == "correct" else -sign)
    assert result.polarity["helpful"] == pytest.approx(sum(row[-1] > 0 for row in usage) / len(usage))

    err = capsys.readouterr().err
    assert "step 6/6 | reward" in err
    assert f"{result.generated_tokens:,} tokens | held-out" in err


def test_a_student_is_saved_as_any_model_is(folders: Folders, tiny_folder: Path) -> None:
    config = folders.config(train={"max_steps": 1})
    result = run(config, held_out=0, merge=True)
    model = AutoModelForCausalLM.from_pretrained(result.student)
    assert AutoTokenizer.from_pretrained(result.student).chat_template
    assert not torch.equal(model.lm_head.weight, AutoModelForCausalLM.from_pretrained(tiny_folder).lm_head.weight)
    assert_same({name: p.detach() for name, p in model.named_parameters()}, weights(config))
    assert model.generation_config.max_new_tokens == 8
    assert model.config.use_cache
    assert result.merged == result.student  # it is one model already
    assert result.curve == ()


def test_an_adapter_and_its_merged_model_agree(folders: Folders) -> None:
    config = folders.config(model={"lora": LORA}, train={"max_steps": 2})
    result = run(config, held_out=0, merge=True)
    assert result.merged == Path(config.output_dir) / "student-merged"
    base = AutoModelForCausalLM.from_pretrained(folders.model)
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, str(result.student)).eval()
    merged = AutoModelForCausalLM.from_pretrained(result.merged)
    with torch.no_grad():
        expected = adapted(ids).logits
        assert (expected - plain).abs().max() > 1e-3
        torch.testing.assert_close(merged(ids).logits, expected, rtol=0, atol=1e-5)
        again, _ = load_student(ModelConfig(name_or_path=str(result.student), dtype="float32"), device="cpu")
        torch.testing.assert_close(again(ids).logits, expected, rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match=r"nothing to train: .* is an adapter, set model.lora"):
        run(folders.config("more", model={"name_or_path": str(result.student)}))
    for folder in (result.student, result.merged):
        assert GenerationConfig.from_pretrained(folder).max_new_tokens == 8
    assert AutoTokenizer.from_pretrained(result.merged).chat_template


def test_mixed_precision_trains_in_float32_and_saves_what_was_asked_for(folders: Folders) -> None:
    config = folders.config(model={"dtype": "bfloat16"}, train={"max_steps": 2, "learning_rate": 5e-6})
    assert training_arguments(config).bf16
    run(config, held_out=0)
    initial = load_file(folders.model / "model.safetensors")
    checkpoint = weights(config, folder="checkpoint-2")
    assert {tensor.dtype for tensor in checkpoint.values()} == {torch.float32}
    assert any(not torch.equal(value, initial[name]) for name, value in checkpoint.items())
    assert {tensor.dtype for tensor in weights(config).values()} == {torch.bfloat16}
    assert metrics(config)[0]["loss"] != 0


def test_a_curve_does_not_change_the_run(folders: Folders) -> None:
    config, without = folders.config("with"), folders.config("without", eval={"every_steps": 0})
    run(config)
    run(without)
    assert [line for line in metrics(config) if "loss" in line] == [line for line in metrics(without) if "loss" in line]
    assert_same(weights(config), weights(without))


# ---- refused before anything is written ------------------------------------------------------------------------------


def embedded(folder: Path, words: Sequence[str]) -> Path:
    """A bank with a lexical embedder built from its texts and these words."""
    make_bank(folder)
    with Bank.open(folder) as bank:
        bank_embedder(bank, problems=words)
    return folder


def test_wrong_input_is_one_line_and_leaves_no_folder(folders: Folders, tmp_path: Path) -> None:
    similar = embedded(tmp_path / "similar", [problem.problem for problem in problems()])
    foreign = tmp_path / "foreign"
    build_lexical_embedder(foreign, ["quite other words"])
    long = [Problem("p0", "What is " + "1 + " * 300, "1")]
    cases: list[tuple[type[Exception], str, dict[str, Any], Any]] = [
        (ConfigError, "bank.path is not set", {"bank": {"path": None}}, None),
        (BankNotFound, "no bank at", {"bank": {"path": str(tmp_path / "none")}}, None),
        (
            ForeignFingerprint,
            "was embedded by",
            {"bank": {"path": str(similar), "mode": "similar", "embedder": str(foreign)}},
            None,
        ),
        (ModelNotFound, "no model folder at", {"model": {"name_or_path": str(tmp_path / "nothing")}}, None),
        (VerifierError, "verifier 'oracle' is unknown", {"verifier": {"name": "oracle"}}, None),
        (DataInvalid, "nothing to train on: the shortest prompt has", {}, long),
        (DataInvalid, "there are no problems", {}, []),
    ]
    for error, message, sections, data in cases:
        config = folders.config(**sections)
        with pytest.raises(error, match=message) as caught:
            train_run(config, problems() if data is None else data)
        assert "\n" not in str(caught.value)
        assert not Path(config.output_dir).exists(), message


def test_a_retriever_that_does_not_fit_its_bank_is_told_at_once(tiny: Any, tmp_path: Path) -> None:
    folder = embedded(tmp_path / "similar", [problem.problem for problem in problems()])
    build_lexical_embedder(tmp_path / "foreign", ["quite other words"])
    with Bank.open(folder) as bank:
        foreign = Retriever(bank, Embedder.load(tmp_path / "foreign", device="cpu"), Settings(k=2))
        with pytest.raises(ForeignFingerprint):
            make_trainer(tiny, foreign, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pool_larger_than_the_bank_is_a_warning(folders: Folders, tmp_path: Path) -> None:
    bank = embedded(tmp_path / "similar", [problem.problem for problem in problems()])
    config = folders.config(bank={"path": str(bank), "mode": "similar", "k": 50}, train={"max_steps": 1})
    with pytest.warns(UserWarning, match="k is 50 but .* has 4 skills and 4 mistakes"):
        result = run(config, held_out=0)
    assert result.steps == 1
    with Bank.open(bank) as opened:
        assert opened.stats().usage % 4 == 0 < opened.stats().usage


def test_an_empty_bank_trains_nothing_and_says_so(folders: Folders, tmp_path: Path) -> None:
    empty = make_bank(tmp_path / "empty", pairs=0)
    config = folders.config(bank={"path": str(empty)}, train={"max_steps": 2, "weight_decay": 0.0})
    with pytest.warns(UserWarning, match="has 0 skills and 0 mistakes"):
        result = run(config, held_out=0)
    assert result.polarity == {"helpful": 0.0, "harmful": 0.0, "neutral": 0.0}
    assert [line["without_teachers"] for line in metrics(config) if "loss" in line] == [4, 4]
    assert_same(weights(config), load_file(folders.model / "model.safetensors"))


def test_dropped_problems_are_told(folders: Folders) -> None:
    config = folders.config(train={"max_steps": 1})
    some = [*problems(6), Problem("long", "What is " + "1 + " * 300, "1")]
    assert train_run(config, some).dropped_problems == 1


def test_arguments_are_the_configurations(folders: Folders) -> None:
    train = {"gradient_checkpointing": True, "schedule": "cosine", "warmup_steps": 5, "adam_beta2": 0.95}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args = training_arguments(folders.config(train={**train, "keep_checkpoints": 2, "max_grad_norm": 0.3}))
    assert args.activation_checkpointing
    assert (args.lr_scheduler_type, args.warmup_steps, args.adam_beta2) == ("cosine", 5, 0.95)
    assert (args.save_total_limit, args.max_grad_norm, args.seed, args.weight_decay) == (2, 0.3, 3, 0.0)
    assert (args.bf16, args.fp16, args.logging_steps, args.save_steps) == (False, False, 1, 3)


class DrawsElsewhere(Recorded):
    """An engine, as far as a run asks."""

    def weights_changed(self) -> None:
        pass

    def close(self) -> None:
        self.calls.append(-1)


@pytest.mark.parametrize("shards", [True, False])
def test_a_curve_by_an_engine_is_refused_of_a_student_in_shards(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, shards: bool
) -> None:
    """Pushing shards takes all processes, and drawing a share of the problems takes one."""
    engine = DrawsElsewhere()
    monkeypatch.setattr("sgsd.trainer.distillation.training_generator", lambda *args, **kwargs: engine)
    monkeypatch.setattr("sgsd.run.sharded", lambda model: shards)
    config = folders.config(train={"max_steps": 1})
    if not shards:
        assert len(run(config).curve) == 2
        return
    with pytest.raises(ConfigError, match=r"eval\.every_steps = 2: each process draws .*set it to 0 and measure"):
        run(config)
    assert engine.calls == [-1]  # closed, and nothing was drawn
