"""The gated objective of SGSD: teachers vote on the student's own tokens, the verifier says whose vote counts and how.

docs/method.md, steps 6-8. Pure functions of tensors. `_B` examples, `_K` teachers, `_T` completion tokens, `_S`
tokens of a local support. A teacher with weight 0 does not exist: rows with fewer than K teachers are filled up so.

    s_k   = mean over tokens of clip(delta_kt - b_t, -c, c)                  support of teacher k (b = 0: the paper)
    rho_k = r * sign(s_k) if |s_k| > eps else 0                              polarity, without gradient
    l(d)  = log 2 - softplus(-d^2 / (2 tau))                                 gate, in [0, log 2)
    L     = 1/N sum_x sum_k w_k rho_k mean over tokens of l(delta_kt)        delta = log p_teacher - log p_student

What is left out: where log-probs come from (score.py), what N is across micro-batches and ranks (the caller's number),
and weights of teachers (retrieval's).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class GatedSettings:
    """Defaults are the paper's; the last three fields hold the ablations of docs/method.md."""

    tau: float = 1.0
    """Temperature of the gate: disagreement teaches most at |delta| = 1.216 sqrt(tau) nats."""
    clip: float = 3.0
    """Bound on one token's say in the support, in nats."""
    eps: float = 0.05
    """A teacher whose |support| is at most this, in nats per token, is neutral."""
    polarity: Literal["verified", "off"] = "verified"
    """"off": rho = 1 for every teacher of a verified row; an outcome of 0 contributes nothing here either."""
    gate: Literal["bounded", "quadratic"] = "bounded"
    """"quadratic": l(d) = d^2 / (4 tau), the same curvature at 0 and no bound."""
    support_baseline: Literal["none", "pool", "placebo"] = "none"
    """What support is measured against. "pool": the mean delta of the row's teachers (a lone teacher is then always
    neutral); "placebo": the delta of a teacher with neutral guidance, which the caller gives."""

    def __post_init__(self) -> None:
        if not (self.tau > 0 and self.clip > 0 and self.eps >= 0):
            raise ValueError(f"tau = {self.tau} and clip = {self.clip} must be above 0, eps = {self.eps} not below 0")


@dataclass(frozen=True)
class GatedCounts:
    """Numbers to add up over micro-batches and ranks; shares are made of the sums."""

    teachers: int = 0
    """Teachers there are, in rows with at least one token."""
    below_threshold: int = 0
    """Of those, the ones whose |support| is at most eps."""
    judged: int = 0
    """Teachers there are, in rows with an outcome of +1 or -1."""
    helpful: int = 0
    """Judged teachers of polarity +1: supported a success or suppressed a failure."""
    harmful: int = 0
    """Judged teachers of polarity -1."""
    tokens: int = 0
    """Token positions summed over teachers."""
    clipped: int = 0
    """Of those, the ones with |delta - baseline| above the clip."""

    @property
    def neutral(self) -> int:
        return self.judged - self.helpful - self.harmful

    @property
    def shares(self) -> dict[str, float]:
        """Shares in [0, 1] under the names that logs carry; 0 where there is nothing to share."""
        judged, teachers, tokens = max(1, self.judged), max(1, self.teachers), max(1, self.tokens)
        return {
            "helpful": self.helpful / judged,
            "harmful": self.harmful / judged,
            "neutral": self.neutral / judged,
            "below_threshold": self.below_threshold / teachers,
            "clipped": self.clipped / tokens,
        }

    def __add__(self, other: GatedCounts) -> GatedCounts:
        return GatedCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class GatedDiagnostics:
    """What each teacher thought of each token. Detached; zeros where there is no teacher or no token."""

    delta_BKT: Tensor
    """log p_teacher - log p_student of the sampled token (on the local support in that variant), nats."""
    gate_BKT: Tensor
    """|d l / d disagreement|: how much the token would teach at full weight."""
    gate_mass_BK: Tensor
    """Mean of `gate_BKT` over the row's tokens."""
    support_BK: Tensor
    """s_k, nats per token."""
    polarity_BK: Tensor
    """The *verified* rho_k in {-1, 0, 1}, also when the ablation takes 1 in its place: the ledger wants the verdict."""
    clipped_share_BK: Tensor
    """Share of the row's tokens with |delta - baseline| above the clip."""
    counts: GatedCounts


@dataclass(frozen=True)
class GatedResult:
    loss: Tensor
    """Scalar, always in the student's graph, so that a batch without teachers backpropagates zeros."""
    diagnostics: GatedDiagnostics


def gate(disagreement: Tensor, settings: GatedSettings) -> Tensor:
    """l(disagreement), elementwise: 0 at 0, even, at most log 2 when bounded."""
    if settings.gate == "quadratic":
        return disagreement.square() / (4 * settings.tau)
    return math.log(2) - softplus(-disagreement.square() / (2 * settings.tau))


def gate_slope(disagreement: Tensor, settings: GatedSettings) -> Tensor:
    """|d l / d disagreement|, elementwise; when bounded and tau = 1 at most 0.393, at 1.216."""
    if settings.gate == "quadratic":
        return disagreement.abs() / (2 * settings.tau)
    return (disagreement.abs() / settings.tau) * torch.sigmoid(-disagreement.square() / (2 * settings.tau))


def gated_loss(
    student_logp_BT: Tensor,
    teacher_logp_BKT: Tensor,
    mask_BT: Tensor,
    outcome_B: Tensor,
    weight_BK: Tensor,
    settings: GatedSettings,
    *,
    num_examples: int,
    placebo_logp_BT: Tensor | None = None,
) -> GatedResult:
    """Steps 5-7 of docs/method.md on the log-probs of the sampled tokens; only `student_logp_BT` carries gradient.

    `mask_BT` is true on tokens that count; values elsewhere are never read. `outcome_B` is in {+1, -1, 0}.
    `num_examples` is N: all examples of the optimiser step, so that any split into micro-batches adds up to one loss.
    `placebo_logp_BT` belongs to the support baseline "placebo" and to no other. ValueError for shapes that do not fit.
    """
    B, K, T = _shape_of(teacher_logp_BKT, "teacher_logp_BKT", 3)
    _expect(student_logp_BT, "student_logp_BT", (B, T))
    there_BKT = _tokens_of_teachers(mask_BT, weight_BK, (B, K, T))
    delta_BKT = torch.where(there_BKT, teacher_logp_BKT.detach() - student_logp_BT[:, None], 0.0)
    placebo_BT = None
    if placebo_logp_BT is not None:
        _expect(placebo_logp_BT, "placebo_logp_BT", (B, T))
        placebo_BT = (placebo_logp_BT - student_logp_BT).detach()
    return _assemble(delta_BKT, delta_BKT.detach(), there_BKT, outcome_B, weight_BK, settings, num_examples, placebo_BT)


def local_support_mask(ids_BKTS: Tensor) -> Tensor:
    """True on the entries of a local support that count once each: [top-n of the teacher ..., sampled token].

    The sampled token, last, is always there; an entry of the top-n equal to it would count it twice and is false.
    """
    mask = ids_BKTS != ids_BKTS[..., -1:]
    mask[..., -1] = True
    return mask


def gated_local_loss(
    student_logits_BKTS: Tensor,
    teacher_logits_BKTS: Tensor,
    support_mask_BKTS: Tensor,
    mask_BT: Tensor,
    outcome_B: Tensor,
    weight_BK: Tensor,
    settings: GatedSettings,
    *,
    num_examples: int,
) -> GatedResult:
    """Step 8 of docs/method.md: both sides renormalised on S = top-n(teacher) + the sampled token, the last entry of S.

    Polarity takes the sampled token's local log-probs, the gate takes KL_S(teacher || student) >= 0 in place of delta.
    Logits or log-probs serve alike, for the renormalisation takes any constant away. `support_mask_BKTS` is what
    `local_support_mask` says. The placebo baseline is refused here; the rest is as in `gated_loss`.
    """
    B, K, T, S = _shape_of(teacher_logits_BKTS, "teacher_logits_BKTS", 4)
    _expect(student_logits_BKTS, "student_logits_BKTS", (B, K, T, S))
    _expect(support_mask_BKTS, "support_mask_BKTS", (B, K, T, S))
    there_BKT = _tokens_of_teachers(mask_BT, weight_BK, (B, K, T))
    student_BKTS = _local_logp(student_logits_BKTS, support_mask_BKTS, there_BKT)
    teacher_BKTS = _local_logp(teacher_logits_BKTS.detach(), support_mask_BKTS, there_BKT)
    delta_BKT = (teacher_BKTS - student_BKTS)[..., -1].detach()
    teacher_p_BKTS = torch.where(support_mask_BKTS, teacher_BKTS.exp(), 0.0)
    kl_BKT = (teacher_p_BKTS * (teacher_BKTS - student_BKTS)).sum(dim=-1)
    return _assemble(kl_BKT, delta_BKT, there_BKT, outcome_B, weight_BK, settings, num_examples, None)


def _local_logp(logits_BKTS: Tensor, support_mask_BKTS: Tensor, there_BKT: Tensor) -> Tensor:
    """Log-probs renormalised on the support; 0 off it. Tokens that do not count get finite stand-ins."""
    logits_BKTS = torch.where(there_BKT[..., None], logits_BKTS, 0.0)
    logp_BKTS = logits_BKTS.masked_fill(~support_mask_BKTS, -math.inf).log_softmax(dim=-1)
    return logp_BKTS.masked_fill(~support_mask_BKTS, 0.0)


def _assemble(
    disagreement_BKT: Tensor,
    delta_BKT: Tensor,
    there_BKT: Tensor,
    outcome_B: Tensor,
    weight_BK: Tensor,
    settings: GatedSettings,
    num_examples: int,
    placebo_BT: Tensor | None,
) -> GatedResult:
    """Polarity from `delta_BKT` (detached), loss through `disagreement_BKT` (delta itself, or the local KL)."""
    _expect(outcome_B, "outcome_B", delta_BKT.shape[:1])
    if num_examples < 1:
        raise ValueError(f"num_examples = {num_examples} is below 1: give the examples of the whole optimiser step")
    dtype = delta_BKT.dtype
    exists_BK = weight_BK != 0
    tokens_BK = there_BKT.sum(dim=-1)
    length_BK = tokens_BK.clamp(min=1).to(dtype)
    above_BKT = torch.where(there_BKT, delta_BKT - _baseline(delta_BKT, exists_BK, settings, placebo_BT), 0.0)
    support_BK = above_BKT.clamp(-settings.clip, settings.clip).sum(dim=-1) / length_BK
    certain_BK = support_BK.abs() > settings.eps
    outcome_B1 = outcome_B.to(dtype)[:, None]
    polarity_BK = outcome_B1 * support_BK.sign() * certain_BK
    rho_BK = polarity_BK if settings.polarity == "verified" else outcome_B1.abs().expand_as(polarity_BK)

    # l(0) = 0 with slope 0: tokens that do not count, set to 0 above, add neither value nor gradient.
    value_BK = torch.where(there_BKT, gate(disagreement_BKT, settings), 0.0).sum(dim=-1) / length_BK
    loss = (weight_BK.detach().to(dtype) * rho_BK * value_BK).sum() / num_examples

    slope_BKT = torch.where(there_BKT, gate_slope(disagreement_BKT.detach(), settings), 0.0)
    clipped_BK = (above_BKT.abs() > settings.clip).sum(dim=-1)
    judged_BK = exists_BK & (outcome_B1 != 0)
    heard_BK = exists_BK & (tokens_BK > 0)
    counted = (heard_BK, heard_BK & ~certain_BK, judged_BK, polarity_BK > 0, polarity_BK < 0, tokens_BK, clipped_BK)
    diagnostics = GatedDiagnostics(
        delta_BKT=delta_BKT,
        gate_BKT=slope_BKT,
        gate_mass_BK=slope_BKT.sum(dim=-1) / length_BK,
        support_BK=support_BK,
        polarity_BK=polarity_BK,
        clipped_share_BK=clipped_BK / length_BK,
        counts=GatedCounts(*torch.stack([what.sum() for what in counted]).tolist()),  # one wait for the device
    )
    return GatedResult(loss, diagnostics)


def _baseline(
    delta_BKT: Tensor, exists_BK: Tensor, settings: GatedSettings, placebo_BT: Tensor | None
) -> Tensor | float:
    """b_t, to broadcast against [B, K, T]."""
    if (placebo_BT is not None) != (settings.support_baseline == "placebo"):
        given = "none was given" if placebo_BT is None else "one was given"
        raise ValueError(
            f'support_baseline "{settings.support_baseline}" and a placebo teacher ({given}): only "placebo" takes one'
        )
    if placebo_BT is not None:
        return placebo_BT.to(delta_BKT.dtype)[:, None]
    if settings.support_baseline == "pool":
        # delta is 0 where no teacher exists, so the sum runs over the teachers there are
        return delta_BKT.sum(dim=1, keepdim=True) / exists_BK.sum(dim=1).clamp(min=1)[:, None, None]
    return 0.0


def _tokens_of_teachers(mask_BT: Tensor, weight_BK: Tensor, shape_BKT: tuple[int, int, int]) -> Tensor:
    """Where a teacher that exists meets a token that counts, bool [B, K, T]."""
    B, K, T = shape_BKT
    _expect(mask_BT, "mask_BT", (B, T))
    _expect(weight_BK, "weight_BK", (B, K))
    return mask_BT.bool()[:, None] & (weight_BK != 0)[..., None]


def _shape_of(tensor: Tensor, name: str, dims: int) -> tuple[int, ...]:
    if tensor.dim() != dims:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: {dims} dimensions are wanted")
    return tuple(tensor.shape)


def _expect(tensor: Tensor, name: str, shape: tuple[int, ...]) -> None:
    # Broadcasting would make a wrong loss out of a wrong shape.
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, {tuple(shape)} is wanted")
