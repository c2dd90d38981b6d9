"""Kinds of adapters: what they compute, beside formulas of their own; scoring, gradients, saving, resuming, merging;
and those that are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from sgsd.config import LoraConfig, ModelConfig, TeacherConfig
from sgsd.errors import ConfigError
from sgsd.models import BASE_FILE, load_student, merge_adapter
from sgsd.score import ScoreRow, score
from sgsd.weights import TeacherWeights
from skillbank.retrieve import Retriever, Settings
from skillbank.store import Bank

from .runs import Folders, assert_same, metrics, run, weights
from .training import make_bank, make_trainer

# transformers 5.23 renames them; peft 0.21 and transformers 5.19 know the old names alone
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")

TARGETS = ["q_proj", "v_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"lora": {"rslora": True}},
    "dora": {"lora": {"dora": True}},
    "4bit": {"quantization": "4bit"},
    "4bit-dora": {"quantization": "4bit", "lora": {"dora": True}},
}
ROWS = [ScoreRow([3, 4, 5], [6, 7, 8, 9]), ScoreRow([10, 11], [12, 13])]


def model_section(kind: str) -> dict[str, Any]:
    changes = KINDS[kind]
    lora = {"r": 4, "alpha": 12, "target_modules": TARGETS, **changes.get("lora", {})}
    return {"dtype": "float32", **changes, "lora": lora}


def student(folder: Path, kind: str) -> Any:
    """With an adapter that changes what the model says."""
    config = ModelConfig(name_or_path=str(folder), **model_section(kind))
    model, _ = load_student(config, device="cpu", training=True)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * (0.05 if "magnitude" in name else 0.2)
    return model


def plain(model: Any, folder: Path, *, adapted: bool) -> Any:
    """The same function as one plain model, its weights computed here from the adapter's by the papers' formulas."""
    from bitsandbytes.functional import dequantize_4bit

    settings = model.active_peft_config
    scale = settings.lora_alpha / (settings.r**0.5 if settings.use_rslora else settings.r)
    out = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, module in model.get_base_model().named_modules():
            base = getattr(module, "base_layer", module)
            if not isinstance(base, nn.Linear) or name.endswith("base_layer") or ".lora_" in name:
                continue
            state = getattr(base.weight, "quant_state", None)
            weight = base.weight.data if state is None else dequantize_4bit(base.weight.data, state)
            if adapted and hasattr(module, "lora_A"):
                weight = weight + scale * module.lora_B["default"].weight @ module.lora_A["default"].weight
                if settings.use_dora:
                    length = module.lora_magnitude_vector["default"].weight
                    weight = length[:, None] * weight / weight.norm(dim=1, keepdim=True)
            out.get_submodule(name).weight.copy_(weight)
    return out


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(input_ids=torch.tensor([[3, 4, 5, 6, 7, 8]]), use_cache=False).logits
    return out


def own_logps(model: Any) -> Tensor:
    """The rows' log-probs from the model's whole logits, a row at a time."""
    out = torch.zeros(2, 4)
    for i, row in enumerate(ROWS):
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        logp_LV = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        start, count = len(row.prompt_ids), len(row.completion_ids)
        values = logp_LV[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0]
        out = out.index_put((torch.full((count,), i), torch.arange(count)), values)
    return out


# ---- what they compute -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_its_formula(tiny_folder: Path, kind: str) -> None:
    model = student(tiny_folder, kind)
    full = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    expected = logits(plain(model, tiny_folder, adapted=True))
    assert (expected - logits(full)).abs().max() > 0.05
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    base = plain(model, tiny_folder, adapted=False)
    assert (logits(base) - logits(full)).abs().max().item() > 0.05 or "4bit" not in kind  # four bits are not all bits
    with TeacherWeights(TeacherConfig(weights="base"), model).active():
        torch.testing.assert_close(logits(model), logits(base), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_gradients_are_those_of_the_models_own_logits(tiny_folder: Path, kind: str) -> None:
    model = student(tiny_folder, kind)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    weights_RT = torch.tensor([[0.3, -1.0, 0.7, 2.0], [1.0, 0.5, 0.0, 0.0]])
    with torch.no_grad():
        before = score(model, ROWS)  # a pass without gradient comes first, as a teacher's does
    mine = score(model, ROWS, grad=True)
    theirs = own_logps(model)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(before, mine.detach(), rtol=1e-6, atol=1e-6)
    got = torch.autograd.grad((mine * weights_RT).sum(), list(trained.values()))
    expected = torch.autograd.grad((theirs * weights_RT).sum(), list(trained.values()))
    for name, g, e in zip(trained, got, expected, strict=True):
        assert e.abs().max() > 0, name
        torch.testing.assert_close(g, e, rtol=1e-3, atol=1e-5, msg=name)


def test_gradients_on_four_bits_are_those_on_what_the_bits_mean(tiny_folder: Path) -> None:
    model = student(tiny_folder, "4bit")
    spelled = peft.get_peft_model(
        plain(model, tiny_folder, adapted=False),
        peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules=TARGETS),
    )
    theirs = dict(spelled.named_parameters())
    mine = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in mine.items():
            theirs[name].copy_(parameter)
    for each in (model, spelled):
        score(each, ROWS)
        score(each, ROWS, grad=True).sum().backward()
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5, msg=name)


def test_a_copy_for_the_teachers_holds_all_of_dora_and_nothing_else(tiny_folder: Path, tmp_path: Path) -> None:
    model = student(tiny_folder, "4bit-dora")
    teacher = TeacherWeights(TeacherConfig(weights="periodic", period_steps=1), model)
    teacher.save(tmp_path)
    names = set(load_file(tmp_path / "teacher.safetensors"))
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rpartition("lora_")[2].partition(".")[0] for name in names} == {"A", "B", "magnitude_vector"}


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "lora-bfloat16"])
def test_a_run_is_saved_resumed_and_merged(folders: Folders, kind: str) -> None:
    name = kind.removesuffix("-bfloat16")
    dtype = "bfloat16" if kind != name else "float32"
    sections: dict[str, Any] = {"model": {**model_section(name), "dtype": dtype}, "teacher": {"weights": "ema"}}
    whole, parts = folders.config("whole", **sections), folders.config("parts", **sections)
    result = run(whole, held_out=0, merge=True)
    run(folders.config("parts", **sections, train={"max_steps": 3}), held_out=0)
    run(parts, held_out=0, resume=True)
    assert [log["loss"] for log in metrics(parts)[:6]] == [log["loss"] for log in metrics(whole)[:6]]
    file = "adapter_model.safetensors"
    assert_same(weights(parts, file), weights(whole, file))
    assert {tensor.dtype for tensor in weights(whole, file).values()} == {torch.float32}
    assert (result.student / BASE_FILE).exists() == ("4bit" in kind)

    again, _ = load_student(ModelConfig(name_or_path=str(result.student), dtype="float32"), device="cpu")
    assert bool(getattr(again, "is_loaded_in_4bit", False)) == ("4bit" in kind)
    adapted = logits(again)
    torch.testing.assert_close(adapted, logits(plain(again, folders.model, adapted=True)), rtol=1e-4, atol=1e-4)
    with again.disable_adapter():
        assert (logits(again) - adapted).abs().max() > 1e-3
    assert result.merged is not None
    merged = AutoModelForCausalLM.from_pretrained(result.merged)
    assert not hasattr(merged.config, "quantization_config")
    torch.testing.assert_close(logits(merged.float()), adapted, rtol=1e-4, atol=1e-4)


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def retriever(tmp_path: Path) -> Any:
    with Bank.open(make_bank(tmp_path / "bank")) as bank:
        yield Retriever(bank, None, Settings(k=2, mode="random"))


HEAD = r"changes the head, .*leave lm_head out of target_modules and modules_to_save"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (peft.LoraConfig(target_modules=["q_proj", "lm_head"]), HEAD),
        (peft.LoraConfig(target_modules=r".*\.(q_proj|v_proj)|lm_head"), HEAD),
        (peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]), HEAD),
        (peft.PrefixTuningConfig(num_virtual_tokens=3), "a PREFIX_TUNING adapter learns a prefix, .*use LoRA"),
        (peft.PromptTuningConfig(num_virtual_tokens=3), "a PROMPT_TUNING adapter learns a prefix, .*use LoRA"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    tiny: Any, retriever: Retriever, tmp_path: Path, settings: peft.PeftConfig, message: str
) -> None:
    settings.task_type = "CAUSAL_LM"
    with pytest.raises(ConfigError, match=message) as caught:
        make_trainer(tiny, retriever, tmp_path / "out", model=tiny.model(), peft_config=settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_all_linear_leaves_the_head_alone(tiny: Any, retriever: Retriever, tmp_path: Path) -> None:
    settings = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=2)
    trainer, watch = make_trainer(tiny, retriever, tmp_path / "out", model=tiny.model(), peft_config=settings)
    trainer.train()
    assert any("down_proj" in name for name in watch.gradients[0])
    assert not any("lm_head" in name for name in watch.gradients[0])


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # peft's own word on it
def test_embeddings_tied_to_the_head_are_refused(tiny: Any, retriever: Retriever, tmp_path: Path) -> None:
    model = tiny.model()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    settings = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    with pytest.raises(ConfigError, match="tied to the head, and would part them: leave embed_tokens out"):
        make_trainer(tiny, retriever, tmp_path / "out", model=model, peft_config=settings)


def test_a_folder_of_a_prompt_learning_adapter_is_refused(tiny: Any, tiny_folder: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(base, settings).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="a PROMPT_TUNING adapter learns a prefix"):
        load_student(ModelConfig(name_or_path=str(tmp_path / "adapter")), device="cpu")


@pytest.mark.parametrize("changes", [{"dora": True}, {"rslora": True}, {"r": 5}])
def test_an_adapter_goes_on_as_it_is(tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    student(tiny_folder, "lora").save_pretrained(tmp_path / "adapter")
    key, value = next(iter(changes.items()))
    lora = LoraConfig(r=4, alpha=12).model_copy(update=changes)
    with pytest.raises(ConfigError, match=rf"model.lora.{key} = {value}, but the adapter at .* make them equal"):
        load_student(ModelConfig(name_or_path=str(tmp_path / "adapter"), lora=lora), device="cpu")


def test_four_bits_need_an_adapter_and_the_library(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(name_or_path=str(tiny_folder), quantization="4bit", dtype="float32")
    with pytest.raises(ConfigError, match=r"4bit trains an adapter alone: set model\.lora"):
        load_student(config, device="cpu", training=True)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name))
    with pytest.raises(ConfigError, match=r"needs bitsandbytes: pip install .*sgsd\[quantized\]"):
        load_student(config, device="cpu")


def test_a_merged_dora_is_whole_or_absent(tiny_folder: Path, tmp_path: Path) -> None:
    model = student(tiny_folder, "dora")
    model.save_pretrained(tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(merge_adapter(tmp_path / "adapter", tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []
