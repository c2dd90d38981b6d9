"""Loading a student: from weights, with a new adapter, from an adapter's folder; and what can be wrong with a name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.config import LoraConfig, ModelConfig
from sgsd.errors import ConfigError, ModelNotFound
from sgsd.models import load_student, load_tokenizer, merge_adapter, resolve_model_path

LORA = LoraConfig(r=4, alpha=8)
IDS = torch.tensor([[3, 14, 15, 16]])


def config(path: Path | str, lora: LoraConfig | None = None, **extra: Any) -> ModelConfig:
    return ModelConfig(name_or_path=str(path), dtype=extra.pop("dtype", "float32"), lora=lora, **extra)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = model(IDS).logits
    return values


def test_weights_and_tokenizer(tiny: Any, tiny_folder: Path) -> None:
    model, tokenizer = load_student(config(tiny_folder), device="cpu")
    torch.testing.assert_close(logits(model), logits(tiny.model()))
    assert not model.training
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id == tiny.pad_id


def test_dtype_and_attention_are_the_configurations(tiny_folder: Path) -> None:
    model, _ = load_student(config(tiny_folder, dtype="bfloat16", attention="eager"), device="cpu")
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"


def test_training_all_weights_takes_float32_masters(tiny_folder: Path) -> None:
    """At the published rate an update is lost in a half-precision weight."""
    assert torch.tensor(0.02, dtype=torch.bfloat16) - 5e-6 == torch.tensor(0.02, dtype=torch.bfloat16)
    for dtype in ("bfloat16", "float16"):
        model, _ = load_student(config(tiny_folder, dtype=dtype), device="cpu", training=True)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    adapted, _ = load_student(config(tiny_folder, LORA, dtype="bfloat16"), device="cpu", training=True)
    assert {(p.dtype, p.requires_grad) for p in adapted.parameters()} == {
        (torch.bfloat16, False),
        (torch.float32, True),
    }


def test_dropout_of_the_base_is_off(tiny: Any, tmp_path: Path) -> None:
    tiny.save(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "attention_dropout": 0.5}))
    model, _ = load_student(config(tmp_path), device="cpu")
    assert model.config.attention_dropout == 0.0
    model.train()
    torch.testing.assert_close(logits(model), logits(tiny.model()))
    asked, _ = load_student(config(tmp_path, LoraConfig(r=4, dropout=0.25)), device="cpu")
    rates = {module.p for module in asked.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25}


def test_loading_is_silent(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils.logging import is_progress_bar_enabled

    before = is_progress_bar_enabled()
    _, tokenizer = load_student(config(tiny_folder), device="cpu")
    tokenizer.model_max_length = 4
    assert len(tokenizer("What is 1 + 2 ?")["input_ids"]) == 6
    assert capfd.readouterr() == ("", "")
    assert is_progress_bar_enabled() is before


def test_an_adapter_is_added_saved_and_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_student(config(tiny_folder, LORA), device="cpu")
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")

    frozen, _ = load_student(config(tmp_path / "adapter"), device="cpu")
    torch.testing.assert_close(logits(frozen), logits(model))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())

    merged = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    with pytest.raises(ConfigError, match="exists already"):
        merge_adapter(tmp_path / "adapter", merged)
    with pytest.raises(ConfigError, match="holds no adapter"):
        merge_adapter(merged, tmp_path / "unused")
    whole, whole_tokenizer = load_student(config(merged), device="cpu")
    assert type(whole).__name__ == "Qwen3ForCausalLM"
    torch.testing.assert_close(logits(whole), logits(model))
    assert whole_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "merged"]

    further, _ = load_student(config(tmp_path / "adapter", LORA), device="cpu")
    assert {name for name, parameter in further.named_parameters() if parameter.requires_grad} == trainable
    with pytest.raises(ConfigError, match=r"r = 2, but the adapter at .* has r = 4"):
        load_student(config(tmp_path / "adapter", LoraConfig(r=2)), device="cpu")


def test_an_adapter_without_a_tokenizer_takes_the_bases(tiny: Any, tiny_folder: Path, tmp_path: Path) -> None:
    model, _ = load_student(config(tiny_folder, LORA), device="cpu")
    model.save_pretrained(tmp_path)
    _, tokenizer = load_student(config(tmp_path), device="cpu")
    assert tokenizer.eos_token_id == tiny.end_id
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "/gone"}))
    with pytest.raises(ModelNotFound, match="no model folder at /gone"):
        load_student(config(tmp_path), device="cpu")


def test_adapter_targets_that_the_model_lacks(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.lora: .*nowhere"):
        load_student(config(tiny_folder, LoraConfig(target_modules=("nowhere",))), device="cpu")


def test_names_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, message in [
        (tmp_path, "holds no model"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "gone", "no model folder"),
        ("./gone", "no model folder"),
        ("a/b/c", "no model folder"),
        ("no-one/has-such-a-model", "no tokenizer of no-one/has-such-a-model"),
    ]:
        with pytest.raises(ModelNotFound, match=message) as caught:
            load_student(config(name), device="cpu")
        assert "\n" not in str(caught.value)
    assert resolve_model_path("Qwen/Qwen3-1.7B") == "Qwen/Qwen3-1.7B"
    assert resolve_model_path("arena").endswith("arena/data/base")


def test_broken_weights_are_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="no model") as caught:
        load_student(config(broken), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_broken_adapter_is_one_line(tmp_path: Path) -> None:
    for text, message in [("{", "not readable JSON"), ("{}", "names no base model")]:
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(ModelNotFound, match=message):
            load_student(config(tmp_path), device="cpu")


def test_a_tokenizer_needs_a_chat_template(tiny: Any, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        load_tokenizer(str(tmp_path))
