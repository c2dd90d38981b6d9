"""Divergences between a teacher's and a student's next-token distribution: the objectives of OPSD.

docs/systems.md. Pure functions of logits; gradient flows into the student's side alone. `_N` tokens, `_V` vocabulary.

    m = beta T + (1 - beta) S,   JSD_beta = beta KL(T || m) + (1 - beta) KL(S || m),   0 < beta < 1
    beta = 0: KL(T || S)   (forward),   beta = 1: KL(S || T)   (reverse)

Both ends are set, not limits: as beta goes to 0, JSD_beta does too, and JSD_beta / beta goes to KL(T || S).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DivergenceSettings:
    """Defaults are those of OPSD's release (arXiv 2601.18734)."""

    beta: float = 0.0
    clip: float | None = 0.05
    """Bound on what one vocabulary entry adds to a token's divergence, in nats; None for no bound."""
    top_k: int = 0
    """n > 0: on the teacher's n likeliest tokens, both sides renormalised there. 0 takes the whole vocabulary."""
    temperature: float = 1.0
    """Both sides' logits are divided by it. The release takes the temperature of the rollout."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta = {self.beta} is outside 0 ... 1")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip = {self.clip} is not above 0: give a bound in nats, or None for no bound")
        if self.top_k < 0 or not self.temperature > 0:
            raise ValueError(f"top_k = {self.top_k} must not be below 0, temperature = {self.temperature} be above 0")


def divergence(student_NV: Tensor, teacher_NV: Tensor, settings: DivergenceSettings) -> Tensor:
    """Divergence of each token in nats, [N], of logits [N, V]; ValueError for shapes that do not fit.

    The clip cuts the entries' terms before they are summed. A term of a KL may be negative, and is then left as it is:
    a clipped divergence may be below 0, and a clipped entry has no gradient.
    """
    if student_NV.dim() != 2 or student_NV.shape != teacher_NV.shape:
        raise ValueError(f"logits of shape {tuple(student_NV.shape)} and {tuple(teacher_NV.shape)}: give two of [N, V]")
    teacher_NV = teacher_NV.detach()
    if settings.top_k:
        ids_NK = teacher_NV.topk(min(settings.top_k, teacher_NV.shape[1]), dim=-1).indices
        student_NV, teacher_NV = student_NV.gather(1, ids_NK), teacher_NV.gather(1, ids_NK)
    log_s_NV = (student_NV / settings.temperature).log_softmax(dim=-1)
    log_t_NV = (teacher_NV / settings.temperature).log_softmax(dim=-1)
    terms_NV = _terms(log_s_NV, log_t_NV, settings.beta)
    if settings.clip is not None:
        terms_NV = terms_NV.clamp(max=settings.clip)
    return terms_NV.sum(dim=-1)


def _terms(log_s_NV: Tensor, log_t_NV: Tensor, beta: float) -> Tensor:
    """What each vocabulary entry adds."""
    if beta == 0:
        return log_t_NV.exp() * (log_t_NV - log_s_NV)
    if beta == 1:
        return log_s_NV.exp() * (log_s_NV - log_t_NV)
    log_m_NV = torch.logaddexp(log_t_NV + math.log(beta), log_s_NV + math.log1p(-beta))
    of_teacher_NV = log_t_NV.exp() * (log_t_NV - log_m_NV)
    of_student_NV = log_s_NV.exp() * (log_s_NV - log_m_NV)
    return beta * of_teacher_NV + (1 - beta) * of_student_NV


def sampled_loss(student_logp_N: Tensor, teacher_logp_N: Tensor) -> Tensor:
    """Policy gradient on the sampled token, [N]: -A log S with the advantage A = stopgrad(log T - log S).

    Over tokens drawn from S its gradient is in expectation that of KL(S || T).
    """
    if student_logp_N.shape != teacher_logp_N.shape:
        raise ValueError(
            f"log-probs of shape {tuple(student_logp_N.shape)} and {tuple(teacher_logp_N.shape)}: give two of one shape"
        )
    return -(teacher_logp_N - student_logp_N).detach() * student_logp_N
