"""Two ways to do a training step that are not the trainer's, for bench_step.py to hold it against.

`restated` is the obvious reading of the method: the student's row once for every teacher, all logits, all
log-softmaxes and entropies. `bare` is the limit: the passes that no implementation can leave out, and nothing else.
`finetune` is the student's half alone, as supervised training on the same completion would do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from sgsd.logits import token_logprobs
from sgsd.objectives.gated import GatedSettings
from sgsd.records import OUTCOME_SIGN
from sgsd.score import causal_model
from sgsd.teachers import Example


def restated(model: Any, examples: Sequence[Example], settings: GatedSettings) -> Tensor:
    """docs/method.md, steps 5 to 7, one example after the other; every token counts. Backpropagates; the loss."""
    total = torch.zeros((), device=model.device)
    for example in examples:
        teachers = [[*teacher.prompt_ids] for teacher in example.teachers]
        students = [[*example.rollout.prompt_ids]] * len(teachers)
        completion = [*example.rollout.completion.token_ids]
        with torch.no_grad():
            teacher_KT, _ = _all_logprobs(model, teachers, completion)
        student_KT, _ = _all_logprobs(model, students, completion)
        delta_KT = teacher_KT - student_KT
        support_K = delta_KT.detach().clamp(-settings.clip, settings.clip).mean(dim=1)
        rho_K = OUTCOME_SIGN[example.rollout.verdict.outcome] * support_K.sign() * (support_K.abs() > settings.eps)
        gate_KT = math.log(2) - softplus(-delta_KT.square() / (2 * settings.tau))
        weight_K = delta_KT.new_tensor([teacher.weight for teacher in example.teachers])
        loss = (weight_K * rho_K * gate_KT.mean(dim=1)).sum() / len(examples)
        loss.backward()
        total = total + loss.detach()
    return total


def _all_logprobs(model: Any, prompts: list[list[int]], completion: list[int]) -> tuple[Tensor, Tensor]:
    """Of the completion's tokens, and the entropies there, [K, T] each; rows padded on the left."""
    longest = max(map(len, prompts))
    rows = [[0] * (longest - len(prompt)) + prompt + completion for prompt in prompts]
    ids_KL = torch.tensor(rows, device=model.device)
    lengths_K1 = torch.tensor([[len(prompt)] for prompt in prompts], device=model.device)
    mask_KL = torch.arange(ids_KL.shape[1], device=model.device) >= longest - lengths_K1
    positions_KL = (mask_KL.cumsum(dim=1) - 1).clamp(min=0)
    out = model(input_ids=ids_KL, attention_mask=mask_KL.long(), position_ids=positions_KL, use_cache=False)
    logits_KTV = out.logits[:, longest - 1 : -1]
    logp_KTV = logits_KTV.to(torch.promote_types(logits_KTV.dtype, torch.float32)).log_softmax(dim=-1)
    entropy_KT = -(logp_KTV.detach().exp() * logp_KTV.detach()).sum(dim=-1)
    return logp_KTV.gather(2, ids_KL[:, longest:, None])[..., 0], entropy_KT


@dataclass(frozen=True)
class Way:
    """A sensible way to make the bare passes: teacher rows in one pass or in turn, tokens of one chunk of the head."""

    together: bool
    chunk: int | None
    """None: the head sees all tokens of a pass at once."""

    def __str__(self) -> str:
        head = "the head at once" if self.chunk is None else f"the head by {self.chunk} tokens"
        return f"teachers {'in one pass' if self.together else 'in turn'}, {head}"


WAYS = tuple(Way(together, chunk) for together in (True, False) for chunk in (None, 256, 64))


def bare(model: Any, examples: Sequence[Example], way: Way) -> None:
    """Forward and backward of each student row, K teacher forwards, the head at completion positions; no row has
    padding: rows of one length pass together, others alone. A token's number comes from torch's cross entropy."""
    for example in examples:
        completion = [*example.rollout.completion.token_ids]
        rows = [[*teacher.prompt_ids, *completion] for teacher in example.teachers]
        groups = [[row] for row in rows]
        if way.together:
            groups = [[row for row in rows if len(row) == length] for length in {len(row) for row in rows}]
        with torch.inference_mode():
            for group in groups:
                _bare_nll(model, group, len(completion), way.chunk)
        student = [[*example.rollout.prompt_ids, *completion]]
        torch.cat(_bare_nll(model, student, len(completion), way.chunk)).sum().backward()


def _bare_nll(model: Any, rows: list[list[int]], tokens: int, chunk: int | None) -> list[Tensor]:
    inner = causal_model(model)
    ids_RL = torch.tensor(rows, device=inner.device)
    hidden_RLH = inner.get_decoder()(input_ids=ids_RL, use_cache=False).last_hidden_state  # type: ignore[no-untyped-call]
    hidden_NH = hidden_RLH[:, -tokens - 1 : -1].flatten(0, 1)
    target_N = ids_RL[:, -tokens:].flatten()
    step = chunk or len(target_N)
    head: Callable[[Tensor], Tensor] = inner.get_output_embeddings()  # type: ignore[no-untyped-call]
    return [
        cross_entropy(head(hidden_NH[i : i + step]).float(), target_N[i : i + step], reduction="none")
        for i in range(0, len(target_N), step)
    ]


def finetune(model: Any, examples: Sequence[Example]) -> None:
    """A step of supervised training on the completions, one row after the other, with the trainer's chunked head."""
    for example in examples:
        inner = causal_model(model)
        prompt, completion = [*example.rollout.prompt_ids], [*example.rollout.completion.token_ids]
        ids_1L = torch.tensor([prompt + completion], device=inner.device)
        hidden_LH = inner.get_decoder()(input_ids=ids_1L, use_cache=False).last_hidden_state[0]  # type: ignore[no-untyped-call]
        head = inner.get_output_embeddings()  # type: ignore[no-untyped-call]
        logp_T = token_logprobs(hidden_LH[len(prompt) - 1 : -1], head.weight, ids_1L[0, len(prompt) :])
        (-logp_T.mean() / len(examples)).backward()
