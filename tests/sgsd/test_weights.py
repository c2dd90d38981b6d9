"""The student's weights as an engine wants them: what PEFT merges, without touching the student."""

from __future__ import annotations

from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn

from sgsd.errors import ConfigError
from sgsd.generate.weights import check_mergeable, merged_weights

pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")
MODULES = ["q_proj", "v_proj", "down_proj"]


def adapted(tiny: Any, **settings: Any) -> Any:
    """With weights in its adapter that are far from the identity."""
    options = {"r": 4, "lora_alpha": 6, "target_modules": MODULES, "task_type": "CAUSAL_LM"} | settings
    model = peft.get_peft_model(tiny.model(), peft.LoraConfig(**options))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(torch.tensor([[3, 14, 15, 20, 7]])).logits
    return result


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"modules_to_save": ["norm"]},
        {"lora_dropout": 0.3},
    ],
    ids=["lora", "rslora", "dora", "modules_to_save", "dropout"],
)
def test_a_plain_model_with_these_weights_is_the_student(tiny: Any, settings: dict[str, Any]) -> None:
    student = adapted(tiny, **settings).eval()
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    weights = dict(merged_weights(student, torch.float32))
    plain = tiny.model(seed=1)
    assert not torch.allclose(logits(plain), logits(student), atol=1e-1)
    plain.load_state_dict(weights, strict=True)
    torch.testing.assert_close(logits(plain), logits(student), atol=1e-4, rtol=0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in student.named_parameters())


def test_a_bfloat16_base_is_added_to_in_float32_and_rounded_once(tiny: Any) -> None:
    """Against NumPy in float64. Adding in bfloat16 would differ in most entries."""
    student = adapted(tiny)
    for name, parameter in student.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    layer = student.base_model.model.model.layers[1].mlp.down_proj
    base, up, down = (
        w.detach().float().numpy().astype(np.float64)
        for w in (layer.base_layer.weight, layer.lora_B.default.weight, layer.lora_A.default.weight)
    )
    expected = torch.tensor(base + 6 / 4 * up @ down).to(torch.bfloat16)
    merged = dict(merged_weights(student, torch.bfloat16))["model.layers.1.mlp.down_proj.weight"]
    assert merged.dtype == torch.bfloat16
    differing = (merged != expected).float().mean()
    assert differing < 0.01  # float32 against float64 at the edge between two values
    assert layer.base_layer.weight.dtype == torch.bfloat16


def test_a_full_student_hands_over_its_own_tensors_in_the_wanted_dtype(tiny: Any) -> None:
    model = tiny.model()
    own = dict(model.named_parameters())
    for name, weight in merged_weights(model, torch.float32):
        assert weight.data_ptr() == own[name].data_ptr()
        assert not weight.requires_grad
    assert {weight.dtype for _, weight in merged_weights(model, torch.bfloat16)} == {torch.bfloat16}


def test_a_tied_head_comes_once(tiny: Any) -> None:
    model = tiny.model()
    model.lm_head.weight = model.model.embed_tokens.weight
    names = [name for name, _ in merged_weights(model, torch.float32)]
    assert "lm_head.weight" not in names
    assert len(names) == len(set(names)) == len(list(model.named_parameters()))


def test_conv1d_weights_lie_the_other_way(tiny: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    start = {name: weight.clone() for name, weight in base.state_dict().items()}
    for dora in (False, True):
        base.load_state_dict(start)
        settings = peft.LoraConfig(
            r=2, target_modules=["c_attn"], fan_in_fan_out=True, use_dora=dora, task_type="CAUSAL_LM"
        )
        student = peft.get_peft_model(base, settings).eval()
        nn.init.normal_(student.base_model.model.transformer.h[0].attn.c_attn.lora_B.default.weight)
        plain = GPT2LMHeadModel(base.config).eval()
        plain.load_state_dict(dict(merged_weights(student, torch.float32)), strict=False)
        torch.testing.assert_close(logits(plain), logits(student), atol=2e-5, rtol=0)
        base = student.unload()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tiny: adapted(tiny, target_modules=["embed_tokens"]), "adapted by Embedding"),
        (lambda tiny: _merged(adapted(tiny)), "1 active adapters, merged"),
        (lambda tiny: _two(adapted(tiny)), "2 active adapters, not merged"),
        (lambda tiny: _biased(adapted(tiny)), "LoRA bias"),
    ],
    ids=["embedding", "merged", "two", "bias"],
)
def test_what_cannot_be_copied_is_refused(tiny: Any, change: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        check_mergeable(change(tiny))
    assert "draw with generation.engine transformers" in str(refused.value) or "is read" in str(refused.value)


def test_an_adapter_on_a_tied_head_is_refused(tiny: Any) -> None:
    base = tiny.model()
    base.lm_head.weight = base.model.embed_tokens.weight
    settings = peft.LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")
    student = peft.get_peft_model(base, settings)
    with pytest.raises(ConfigError, match="lm_head is tied to another weight"):
        dict(merged_weights(student, torch.float32))


def _merged(model: Any) -> Any:
    model.merge_adapter()
    return model


def _two(model: Any) -> Any:
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=MODULES, task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "second"])
    return model


def _biased(model: Any) -> Any:
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    layer.lora_bias["default"] = True
    return model
