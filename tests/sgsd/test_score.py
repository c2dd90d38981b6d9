"""Scores of a tiny random Qwen3 against its own logits, row by row."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sgsd.errors import ConfigError, DataInvalid, TrainingError
from sgsd.score import ScoreRow, check_scoring, completion_mask, score, score_support, score_tokens, score_top

# transformers 5.23 renames them; peft 0.21 and transformers 5.19 know the old names alone
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
LENGTHS = [(3, 5), (17, 2), (1, 9), (40, 7), (8, 0), (8, 9)]  # prompt, completion


def make_model(seed: int = 0, **extra: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    # Weights large enough that logits are of order 1 and position or padding mistakes cannot hide.
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, initializer_range=0.3, **extra)).eval()


def make_rows(seed: int = 0) -> list[ScoreRow]:
    rng = random.Random(seed)
    return [
        ScoreRow([rng.randrange(300) for _ in range(p)], tuple(rng.randrange(300) for _ in range(c)))
        for p, c in LENGTHS
    ]


def own_logprobs(model: torch.nn.Module, row: ScoreRow) -> Tensor:
    """log-softmax of the model's own logits for one unpadded row, [T]."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    logits = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, ids[0, len(row.prompt_ids) :, None])[:, 0]


def own_tokens_behind_another(rows: list[ScoreRow]) -> Tensor:
    """Token 7 and the completion's own at each place, [R, T, 2]."""
    own_RT = pad_sequence([torch.tensor(row.completion_ids, dtype=torch.int64) for row in rows], batch_first=True)
    return torch.stack([torch.full_like(own_RT, 7), own_RT], dim=-1)


def assert_scores(scores_RT: Tensor, model: torch.nn.Module, rows: list[ScoreRow], atol: float = 1e-5) -> None:
    with torch.no_grad():
        for scores_T, row in zip(scores_RT, rows, strict=True):
            length = len(row.completion_ids)
            torch.testing.assert_close(scores_T[:length], own_logprobs(model, row), rtol=0, atol=atol)
            assert scores_T[length:].abs().sum() == 0


@contextmanager
def watched(model: PreTrainedModel) -> Iterator[list[tuple[int, int]]]:
    """Shapes [rows, length] of the forward passes made meanwhile."""
    shapes: list[tuple[int, int]] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield shapes
    finally:
        handle.remove()


@pytest.mark.parametrize("budget", [None, 1000, 60, 1])
@pytest.mark.parametrize("grad", [False, True])
def test_batched_scores_equal_the_models_own_row_by_row(budget: int | None, grad: bool) -> None:
    model, rows = make_model(), make_rows()
    scores = score(model, rows, token_budget=budget, grad=grad)
    assert scores.shape == (len(rows), 9)
    assert scores.dtype == torch.float32
    assert scores.requires_grad == grad
    assert_scores(scores.detach(), model, rows)


def test_float64_parity() -> None:
    model, rows = make_model().double(), make_rows()
    scores = score(model, rows)
    assert scores.dtype == torch.float64
    for scores_T, row in zip(scores, rows, strict=True):
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        logp = model(input_ids=ids).logits[0].log_softmax(-1)[len(row.prompt_ids) - 1 : -1]
        expected = logp.gather(1, ids[0, len(row.prompt_ids) :, None])[:, 0]
        torch.testing.assert_close(scores_T[: len(expected)], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_does_not_reach_the_scores(implementation: str) -> None:
    model, rows = make_model(attn_implementation=implementation), make_rows()
    together, alone = score(model, rows), [score(model, [row])[0] for row in rows]
    for scores_T, alone_T in zip(together, alone, strict=True):
        torch.testing.assert_close(scores_T[: len(alone_T)], alone_T, rtol=0, atol=1e-5)


def loss_and_gradients(model: torch.nn.Module, values: Tensor) -> dict[str, Tensor]:
    """Gradients of a sum with unequal weights, by parameter."""
    model.zero_grad()
    (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["full", "lora", "checkpointing", "tied"])
def test_gradients_equal_the_plain_computation(kind: str) -> None:
    model: Any = make_model(tie_word_embeddings=kind == "tied")
    if kind == "lora":
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False
        )
        model = get_peft_model(model, config)
    rows = make_rows()
    own = torch.zeros(len(rows), 9)
    for r, row in enumerate(rows):
        own[r, : len(row.completion_ids)] = own_logprobs(model, row)
    expected = loss_and_gradients(model, own)
    if kind == "checkpointing":
        model.gradient_checkpointing_enable()
    model.train()
    scores = score(model, rows, grad=True)
    gradients = loss_and_gradients(model, scores)
    torch.testing.assert_close(scores, own, rtol=0, atol=1e-5)
    assert gradients.keys() == expected.keys()
    if kind == "lora":
        assert all("lora_" in name for name in gradients)
    else:
        assert len(gradients) == len(list(model.parameters()))
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=name)
        assert gradient.abs().max() > 1e-4, name


def test_lora_scores_follow_the_adapter() -> None:
    base, rows = make_model(), make_rows()
    plain = score(base, rows)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False))
    adapted = score(model, rows)
    assert_scores(adapted, model, rows)
    assert (adapted - plain).abs().max() > 0.1
    with model.disable_adapter():
        torch.testing.assert_close(score(model, rows), plain)


def test_ddp_student_reduces_gradients_and_teacher_pass_goes_round_it(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, rows = make_model(), make_rows()
        expected = loss_and_gradients(model, score(model, rows, grad=True))
        model.zero_grad(set_to_none=True)
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        calls: list[str] = []
        wrapped.register_forward_pre_hook(lambda module, args: calls.append("wrapped"))
        reduced: list[int] = []

        def count_bucket(state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
            reduced.append(bucket.buffer().numel())
            done = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        wrapped.register_comm_hook(None, count_bucket)
        teacher = score(wrapped, rows, token_budget=50)
        assert calls == []
        student = score(wrapped, rows, grad=True)
        assert calls == ["wrapped"]
        torch.testing.assert_close(student.detach(), teacher, rtol=0, atol=1e-5)
        gradients = loss_and_gradients(model, student)
        assert sum(reduced) == sum(p.numel() for p in model.parameters())
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name])
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrap_head", [False, True])
def test_fsdp_student_and_teacher(tmp_path: Any, wrap_head: bool) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, rows = make_model(), make_rows()
        expected = score(model, rows, grad=True)
        expected_gradients = loss_and_gradients(model, expected)
        model.zero_grad(set_to_none=True)
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for layer in [*model.model.layers, *([model.lm_head] if wrap_head else [])]:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        torch.testing.assert_close(score(model, rows, token_budget=100), expected.detach(), rtol=0, atol=1e-5)
        own = own_tokens_behind_another(rows)
        for read in (score, lambda *given, grad: score_tokens(*given, own, grad=grad)[..., 1]):
            model.zero_grad(set_to_none=True)
            gradients = loss_and_gradients(model, read(model, rows, grad=True))
            for name, gradient in gradients.items():
                torch.testing.assert_close(gradient.full_tensor(), expected_gradients[name], rtol=1e-4, atol=1e-5)
            assert gradients.keys() == expected_gradients.keys()
    finally:
        torch.distributed.destroy_process_group()


def test_teacher_pass_leaves_modes_gradients_and_forwards_alone() -> None:
    model, rows = make_model(attention_dropout=0.5), make_rows()
    model.train()
    model.model.layers[1].eval()  # a mode of its own
    modes = {name: module.training for name, module in model.named_modules()}
    forward = model.forward = model.forward  # as accelerate does: a forward on the instance
    first, second = score(model, rows, token_budget=40), score(model, rows)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)  # no dropout
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not first.is_inference()
    assert model.__dict__["forward"] is forward
    assert "forward" not in model.lm_head.__dict__


def test_everything_is_put_back_when_the_pass_fails() -> None:
    model = make_model().train()
    with pytest.raises(IndexError):
        score(model, [ScoreRow([1, 2], [300])])  # no such token
    assert model.training
    assert "forward" not in model.__dict__
    assert "forward" not in model.lm_head.__dict__
    assert model(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, 300)


def test_student_has_gradients_after_a_teacher_pass_in_one_autocast() -> None:
    model = get_peft_model(make_model(), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    rows = make_rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        teacher = score(model, rows)
        student = score(model, rows, grad=True)
    assert teacher.dtype == student.dtype == torch.float32
    gradients = loss_and_gradients(model, student)
    assert len(gradients) == 4
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


def test_swapped_weights_are_seen_within_one_autocast() -> None:
    model, other, rows = make_model(0), make_model(1), make_rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, before = score(other, rows), score(model, rows)
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.data = theirs.data
        swapped = score(model, rows)
    assert torch.equal(swapped, expected)
    assert not torch.equal(swapped, before)


def test_bfloat16_model_scores_in_float32() -> None:
    model, rows = make_model().to(torch.bfloat16), make_rows()
    scores = score(model, rows)
    assert scores.dtype == torch.float32
    hidden = model.model(input_ids=torch.tensor([[*rows[0].prompt_ids, *rows[0].completion_ids]])).last_hidden_state[0]
    logp = (hidden.double() @ model.lm_head.weight.double().t()).log_softmax(-1)[2:-1]
    expected = logp.gather(1, torch.tensor(rows[0].completion_ids)[:, None])[:, 0]
    # The hidden states are bfloat16 and differ by rounding between batch shapes; alone they are the same.
    torch.testing.assert_close(score(model, rows[:1])[0].double(), expected, rtol=0, atol=1e-5)


def test_token_budget_is_respected_and_a_longer_row_goes_alone() -> None:
    model, rows = make_model(), make_rows()
    with watched(model) as shapes:
        score(model, rows, token_budget=40)
    assert (1, 47) in shapes  # longer than the budget
    assert all(rows_ * length <= 40 for rows_, length in shapes if rows_ > 1)
    assert sum(rows_ for rows_, _ in shapes) == len(rows)
    with watched(model) as shapes:
        score(model, rows)
    assert shapes == [(6, 47)]


def test_no_logits_of_whole_rows_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = make_model(), make_rows()
    made: list[int] = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional,
        "linear",
        lambda x, w, b=None: made.append(w.shape[0] * x.shape[:-1].numel()) or linear(x, w, b),
    )
    score(model, rows)
    assert max(made) < 300 * 47  # not even one row's
    assert len(made) == 14  # seven projections in each of two layers; the head's product is not among them


@pytest.mark.parametrize("grad", [False, True])
def test_top_and_support_equal_the_models_own(grad: bool) -> None:
    model, rows = make_model(), make_rows()
    top = score_top(model, rows, 4, token_budget=60)
    assert top.ids_NK.shape == top.logp_NK.shape == (len(rows), 9, 4)
    support = score_support(model, rows, top.ids_NK, token_budget=60, grad=grad)
    tokens = score_tokens(model, rows, top.ids_NK.flip(-1), token_budget=60, grad=grad)
    assert support.requires_grad == tokens.requires_grad == grad
    for r, row in enumerate(rows):
        n = len(row.completion_ids)
        logits = model(input_ids=torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits[0]
        logits = logits[len(row.prompt_ids) - 1 : -1]
        expected = logits.log_softmax(-1).topk(4, dim=-1)
        assert torch.equal(top.ids_NK[r, :n], expected.indices)
        torch.testing.assert_close(top.logp_NK[r, :n], expected.values, rtol=0, atol=1e-5)
        torch.testing.assert_close(support[r, :n], logits.gather(1, expected.indices), rtol=0, atol=1e-5)
        torch.testing.assert_close(tokens[r, :n], expected.values.flip(-1), rtol=0, atol=1e-5)
        assert tokens[r, n:].abs().sum() == 0


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (Gemma2ForCausalLM, Gemma2Config(**SIZES, initializer_range=0.3, final_logit_softcapping=2.0)),
        (
            GraniteForCausalLM,
            GraniteConfig(
                **{k: v for k, v in SIZES.items() if k != "head_dim"}, initializer_range=0.3, logits_scaling=4.0
            ),
        ),
        (Cohere2ForCausalLM, Cohere2Config(**SIZES, initializer_range=0.3, logit_scale=0.2)),
    ],
    ids=["gemma2", "granite", "cohere2"],
)
def test_architectures_that_transform_their_logits(model_class: Any, config: Any) -> None:
    torch.manual_seed(0)
    model = model_class(config).eval()
    check_scoring(model)
    assert_scores(score(model, make_rows()), model, make_rows())
    of_own_tokens = score_tokens(model, make_rows(), own_tokens_behind_another(make_rows()))[..., 1]
    assert_scores(of_own_tokens, model, make_rows())


def test_check_finds_an_architecture_that_does_something_else() -> None:
    class Doubling(Qwen3ForCausalLM):
        def forward(self, **inputs: Any) -> Any:
            out = super().forward(**inputs)
            out.logits = 2 * out.logits
            return out

    check_scoring(make_model())
    torch.manual_seed(0)
    with pytest.raises(TrainingError, match="Doubling"):
        check_scoring(Doubling(Qwen3Config(**SIZES, initializer_range=0.3)))


def test_what_cannot_be_scored_is_refused() -> None:
    model = make_model()
    with pytest.raises(DataInvalid, match="no rows"):
        score(model, [])
    with pytest.raises(DataInvalid, match="row 1 has an empty prompt"):
        score(model, [ScoreRow([1], [2]), ScoreRow([], [2])])
    with pytest.raises(ConfigError, match="token_budget = 0"):
        score(model, make_rows(), token_budget=0)
    with pytest.raises(ConfigError, match="Linear holds no"):
        score(torch.nn.Linear(2, 2), make_rows())
    with pytest.raises(ConfigError, match="leave lm_head out"):
        score(get_peft_model(make_model(), LoraConfig(r=2, target_modules=["q_proj", "lm_head"])), make_rows())
    with pytest.raises(ConfigError, match="prompt-learning"):
        score(
            get_peft_model(make_model(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)), make_rows()
        )


def test_rows_without_completions() -> None:
    assert score(make_model(), [ScoreRow([1, 2], []), ScoreRow([3], [])], grad=True).shape == (2, 0)


# ---- which tokens count ----------------------------------------------------------------------------------------------


def make_tokenizer(think_tokens: bool, words: tuple[str, ...] = ("\n\n", ">\n", "hi")) -> PreTrainedTokenizerFast:
    """Byte-level, with a few merges, so that decoding is that of a real one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|pad|>", "<|end|>", *alphabet])}
    merges = []
    for word in words:
        pieces = [
            piece
            for piece, _ in pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
        ]
        left, right = pieces[0]
        merges.append((left, right))
        vocabulary[left + right] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")
    if think_tokens:
        tokenizer.add_tokens(["<think>", "</think>"])  # not special, as in Qwen3
    return tokenizer


def masked_in(text: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """What the mask leaves of a text."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    mask = completion_mask(ids, tokenizer)
    assert mask.dtype == torch.bool
    return "|".join(tokenizer.decode([i]) for i, keep in zip(ids, mask.tolist(), strict=True) if keep)


def test_mask_leaves_out_special_tokens_think_tags_and_newlines() -> None:
    tokenizer = make_tokenizer(think_tokens=True)
    assert masked_in("<think>\n\nhi\n</think>\r\nhi a<|end|><|pad|><|pad|>", tokenizer) == "hi|hi| |a"


def test_mask_finds_think_tags_cut_into_several_tokens() -> None:
    tokenizer = make_tokenizer(think_tokens=False)
    assert tokenizer.tokenize("<think>\n")[-1] == ">Ċ"  # the tag's end is merged with what follows
    assert masked_in("<think>\nhi</think>\n\nhi<|end|>", tokenizer) == "hi|hi"
    assert masked_in("a<b>think<c", tokenizer) == "a|<|b|>|t|hi|n|k|<|c"


def test_mask_keeps_tokens_that_have_newlines_beside_words() -> None:
    tokenizer = make_tokenizer(think_tokens=True)
    assert masked_in("a>\nb", tokenizer) == "a|>\n|b"


def test_mask_knows_nothing_of_ids_beyond_the_tokenizer_and_sees_added_tokens() -> None:
    tokenizer = make_tokenizer(think_tokens=True)
    beyond = len(tokenizer)
    letter = tokenizer.convert_tokens_to_ids("a")
    assert completion_mask([letter, beyond, letter], tokenizer).tolist() == [True, False, True]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    tokenizer.add_tokens(["word"])
    assert completion_mask([beyond, beyond + 1], tokenizer).tolist() == [False, True]
    assert completion_mask([], tokenizer).tolist() == []


@given(st.text(alphabet="a<>/thinkéあ\n\r ", max_size=40))
@settings(deadline=None)
def test_mask_of_any_text_cuts_nothing_but_tags_and_newlines(text: str) -> None:
    tokenizer = _TOKENIZER
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    mask = completion_mask(ids, tokenizer).tolist()
    assert len(mask) == len(ids)
    left = "".join(tokenizer.decode([i]) for i, keep in zip(ids, mask, strict=True) if not keep)
    without = left.replace("<think>", "").replace("</think>", "")
    assert without.strip("\n\r") == ""


_TOKENIZER = make_tokenizer(think_tokens=False, words=("\n\n",))
