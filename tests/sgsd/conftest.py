"""A tiny Qwen3 with random weights and a word-level tokenizer: real classes, milliseconds a batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

if TYPE_CHECKING:
    from .runs import Folders

END = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role + ' ' + m.content + ' <|im_end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant' }}{% if enable_thinking %}{{ ' think' }}{% endif %}{% endif %}"
)
WORDS = ["<unk>", "<pad>", END, "user", "assistant", "think", "\\", "boxed", "{", "}", "+", "?", "."]
WORDS += [str(number) for number in range(20)] + ["What", "is", "Skill", "Mistake", "Please", "reason", "step", "by"]


def tiny_tokenizer(*, pad: bool = True) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, unk_token="<unk>", pad_token="<pad>" if pad else END
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.padding_side = "left"
    return fast


def tiny_model(seed: int = 0) -> Qwen3ForCausalLM:
    """Weights large enough that samples differ and greedy paths depend on the prompt."""
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=WORDS.index(END),
        pad_token_id=WORDS.index("<pad>"),
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()


def save_tiny(folder: Path) -> Path:
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


class Tiny:
    """What tests build models with."""

    words = WORDS
    end_id = WORDS.index(END)
    pad_id = WORDS.index("<pad>")
    model = staticmethod(tiny_model)
    tokenizer = staticmethod(tiny_tokenizer)
    save = staticmethod(save_tiny)


@pytest.fixture(scope="session")
def tiny() -> type[Tiny]:
    return Tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with its tokenizer. Not to be written to."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def folders(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """Where whole runs are made. A random model is never right: outcomes are made of the completion's text, in this
    process."""
    import sgsd.run

    from .runs import Folders
    from .training import TextVerifier

    real = sgsd.run.load_verifier
    monkeypatch.setattr(
        "sgsd.run.load_verifier", lambda config: TextVerifier() if config.name == "exact" else real(config)
    )
    return Folders(tiny_folder, tmp_path)
