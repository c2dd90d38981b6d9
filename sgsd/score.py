"""From token ids to per-token log-probs with a Hugging Face causal language model.

The first completion token is read at the last prompt token, whatever the lengths of the other rows of the pass, so
batched scores are the unbatched ones (docs/method.md, pitfall 2); how rows are laid out is sgsd.layout's matter.
Log-probs are at temperature 1 and in float32 (sgsd.logits).

The model is always called through its own outermost `forward`, because DDP and FSDP do their work there; what is
exchanged for the moment of the call is the inner causal model's `forward`, which then runs its decoder and hands the
hidden states of the completion tokens alone to the head, and the head's, which returns values instead of logits. The
graph leaves through the wrappers' outputs, as theirs must. Logits of a whole row never exist.

`_R` rows, `_L` the length of a pass, `_T` completion tokens, `_N` all completion tokens of a pass, `_S` tokens of a
local support.
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
from sgsd.layout import Pass, default_budget, lay_out, micro_batches, takes_packed_rows
from sgsd.layout import ScoreRow as ScoreRow
from sgsd.logits import TopK, support_logits, token_logprobs, topk_logprobs
from sgsd.shards import idle_passes, sharded

_THINK_TAG = re.compile("</?think>")
_IDLE = ScoreRow((0,), ())
"""A row of a pass that another rank needs: nothing is read of it."""


def score(model: nn.Module, rows: Sequence[ScoreRow], *, token_budget: int | None = None, grad: bool = False) -> Tensor:
    """log pi(y_t | prompt, y_<t), [R, T]; 0 beyond a row's completion; T is the longest completion of the call.

    Without `grad` (teachers) the model runs in eval mode and every module gets its own mode back. With it (the student)
    modes are left alone. `token_budget` bounds the tokens of one forward pass, padding counted; a longer row goes
    alone; None is what the device takes well, with `grad` one pass for all, which is what DDP wants. Under mixed
    precision enter `accelerator.autocast()` first, for the exchange of `forward` goes beneath accelerate's own. Each
    pass of a sharded model is a collective: every rank has to call, without rows where it has none, and without `grad`
    passes are made up so that all make the same number.
    """

    def read(hidden_NH: Tensor, head: nn.Linear, options: _HeadOptions, layout: Pass) -> tuple[Tensor, ...]:
        return (token_logprobs(hidden_NH, head.weight, layout.target_N, **options),)

    return read_completions(model, rows, read, token_budget=token_budget, grad=grad)[0]


def score_top(model: nn.Module, rows: Sequence[ScoreRow], k: int, *, token_budget: int | None = None) -> TopK:
    """A teacher's k likeliest tokens at each completion token and their log-probs, [R, T, k] each. No gradient."""

    def read(hidden_NH: Tensor, head: nn.Linear, options: _HeadOptions, layout: Pass) -> tuple[Tensor, ...]:
        return topk_logprobs(hidden_NH, head.weight, k, **options)

    return TopK(*read_completions(model, rows, read, token_budget=token_budget, grad=False))


def score_support(
    model: nn.Module, rows: Sequence[ScoreRow], ids_RTS: Tensor, *, token_budget: int | None = None, grad: bool = False
) -> Tensor:
    """Logits of given tokens at each completion token, [R, T, S]. The rest as in `score`."""

    def read(hidden_NH: Tensor, head: nn.Linear, options: _HeadOptions, layout: Pass) -> tuple[Tensor, ...]:
        ids_NS = ids_RTS.to(hidden_NH.device)[layout.row_N, layout.token_N]
        return (support_logits(hidden_NH, head.weight, ids_NS, **options),)

    return read_completions(model, rows, read, token_budget=token_budget, grad=grad)[0]


def score_tokens(
    model: nn.Module, rows: Sequence[ScoreRow], ids_RTS: Tensor, *, token_budget: int | None = None, grad: bool = False
) -> Tensor:
    """Log-probs over the whole vocabulary of given tokens at each completion token, [R, T, S]; 0 beyond a row's
    completion. The rest as in `score`."""

    def read(hidden_NH: Tensor, head: nn.Linear, options: _HeadOptions, layout: Pass) -> tuple[Tensor, ...]:
        ids_NS = ids_RTS.to(hidden_NH.device)[layout.row_N, layout.token_N]
        logits_NS = support_logits(hidden_NH, head.weight, ids_NS, **options)
        first_N = token_logprobs(hidden_NH, head.weight, ids_NS[:, 0].contiguous(), **options)
        # What lies between logits and log-probs is the same for all tokens of a position.
        return (logits_NS - logits_NS[:, :1] + first_N[:, None],)

    return read_completions(model, rows, read, token_budget=token_budget, grad=grad)[0]


@torch.no_grad()
def check_scoring(model: nn.Module) -> None:
    """Raise TrainingError when `score` disagrees with the model's own logits: an architecture that transforms them in a
    way not known here, or lets the rows of a pass reach into each other, would train on wrong numbers without a sign.
    Three short forward passes."""
    device = next(model.parameters()).device
    vocabulary = causal_model(model).config.get_text_config().vocab_size
    ids = [i % vocabulary for i in range(1, 17)]
    rows = [ScoreRow(ids[8:10], ids[10:13]), ScoreRow(ids[:4], ids[4:])]
    gap_nats = 0.0
    for mine_T, row in zip(score(model, rows), rows, strict=True):
        with _eval_mode(model):
            row_ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]], device=device)
            logits_TV = model(input_ids=row_ids, use_cache=False).logits[0, len(row.prompt_ids) - 1 : -1]
        theirs_TV = logits_TV.to(mine_T.dtype).log_softmax(dim=-1)
        theirs_T = theirs_TV.gather(1, row_ids[0, len(row.prompt_ids) :, None])[:, 0]
        gaps_T = (mine_T[: len(theirs_T)] - theirs_T).abs()
        gap_nats = max(gap_nats, gaps_T.max().nan_to_num(nan=torch.inf).item())
    bound = 1e-3 if logits_TV.dtype in (torch.float32, torch.float64) else 0.5  # half-precision logits are that coarse
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


def head_width(model: nn.Module) -> int:
    """Token ids that the head makes logits of: the vocabulary with its padding."""
    return int(causal_model(model).get_output_embeddings().out_features)  # type: ignore[no-untyped-call]


# ---- one call --------------------------------------------------------------------------------------------------------


class _HeadOptions(TypedDict):
    bias_V: Tensor | None
    logit_scale: float
    softcap: float | None


_Read = Callable[[Tensor, nn.Linear, _HeadOptions, Pass], tuple[Tensor, ...]]


def read_completions(
    model: nn.Module, rows: Sequence[ScoreRow], read: _Read, *, token_budget: int | None, grad: bool
) -> tuple[Tensor, ...]:
    """What `read` makes of the hidden states of all completion tokens, each value laid out as [R, T, ...]."""
    if not rows and (grad or not sharded(model)):
        raise DataInvalid("no rows to score: give at least one")
    for index, row in enumerate(rows):
        if not row.prompt_ids:
            raise DataInvalid(f"row {index} has an empty prompt: the first completion token needs one token before it")
    if isinstance(model, DistributedDataParallel) and not grad:
        model = model.module  # its forward broadcasts buffers: ranks with unequal numbers of passes would hang
    device = next(model.parameters()).device
    packed = takes_packed_rows(causal_model(model))
    budget = default_budget(device) if token_budget is None and not grad else token_budget
    parts = micro_batches([len(row) for row in rows], budget, packed=packed)
    passes = [lay_out(rows, part, device, packed=packed) for part in parts]
    if not grad:  # the student's passes are one a micro-batch on every rank
        passes += [lay_out([_IDLE], [0], device, packed=packed)] * idle_passes(model, len(passes))
    # Casts that an earlier pass left are of other weights, where a teacher's were swapped in, and before torch 2.11
    # those of a pass without gradient would cut the student's graph.
    torch.clear_autocast_cache()
    # Not inference mode: what FSDP and autocast keep from a pass must be fit for a training pass.
    with nullcontext() if grad else torch.no_grad(), nullcontext() if grad else _eval_mode(model):
        values = [_forward(model, one, read) for one in passes]
    shape = (len(rows), max((len(row.completion_ids) for row in rows), default=0))
    where = (torch.cat([one.row_N for one in passes]), torch.cat([one.token_N for one in passes]))
    together = [torch.cat(value) for value in zip(*values, strict=True)]
    return tuple(v.new_zeros(shape + v.shape[1:]).index_put(where, v) for v in together)


def _forward(model: nn.Module, layout: Pass, read: _Read) -> tuple[Tensor, ...]:
    inner = causal_model(model)
    head = inner.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"the head is a {type(head).__name__}: leave lm_head out of the adapter's modules")
    options = _head_options(inner, head)

    def head_forward(hidden_NH: Tensor) -> tuple[Tensor, ...]:
        return read(hidden_NH, head, options, layout)

    def inner_forward(**inputs: Any) -> tuple[Tensor, ...]:
        given = {name: value for name, value in inputs.items() if value is not None}
        if unknown := given.keys() - layout.inputs.keys() - {"use_cache"}:
            raise ConfigError(f"the model's wrapper adds {sorted(unknown)}: prompt-learning adapters are not scored")
        decoder = inner.get_decoder()  # type: ignore[no-untyped-call]
        hidden_RLH = decoder(**given).last_hidden_state
        values: tuple[Tensor, ...] = head(hidden_RLH[layout.here_N, layout.position_N])
        return values

    with _forward_as(inner, inner_forward), _forward_as(head, head_forward):
        return tuple(model(**layout.inputs, use_cache=False))


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
