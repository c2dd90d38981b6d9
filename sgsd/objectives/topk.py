"""Reverse KL on a few tokens of each position: the objective of OPD, and what is measured of a student and a teacher.

docs/systems.md; "Rethinking On-Policy Distillation" (arXiv 2604.13016). With p the student, q the teacher, and full-
vocabulary log-probs of both:

    A_v = w_v (log q_v - log p_v),   loss = - sum over v in S of stopgrad(A_v) log p_v

On the whole vocabulary with w = p this is KL(p || q) and has its gradient. `_N` tokens, `_V` vocabulary, `_S` entries
of the chosen set, in which some may not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Strategy = Literal["student", "teacher", "intersection", "union", "union-intersection"]
Weighting = Literal["student_p", "teacher_p", "none"]


class Chosen(NamedTuple):
    """The set S of each token."""

    ids_NS: Tensor
    counts_NS: Tensor
    """False where an entry is no member: it stands there twice, or one side lacks it."""


def choose(student_NV: Tensor, teacher_NV: Tensor, k: int, strategy: Strategy) -> Chosen:
    """The tokens on which both sides are compared, from logits or log-probs [N, V].

    `student`, `teacher`: that side's k likeliest; `intersection`, `union` of the two; `union-intersection`: their
    union without their intersection, where only one side looks. ValueError for a k beyond the vocabulary.
    """
    if not 1 <= k <= student_NV.shape[-1]:
        raise ValueError(f"k = {k} is outside 1 ... {student_NV.shape[-1]}, the vocabulary")
    student_NK = student_NV.detach().topk(k, dim=-1).indices
    teacher_NK = teacher_NV.detach().topk(k, dim=-1).indices
    everywhere = torch.ones_like(student_NK, dtype=torch.bool)
    if strategy == "student":
        return Chosen(student_NK, everywhere)
    if strategy == "teacher":
        return Chosen(teacher_NK, everywhere)
    same_NKK = student_NK[:, :, None] == teacher_NK[:, None, :]
    student_shared_NK, teacher_shared_NK = same_NKK.any(dim=2), same_NKK.any(dim=1)
    if strategy == "intersection":
        return Chosen(student_NK, student_shared_NK)
    of_student = everywhere if strategy == "union" else ~student_shared_NK
    return Chosen(torch.cat([student_NK, teacher_NK], dim=1), torch.cat([of_student, ~teacher_shared_NK], dim=1))


def topk_loss(
    student_logp_NS: Tensor,
    teacher_logp_NS: Tensor,
    counts_NS: Tensor,
    weighting: Weighting,
    *,
    normalise: bool = True,
) -> Tensor:
    """The loss of each token, [N], on its set S; 0 where S is empty. Gradient in `student_logp_NS` alone.

    `normalise` divides the weights `student_p` and `teacher_p` by their sum over S. The published runs do so but for
    `union-intersection`, whose mass is small: there it would blow up what neither side believes in.
    """
    student_NS = student_logp_NS.detach()
    gap_NS = teacher_logp_NS.detach() - student_NS
    weight_NS = _weights(student_NS, teacher_logp_NS.detach(), counts_NS, weighting, normalise)
    advantage_NS = torch.where(counts_NS, weight_NS * gap_NS, 0.0)
    return -(advantage_NS * torch.where(counts_NS, student_logp_NS, 0.0)).sum(dim=-1)


def _weights(
    student_NS: Tensor, teacher_NS: Tensor, counts_NS: Tensor, weighting: Weighting, normalise: bool
) -> Tensor:
    if weighting == "none":
        return counts_NS.to(student_NS.dtype)
    logp_NS = (student_NS if weighting == "student_p" else teacher_NS).masked_fill(~counts_NS, -math.inf)
    # The softmax of log-probs over S are the probabilities divided by their sum; an empty S has none.
    return logp_NS.softmax(dim=-1).nan_to_num(0.0) if normalise else logp_NS.exp()


@dataclass(frozen=True)
class Agreement:
    """How alike two distributions are on their k likeliest tokens, [N] each; all of one token's state alone."""

    overlap_N: Tensor
    """|S_p and S_q| / k."""
    student_mass_N: Tensor
    """The student's probability of the shared tokens: 97 to 99 % in a healthy run, says the paper."""
    teacher_mass_N: Tensor
    advantage_N: Tensor
    """sum over shared v of p_v (log q_v - log p_v), both renormalised there, nats: minus a KL, so at most 0."""
    entropy_gap_N: Tensor
    """|H_q - H_p| over the whole vocabulary, nats."""


@torch.no_grad()
def agreement(student_NV: Tensor, teacher_NV: Tensor, k: int) -> Agreement:
    """Of logits [N, V]. Tokens that share nothing have overlap, mass and advantage 0."""
    log_p_NV, log_q_NV = student_NV.log_softmax(dim=-1), teacher_NV.log_softmax(dim=-1)
    ids_NK, shared_NK = choose(log_p_NV, log_q_NV, k, "intersection")
    log_p_NK = log_p_NV.gather(1, ids_NK).masked_fill(~shared_NK, -math.inf)
    log_q_NK = log_q_NV.gather(1, ids_NK).masked_fill(~shared_NK, -math.inf)
    p_NK = log_p_NK.softmax(dim=-1).nan_to_num(0.0)
    gap_NK = log_q_NK.log_softmax(dim=-1) - log_p_NK.log_softmax(dim=-1)
    return Agreement(
        overlap_N=shared_NK.to(log_p_NV.dtype).mean(dim=-1),
        student_mass_N=log_p_NK.exp().sum(dim=-1),
        teacher_mass_N=log_q_NK.exp().sum(dim=-1),
        advantage_N=(p_NK * torch.where(shared_NK, gap_NK, 0.0)).sum(dim=-1),
        entropy_gap_N=(_entropy(log_q_NV) - _entropy(log_p_NV)).abs(),
    )


def _entropy(logp_NV: Tensor) -> Tensor:
    entropy_N: Tensor = torch.special.entr(logp_NV.exp()).sum(dim=-1)
    return entropy_N
