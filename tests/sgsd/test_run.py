"""Whole runs from a configuration: the folder they leave, resuming, adapters, and what is refused before it begins."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import sgsd.run
from sgsd.config import ModelConfig, RunConfig, parse_config
from sgsd.errors import ConfigError, DataInvalid, ModelNotFound, VerifierError
from sgsd.models import load_student
from sgsd.records import Problem
from sgsd.run import RunResult, train_run, training_arguments
from skillbank.errors import BankNotFound, ForeignFingerprint
from skillbank.index.embed import Embedder, build_lexical_embedder
from skillbank.index.vectors import bank_embedder
from skillbank.retrieve import Retriever, Settings
from skillbank.rollouts import read_rollouts
from skillbank.store import Bank

from .training import TextVerifier, make_bank, make_trainer, mined, problems

# transformers 5.23 renames them; peft 0.21 and transformers 5.19 know the old names alone
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")
LORA = {"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}


@pytest.fixture(autouse=True)
def some_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model is never right: outcomes are made of the completion's text, in this process."""
    real = sgsd.run.load_verifier
    monkeypatch.setattr(
        "sgsd.run.load_verifier", lambda config: TextVerifier() if config.name == "exact" else real(config)
    )


class Folders:
    """A model, a bank each test may write to, and configurations over them."""

    def __init__(self, model: Path, at: Path) -> None:
        self.model, self.at = model, at
        self.bank = make_bank(at / "bank")

    def config(self, name: str = "run", **sections: Any) -> RunConfig:
        values: dict[str, Any] = {
            "output_dir": str(self.at / name),
            "seed": 3,
            "model": {"name_or_path": str(self.model), "dtype": "float32"},
            "verifier": {"name": "exact"},
            "bank": {"path": str(self.bank), "k": 3, "mode": "random"},
            "rollout": {"max_new_tokens": 8, "max_prompt_tokens": 200},
            "train": {
                "max_steps": 6,
                "per_device_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-2,
                "save_every": 3,
            },
            "eval": {"every_steps": 2, "sampling": {"temperature": 0, "max_new_tokens": 5}},
        }
        for section, keys in sections.items():
            values[section] = {**values.get(section, {}), **keys}
        return parse_config(values)

    def usage(self) -> list[tuple[Any, ...]]:
        with Bank.open(self.bank) as bank:
            names = "run, step, problem_id, outcome, skill_id, mistake_id, support, polarity"
            return [tuple(row) for row in bank.db.rows(f"SELECT {names} FROM usage WHERE NOT placebo ORDER BY rowid")]


@pytest.fixture
def folders(tiny_folder: Path, tmp_path: Path) -> Folders:
    return Folders(tiny_folder, tmp_path)


def run(config: RunConfig, held_out: int = 3, **options: Any) -> RunResult:
    return train_run(config, problems(), problems(12)[-held_out:] if held_out else (), **options)


def metrics(config: RunConfig) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    clock = ("seconds/", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(clock)} for line in lines]


def weights(config: RunConfig, name: str = "model.safetensors", folder: str = "student") -> dict[str, Tensor]:
    stored: dict[str, Tensor] = load_file(Path(config.output_dir) / folder / name)
    return stored


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


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


# ---- resuming --------------------------------------------------------------------------------------------------------


class Crash(Exception):
    pass


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The machine dies when the rollouts of this step are written."""
    write = sgsd.run.write_past_rollouts

    def once(path: Path, rollouts: Any, **rest: Any) -> None:
        if path.name == f"step-{step:06d}.jsonl":
            monkeypatch.setattr("sgsd.run.write_past_rollouts", write)
            raise Crash
        write(path, rollouts, **rest)

    monkeypatch.setattr("sgsd.run.write_past_rollouts", once)


@pytest.mark.parametrize("kind", ["live", "ema", "periodic", "base", "lora-ema", "lora-base"])
def test_a_resumed_run_is_the_uninterrupted_one(folders: Folders, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    lora = {**LORA, "dropout": 0.2} if kind.startswith("lora") else None
    sections: dict[str, Any] = {
        "model": {"lora": lora},
        "teacher": {"weights": kind.removeprefix("lora-"), "ema_decay": 0.6, "period_steps": 2},
        "train": {"schedule": "linear", "warmup_steps": 2},
    }
    whole, broken = folders.config("whole", **sections), folders.config("broken", **sections)
    expected = run(whole)
    crash_at(monkeypatch, 5)
    with pytest.raises(Crash):
        run(broken)
    torch.manual_seed(12345)  # another process
    result = run(broken, resume=True)
    assert metrics(broken)[:-1] == metrics(whole)[:-1]  # but the summary at the end
    assert [line["step"] for line in metrics(broken) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert_same(weights(broken, name), weights(whole, name))
    assert (result.generated_tokens, result.polarity) == (expected.generated_tokens, expected.polarity)
    assert result.curve == expected.curve
    assert result.steps == 6
    rows = folders.usage()
    by_run = {run: [row[1:] for row in rows if row[0] == run] for run in ("whole", "broken")}
    assert by_run["broken"] == by_run["whole"]
    assert len(by_run["whole"]) > 20


def test_a_finished_run_can_be_made_longer(folders: Folders) -> None:
    lora = {"model": {"lora": LORA}}
    whole = folders.config("whole", **lora)
    run(whole)
    run(folders.config("parts", **lora, train={"max_steps": 3}), merge=True)
    longer = folders.config("parts", **lora)
    result = run(longer, resume=True, merge=True)
    assert [line for line in metrics(longer) if "loss" in line] == [line for line in metrics(whole) if "loss" in line]
    assert_same(weights(longer, "adapter_model.safetensors"), weights(whole, "adapter_model.safetensors"))
    assert yaml.safe_load((Path(longer.output_dir) / "config.yaml").read_text())["train"]["max_steps"] == 6
    assert result.merged is not None
    assert [path.name for path in result.merged.parent.glob("student*")].count("student-merged") == 1


def test_a_checkpoint_records_its_bank_and_refuses_another(folders: Folders) -> None:
    config = folders.config(train={"max_steps": 3})
    run(config, held_out=0)
    out = Path(config.output_dir)
    about = json.loads((out / "checkpoint-3" / "sgsd.json").read_text())
    with Bank.open(folders.bank) as bank:
        assert (about["bank_id"], about["bank_revision"]) == (bank.meta("bank_id"), 1)
    assert about["method"] == "sgsd"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    make_bank(folders.at / "other")
    with pytest.raises(ConfigError, match="is not the bank that the checkpoint was trained with"):
        run(folders.config(train={"max_steps": 4}, bank={"path": str(folders.at / "other")}), resume=True)
    (out / "checkpoint-3" / "sgsd.json").write_text(json.dumps({**about, "bank_revision": 9}))
    with pytest.raises(ConfigError, match="at revision 1, the checkpoint was trained at 9"):
        run(folders.config(train={"max_steps": 4}), resume=True)
    (out / "checkpoint-3" / "sgsd.json").write_text(json.dumps(about))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    with Bank.open(folders.bank) as bank:
        bank.add_mined([mined(7)], actor="curator")
    with pytest.warns(UserWarning, match="went from revision 1 to 2 since the checkpoint"):
        run(folders.config(train={"max_steps": 4}), held_out=0, resume=True)
    with Bank.open(folders.bank) as bank:
        revisions = {tuple(row) for row in bank.db.rows("SELECT step > 3, revision FROM usage")}
    assert revisions == {(0, 1), (1, 2)}


def test_a_checkpoint_that_was_cut_short_is_passed_over(folders: Folders) -> None:
    config = folders.config()
    run(config, held_out=0)
    out = Path(config.output_dir)
    expected = weights(config)
    (out / "checkpoint-6" / "trainer_state.json").unlink()
    (out / "checkpoint-old").mkdir()
    shutil.copy(out / "checkpoint-3" / "trainer_state.json", out / "checkpoint-old")
    run(config, held_out=0, resume=True)
    assert_same(weights(config), expected)


def test_what_a_folder_holds_is_not_overwritten(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folders.config(train={"max_steps": 3})
    with pytest.raises(ConfigError, match=r"nothing to resume: .*run holds no checkpoint"):
        run(config, resume=True)
    assert not Path(config.output_dir).exists()
    crash_at(monkeypatch, 2)
    with pytest.raises(Crash):
        run(config)
    with pytest.raises(ConfigError, match="ended before its first checkpoint: remove it"):
        run(config)
    shutil.rmtree(config.output_dir)
    run(config, held_out=0)
    with pytest.raises(ConfigError, match="already holds a run: add --resume"):
        run(config)
    (folders.at / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file: name a folder"):
        run(folders.config("file"))


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
