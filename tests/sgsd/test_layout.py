"""Rows in passes: which rows go together, and that packed rows read as they do alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from sgsd.layout import (
    CPU_PASS_TOKENS,
    PASS_TOKENS,
    ScoreRow,
    default_budget,
    lay_out,
    micro_batches,
    takes_packed_rows,
)
from sgsd.score import check_scoring, score, score_support, score_top

ROWS = [ScoreRow(range(1, 1 + p), tuple(range(40, 40 + c))) for p, c in [(3, 5), (17, 2), (1, 9), (90, 7), (8, 0)]]
LENGTHS = st.lists(st.integers(1, 60), max_size=30)
CPU = torch.device("cpu")


def make_model(attention: str = "sdpa", **extra: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "attn_implementation": attention}
    return Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, initializer_range=0.3, **extra)).eval()


@contextmanager
def packing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As for flash attention, which takes no CPU: attention by a mask keeps the rows apart, by the same inputs."""
    with monkeypatch.context() as patch:
        patch.setattr("sgsd.score.takes_packed_rows", lambda model: True)
        yield


@given(LENGTHS, st.integers(1, 200), st.booleans())
@settings(deadline=None)
def test_passes_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, packed: bool) -> None:
    def tokens(part: list[int]) -> int:
        inside = [lengths[i] for i in part]
        return sum(inside) if packed else len(inside) * max(inside)

    passes = micro_batches(lengths, budget, packed=packed)
    assert sorted(i for part in passes for i in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or tokens(part) <= budget for part in passes)
    in_turn = [lengths[i] for part in passes for i in part]
    assert in_turn == sorted(lengths, reverse=True)
    # One pass fewer is not possible for rows in this order: a pass and the first row of the next exceed the budget.
    filled = greedy(sorted(lengths, reverse=True), budget, packed)
    assert len(passes) == len(filled)
    assert max(map(tokens, passes), default=0) <= max(map(sum, filled), default=0) or not packed
    assert micro_batches(lengths, None) == ([sorted(range(len(lengths)), key=lambda i: -lengths[i])] if lengths else [])


def greedy(lengths: list[int], budget: int, packed: bool) -> list[list[int]]:
    filled: list[list[int]] = []
    for length in lengths:
        last = [*filled[-1], length] if filled else []
        if last and (sum(last) if packed else len(last) * last[0]) <= budget:
            filled[-1] = last
        else:
            filled.append([length])
    return filled


def test_passes_are_as_even_as_their_number_allows() -> None:
    assert [len(part) for part in micro_batches([288] * 8, 2048)] == [4, 4]  # filled in turn: 7 and 1
    assert [len(part) for part in micro_batches([10] * 9, 40)] == [3, 3, 3]
    assert micro_batches([50, 2, 2, 30, 30], 60, packed=True) == [[0], [3], [4, 1, 2]]  # in turn: 50, 60 and 4
    assert micro_batches([50, 2, 2, 30], 80, packed=True) == [[0], [3, 1, 2]]
    assert micro_batches([50, 2, 2, 30], 84, packed=True) == [[0, 3, 1, 2]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_of_very_unequal_lengths_read_as_padded_ones_and_as_alone(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(attention)
    padded, alone = score(model, ROWS), [score(model, [row])[0] for row in ROWS]
    with packing(monkeypatch):
        packed = score(model, ROWS)
        in_passes = score(model, ROWS, token_budget=40)
        check_scoring(model)
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)
    torch.testing.assert_close(in_passes, padded, rtol=0, atol=1e-5)
    for row, (scores_T, alone_T) in enumerate(zip(packed, alone, strict=True)):
        torch.testing.assert_close(scores_T[: len(alone_T)], alone_T, rtol=0, atol=1e-5, msg=f"row {row}")
    assert packed.abs().sum() > 1


def test_packed_gradients_top_and_support_equal_padded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model().double()

    def all_of_it() -> list[torch.Tensor]:
        model.zero_grad()
        top = score_top(model, ROWS, 3)
        support = score_support(model, ROWS, top.ids_NK, grad=True)
        scores = score(model, ROWS, grad=True)
        ((support * torch.linspace(-1, 1, support.numel()).view_as(support)).sum() + scores.square().sum()).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return [top.ids_NK, top.logp_NK, support.detach(), scores.detach(), *gradients]

    padded = all_of_it()
    with packing(monkeypatch):
        packed = all_of_it()
    assert len(packed) > 20
    for mine, theirs in zip(packed, padded, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)  # Qwen3 norms in float32


def test_what_flash_attention_is_given() -> None:
    layout = lay_out(ROWS, [3, 0, 4], CPU, packed=True)
    assert layout.inputs["max_length_q"] == layout.inputs["max_length_k"] == 97
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        starts = layout.inputs[name]
        assert isinstance(starts, torch.Tensor)
        assert starts.tolist() == [0, 97, 105, 113]
        assert starts.dtype == torch.int32
    positions = layout.inputs["position_ids"]
    assert isinstance(positions, torch.Tensor)
    assert positions.tolist() == [[*range(97), *range(8), *range(8)]]
    assert layout.target_N.tolist() == [*range(40, 47), *range(40, 45)]
    assert layout.position_N.tolist() == [*range(89, 96), *range(99, 104)]  # each token is read one place before it
    assert layout.row_N.tolist() == [3] * 7 + [0] * 5
    assert set(layout.here_N.tolist()) == {0}


def test_padding_comes_last_and_needs_no_mask() -> None:
    layout = lay_out(ROWS, [3, 0], CPU, packed=False)
    assert layout.inputs.keys() == {"input_ids", "position_ids"}
    ids = layout.inputs["input_ids"]
    assert isinstance(ids, torch.Tensor)
    assert ids[1].tolist() == [1, 2, 3, 40, 41, 42, 43, 44] + [0] * 89


def test_packing_is_for_flash_attention_without_states() -> None:
    model = make_model()
    assert not takes_packed_rows(model)
    model.config._attn_implementation = "flash_attention_2"
    assert takes_packed_rows(model)
    model._is_stateful = True
    assert not takes_packed_rows(model)


def test_a_pass_on_a_cpu_is_smaller() -> None:
    assert default_budget(CPU) == CPU_PASS_TOKENS < PASS_TOKENS == default_budget(torch.device("cuda"))


def test_check_finds_rows_that_reach_into_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed pass through attention that takes it for one row."""
    from sgsd.errors import TrainingError

    def one_row(*args: Any, **options: Any) -> Any:
        layout = lay_out(*args, **options)
        size = layout.inputs["input_ids"].shape  # type: ignore[union-attr]
        layout.inputs["position_ids"] = torch.arange(size[1]).expand(size)
        return layout

    monkeypatch.setattr("sgsd.score.lay_out", one_row)
    with packing(monkeypatch), pytest.raises(TrainingError, match="nats off its own"):
        check_scoring(make_model())
