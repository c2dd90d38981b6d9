"""The transformers generator: cut at the end, reproducible, and without a trace in the caller's state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from sgsd.config import SamplingConfig
from sgsd.errors import ConfigError
from sgsd.generate import Generator
from sgsd.generate.transformers import TransformersGenerator, stop_token_ids

# peft and older callers use the name that transformers 5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")
PROMPTS = [[3, 14, 15], [3, 20], [3, 14, 22, 23, 24, 25], [3, 28, 29, 30]]
SAMPLED = SamplingConfig(n=3, max_new_tokens=12, temperature=1.2, top_p=0.95, top_k=20, batch_size=3)
GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=12)


@pytest.fixture
def generator(tiny: Any) -> TransformersGenerator:
    return TransformersGenerator(tiny.model(), tiny.tokenizer())


def by_hand(model: Any, prompt: list[int], steps: int, end: set[int]) -> list[int]:
    """Greedy decoding without a cache, a batch or padding."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in end:
            break
    return ids[len(prompt) :]


def test_greedy_equals_one_prompt_at_a_time_by_hand(generator: TransformersGenerator) -> None:
    drawn = generator.generate(PROMPTS, GREEDY, seed=0)
    for prompt, (completion,) in zip(PROMPTS, drawn, strict=True):
        assert list(completion.token_ids) == by_hand(generator.model, prompt, 12, set(generator.stop_ids))


def test_every_completion_ends_with_its_end_token_or_is_truncated(generator: TransformersGenerator, tiny: Any) -> None:
    drawn = [c for completions in generator.generate(PROMPTS * 8, SAMPLED, seed=1) for c in completions]
    assert len(drawn) == 96
    assert {c.truncated for c in drawn} == {True, False}
    for completion in drawn:
        ids = completion.token_ids
        assert tiny.end_id not in ids[:-1]
        assert completion.truncated == (ids[-1] != tiny.end_id)
        assert len(ids) == 12 if completion.truncated else 1 <= len(ids) <= 12
        assert "<|im_end|>" not in completion.text


def test_pad_equal_to_end_changes_nothing(tiny: Any) -> None:
    apart = TransformersGenerator(tiny.model(), tiny.tokenizer()).generate(PROMPTS, SAMPLED, seed=1)
    equal = TransformersGenerator(tiny.model(), tiny.tokenizer(pad=False)).generate(PROMPTS, SAMPLED, seed=1)
    assert [[c.token_ids for c in row] for row in apart] == [[c.token_ids for c in row] for row in equal]
    assert [[c.truncated for c in row] for row in apart] == [[c.truncated for c in row] for row in equal]


def test_the_seed_alone_decides_and_the_callers_state_is_left_alone(generator: TransformersGenerator) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = generator.generate(PROMPTS, SAMPLED, seed=7)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(99)
    assert generator.generate(PROMPTS, SAMPLED, seed=7) == first
    assert generator.generate(PROMPTS, SAMPLED, seed=8) != first


def test_the_models_own_settings_do_not_leak_in(tiny: Any) -> None:
    model = tiny.model()
    plain = TransformersGenerator(model, tiny.tokenizer()).generate(PROMPTS, SAMPLED, seed=3)
    own = GenerationConfig(
        do_sample=True, temperature=0.01, top_k=1, repetition_penalty=3.0, max_length=4, eos_token_id=tiny.end_id
    )
    model.generation_config = own
    assert TransformersGenerator(model, tiny.tokenizer()).generate(PROMPTS, SAMPLED, seed=3) == plain
    assert model.generation_config is own


def test_temperature_one_without_filters_draws_from_the_models_distribution(generator: TransformersGenerator) -> None:
    sampling = SamplingConfig(n=4000, max_new_tokens=1, temperature=1.0, batch_size=1)
    (drawn,) = generator.generate([PROMPTS[0]], sampling, seed=0)
    with torch.no_grad():
        expected_V = generator.model(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    counts_V = torch.bincount(torch.tensor([c.token_ids[0] for c in drawn]), minlength=len(expected_V)) / len(drawn)
    assert float((counts_V - expected_V).abs().max()) < 4 * (0.25 / len(drawn)) ** 0.5  # four standard errors


def test_modes_of_every_module_and_gradient_checkpointing_survive(tiny: Any) -> None:
    model = tiny.model()
    expected = TransformersGenerator(model, tiny.tokenizer()).generate(PROMPTS, GREEDY, seed=0)
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    assert TransformersGenerator(model, tiny.tokenizer()).generate(PROMPTS, GREEDY, seed=0) == expected
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_restored_after_an_error(generator: TransformersGenerator) -> None:
    generator.model.train()
    settings = generator.model.generation_config
    with pytest.raises(IndexError):
        generator.generate([[10_000]], GREEDY, seed=0)
    assert generator.model.training
    assert generator.model.generation_config is settings


def test_an_adapter_is_part_of_the_model(tiny: Any) -> None:
    import peft

    base = TransformersGenerator(tiny.model(), tiny.tokenizer()).generate(PROMPTS, GREEDY, seed=0)
    model = peft.get_peft_model(
        tiny.model(), peft.LoraConfig(task_type=peft.TaskType.CAUSAL_LM, r=4, target_modules=["q_proj", "v_proj"])
    )
    generator = TransformersGenerator(model, tiny.tokenizer())
    assert generator.generate(PROMPTS, GREEDY, seed=0) == base  # a fresh adapter is the identity
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    assert generator.generate(PROMPTS, GREEDY, seed=0) != base
    with model.disable_adapter():
        assert generator.generate(PROMPTS, GREEDY, seed=0) == base


def test_progress_counts_every_prompt(generator: TransformersGenerator) -> None:
    done: list[int] = []
    generator.generate(PROMPTS, SAMPLED, seed=0, on_progress=done.append)
    assert done == [3, 1]


def test_no_prompts_give_no_completions(generator: TransformersGenerator) -> None:
    assert generator.generate([], GREEDY, seed=0) == []
    with pytest.raises(ConfigError, match="no tokens"):
        generator.generate([[]], GREEDY, seed=0)


def test_end_tokens_of_tokenizer_and_model_both_end(tiny: Any) -> None:
    model, tokenizer = tiny.model(), tiny.tokenizer()
    model.generation_config.eos_token_id = [7, tiny.end_id]
    assert stop_token_ids(model, tokenizer) == [tiny.end_id, 7]
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    with pytest.raises(ConfigError, match="end token"):
        stop_token_ids(model, tokenizer)


def test_it_is_a_generator(generator: TransformersGenerator) -> None:
    as_protocol: Generator = generator
    assert as_protocol.generate(PROMPTS[:1], GREEDY, seed=0) == generator.generate(PROMPTS[:1], GREEDY, seed=1)
