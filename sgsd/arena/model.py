"""The arena's tokenizer and network, and where the shipped base checkpoint lies."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sgsd.arena.tasks import OPERATIONS, RULES
from sgsd.prompts import GUIDANCE, INSTRUCTION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3Config

# The turn format of Qwen3, its switch for thinking included.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}
"""
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
VOCABULARY = 640
# Fixed phrases of prompts and solutions are one token each. A teacher's prompt is half as long, and so is the work on
# it; and a rule's name stands right after the token that asks for it, which a small network learns to read in minutes.
PHRASES = (
    GUIDANCE,
    INSTRUCTION,
    "Skill: Step on",
    "When to apply: The problem mentions",
    "Mistake: ",
    "How to avoid it: Instead: ",
    "Problem: What is",
    "What is",
    *(f"{operation} means" for operation in OPERATIONS),
    *(f" {rule}" for rule in sorted(RULES, key=len, reverse=True)),
)


def base_path() -> Path:
    """Folder of the base checkpoint that comes with the package."""
    return Path(str(files("sgsd.arena").joinpath("data", "base")))


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which the arena's words, digits, `\\boxed{` and fixed phrases are single tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\\boxed\{|\n+| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer=trainer)
    bpe.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def network_config(tokenizer: PreTrainedTokenizerFast, *, hidden: int = 128, layers: int = 4) -> Qwen3Config:
    """A Qwen3 of under a million parameters; head_dim 32 is one that vLLM's CPU kernels take."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
