"""From token ids to per-token log-probs with a Hugging Face causal language model.

Rows are laid out [prompt | completion | padding]: the first completion token is read at the last prompt token, whatever
the lengths of the others, so batched scores are the unbatched ones (docs/method.md, pitfall 2). Position ids and
attention mask are explicit. Log-probs are at temperature 1 and in float32 (sgsd.logits).

The model is always called through its own outermost `forward`, because DDP and FSDP do their work there; what is
exchanged for the moment of the call is the inner causal model's `forward`, which then runs its decoder and hands the
hidden states of the completion tokens alone to the head, and the head's, which returns values instead of logits. The
graph leaves through the wrappers' outputs, as theirs must. Logits of a whole row never exist.

`_R` rows, `_L` their length with prompt and padding, `_T` completion tokens, `_N` all completion tokens of a batch,
`_S` tokens of a local support.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypedDict
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sgsd.errors import ConfigError, DataInvalid, TrainingError
from sgsd.logits import TopK, support_logits, token_logprobs, topk_logprobs

_THINK_TAG = re.compile("</?think>")


@dataclass(frozen=True)
class ScoreRow:
    """A completion and the prompt to read it under. The prompt has at least one token, the completion may have none."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def score(model: nn.Module, rows: Sequence[ScoreRow], *, token_budget: int | None = None, grad: bool = False) -> Tensor:
    """log pi(y_t | prompt, y_<t), [R, T]; 0 beyond a row's completion; T is the longest completion of the call.

    Without `grad` (teachers) the model runs in eval mode and every module gets its own mode back. With it (the student)
    modes are left alone. `token_budget` bounds the tokens of one forward pass, padding counted; a longer row goes
    alone; None is one pass for all, which is what DDP wants of a student. Under mixed precision enter
    `accelerator.autocast()` first, for the exchange of `forward` goes beneath accelerate's own. Under FSDP each pass is
    a collective: every rank has to make the same number.
    """

    def read(hidden_NH: Tensor, head: nn.Linear, options: _HeadOptions, batch: _Batch) -> tuple[Tensor, ...]:
        return (token_logprobs(hidden_NH, head.weight, batch.target_N, **options),)

    return read_completions(model, rows, read, token_budget=token_budget, grad=grad)[0]


def score_top(model: nn.Module, rows: Sequence[ScoreRow], k: int, *, token_budget: int | None = None) -> TopK:
    """A teacher's k likeliest tokens at each completion token and their log-probs, [R, T, k] each. No gradient."""

    def read(hidden_NH: Tensor, head: nn.Linear, options: _HeadOptions, batch: _Batch) -> tuple[Tensor, ...]:
        return topk_logprobs(hidden_NH, head.weight, k, **options)

    return TopK(*read_completions(model, rows, read, token_budget=token_budget, grad=False))


def score_support(
    model: nn.Module, rows: Sequence[ScoreRow], ids_RTS: Tensor, *, token_budget: int | None = None, grad: bool = False
) -> Tensor:
    """Logits of given tokens at each completion token, [R, T, S]. The rest as in `score`."""

    def read(hidden_NH: Tensor, head: nn.Linear, options: _HeadOptions, batch: _Batch) -> tuple[Tensor, ...]:
        ids_NS = ids_RTS.to(hidden_NH.device)[batch.row_N, batch.token_N]
        return (support_logits(hidden_NH, head.weight, ids_NS, **options),)

    return read_completions(model, rows, read, token_budget=token_budget, grad=grad)[0]


def micro_batches(lengths: Sequence[int], token_budget: int | None) -> list[list[int]]:
    """Indices of rows, longest first; rows times longest row stays within the budget, and a longer row goes alone."""
    if token_budget is not None and token_budget < 1:
        raise ConfigError(f"token_budget = {token_budget} is below 1: give the tokens of one forward pass")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (token_budget is None or (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= token_budget):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@torch.no_grad()
def check_scoring(model: nn.Module) -> None:
    """Raise TrainingError when `score` disagrees with the model's own logits: an architecture that transforms them in a
    way not known here would train on wrong numbers without a sign. Two short forward passes."""
    parameter = next(model.parameters())
    vocabulary = causal_model(model).config.get_text_config().vocab_size
    ids = [i % vocabulary for i in range(1, 17)]
    mine_T = score(model, [ScoreRow(ids[:4], ids[4:])])[0]
    with _eval_mode(model):
        logits_LV = model(input_ids=torch.tensor([ids], device=parameter.device), use_cache=False).logits[0]
    theirs_LV = logits_LV.to(mine_T.dtype).log_softmax(dim=-1)
    theirs_T = theirs_LV[3:-1].gather(1, torch.tensor(ids[4:], device=theirs_LV.device)[:, None])[:, 0]
    gap_nats = (mine_T - theirs_T).abs().max().item()
    bound = 1e-3 if logits_LV.dtype in (torch.float32, torch.float64) else 0.5  # half-precision logits are that coarse
    if not gap_nats <= bound:
        kind = type(causal_model(model)).__name__
        raise TrainingError(
            f"scores of {kind} are {gap_nats:.3g} nats off its own, above {bound}: its logits are unknown"
        )


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The causal language model within adapters and distributed wrappers."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None:  # type: ignore[no-untyped-call]
            return module
    raise ConfigError(f"{type(model).__name__} holds no transformers model with a head: give a causal language model")


# ---- one call --------------------------------------------------------------------------------------------------------


class _HeadOptions(TypedDict):
    bias_V: Tensor | None
    logit_scale: float
    softcap: float | None


@dataclass(frozen=True)
class _Batch:
    """A padded micro-batch; `_N` runs over its completion tokens, row by row."""

    inputs: dict[str, Tensor]
    """input_ids, attention_mask, position_ids: [R, L]."""
    here_N: Tensor
    """Row within the micro-batch."""
    position_N: Tensor
    """Position whose hidden state predicts the token."""
    target_N: Tensor
    row_N: Tensor
    """Row within the call."""
    token_N: Tensor
    """Index within the completion."""


_Read = Callable[[Tensor, nn.Linear, _HeadOptions, _Batch], tuple[Tensor, ...]]


def read_completions(
    model: nn.Module, rows: Sequence[ScoreRow], read: _Read, *, token_budget: int | None, grad: bool
) -> tuple[Tensor, ...]:
    """What `read` makes of the hidden states of all completion tokens, each value laid out as [R, T, ...]."""
    if not rows:
        raise DataInvalid("no rows to score: give at least one")
    for index, row in enumerate(rows):
        if not row.prompt_ids:
            raise DataInvalid(f"row {index} has an empty prompt: the first completion token needs one token before it")
    if isinstance(model, DistributedDataParallel) and not grad:
        model = model.module  # its forward broadcasts buffers: ranks with unequal numbers of passes would hang
    device = next(model.parameters()).device
    batches = [_lay_out(rows, part, device) for part in micro_batches([len(row) for row in rows], token_budget)]
    # Casts that an earlier pass left are of other weights, where a teacher's were swapped in, and before torch 2.11
    # those of a pass without gradient would cut the student's graph.
    torch.clear_autocast_cache()
    # Not inference mode: what FSDP and autocast keep from a pass must be fit for a training pass.
    with nullcontext() if grad else torch.no_grad(), nullcontext() if grad else _eval_mode(model):
        parts = [_forward(model, batch, read) for batch in batches]
    shape = (len(rows), max(len(row.completion_ids) for row in rows))
    where = (torch.cat([b.row_N for b in batches]), torch.cat([b.token_N for b in batches]))
    values = [torch.cat(value) for value in zip(*parts, strict=True)]
    return tuple(v.new_zeros(shape + v.shape[1:]).index_put(where, v) for v in values)


def _lay_out(rows: Sequence[ScoreRow], part: Sequence[int], device: torch.device) -> _Batch:
    chosen = [rows[index] for index in part]
    size = (len(chosen), max(len(row) for row in chosen))
    ids_RL = torch.zeros(size, dtype=torch.int64)  # any id serves as padding: it is masked and nothing comes after it
    mask_RL = torch.zeros(size, dtype=torch.int64)
    for i, row in enumerate(chosen):
        ids_RL[i, : len(row)] = torch.tensor([*row.prompt_ids, *row.completion_ids])
        mask_RL[i, : len(row)] = 1
    positions_RL = torch.arange(size[1]).expand(size)
    counts = torch.tensor([len(row.completion_ids) for row in chosen])
    here_N = torch.repeat_interleave(torch.arange(len(chosen)), counts)
    token_N = torch.cat([torch.arange(int(n)) for n in counts])
    position_N = token_N + torch.tensor([len(row.prompt_ids) - 1 for row in chosen])[here_N]
    inputs = {"input_ids": ids_RL, "attention_mask": mask_RL, "position_ids": positions_RL}
    return _Batch(
        inputs={name: value.to(device) for name, value in inputs.items()},
        here_N=here_N.to(device),
        position_N=position_N.to(device),
        target_N=ids_RL[here_N, position_N + 1].to(device),
        row_N=torch.tensor(part)[here_N].to(device),
        token_N=token_N.to(device),
    )


def _forward(model: nn.Module, batch: _Batch, read: _Read) -> tuple[Tensor, ...]:
    inner = causal_model(model)
    head = inner.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"the head is a {type(head).__name__}: leave lm_head out of the adapter's modules")
    options = _head_options(inner, head)

    def head_forward(hidden_NH: Tensor) -> tuple[Tensor, ...]:
        return read(hidden_NH, head, options, batch)

    def inner_forward(**inputs: Any) -> tuple[Tensor, ...]:
        given = {name: value for name, value in inputs.items() if value is not None}
        if unknown := given.keys() - batch.inputs.keys() - {"use_cache"}:
            raise ConfigError(f"the model's wrapper adds {sorted(unknown)}: prompt-learning adapters are not scored")
        decoder = inner.get_decoder()  # type: ignore[no-untyped-call]
        hidden_RLH = decoder(**given).last_hidden_state
        values: tuple[Tensor, ...] = head(hidden_RLH[batch.here_N, batch.position_N])
        return values

    with _forward_as(inner, inner_forward), _forward_as(head, head_forward):
        return tuple(model(**batch.inputs, use_cache=False))


def _head_options(inner: PreTrainedModel, head: nn.Linear) -> _HeadOptions:
    """What the architecture does to its logits; `check_scoring` finds those that do something else."""
    config = inner.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
    if config.model_type.startswith("granite"):
        scale = 1.0 / config.logits_scaling
    return {
        "bias_V": head.bias,
        "logit_scale": scale,
        "softcap": getattr(config, "final_logit_softcapping", None),
    }  # Gemma


@contextmanager
def _forward_as(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    before = module.__dict__.get("forward")  # an instance's own: accelerate sets one
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


# ---- which tokens count ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Vocabulary:
    pieces: tuple[str, ...]
    """What each id decodes to alone."""
    counts: tuple[bool, ...]


_VOCABULARIES: WeakKeyDictionary[PreTrainedTokenizerBase, _Vocabulary] = WeakKeyDictionary()


def completion_mask(completion_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """True on the tokens that count, bool [T]: not special (padding and end included), not part of a think tag, however
    the tokenizer cuts it, not newlines alone, and known to the tokenizer (a head may be wider than its vocabulary)."""
    vocabulary = _VOCABULARIES.get(tokenizer)
    if vocabulary is None or len(vocabulary.pieces) != len(tokenizer):
        vocabulary = _VOCABULARIES[tokenizer] = _read_vocabulary(tokenizer)
    known = [0 <= i < len(vocabulary.pieces) for i in completion_ids]
    counts = [there and vocabulary.counts[i] for i, there in zip(completion_ids, known, strict=True)]
    pieces = [vocabulary.pieces[i] if there else "" for i, there in zip(completion_ids, known, strict=True)]
    starts = list(accumulate((len(piece) for piece in pieces), initial=0))
    for tag in _THINK_TAG.finditer("".join(pieces)):
        for t in range(bisect_right(starts, tag.start()) - 1, bisect_left(starts, tag.end())):
            counts[t] = False
    return torch.tensor(counts, dtype=torch.bool)


def _read_vocabulary(tokenizer: PreTrainedTokenizerBase) -> _Vocabulary:
    pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=False)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {*tokenizer.all_special_ids}
    newlines = [piece != "" and not piece.strip("\r\n") for piece in pieces]
    return _Vocabulary(tuple(pieces), tuple(i not in special and not newlines[i] for i in range(len(pieces))))
