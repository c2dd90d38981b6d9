"""A step of each method in plain float64, written from docs/method.md and docs/systems.md and from none of the code:
whole logits of one row at a time, teacher by teacher and token by token. What the real step is compared with.

A step is the sum over the rollouts of an optimiser step; `run` returns its loss and leaves its gradient in the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sgsd.config import OPDConfig, OPSDConfig
from sgsd.prompts import NEUTRAL, Guidance, guided_user_text, render
from sgsd.records import Problem, Rollout

from .training import Pairs


def full_logits(model: nn.Module, prompt_ids: Sequence[int], rollout: Rollout) -> Tensor:
    """The model's own logits at each completion token, [T, V]: one row, no padding."""
    row = torch.tensor([[*prompt_ids, *rollout.completion.token_ids]])
    logits_LV: Tensor = model(input_ids=row).logits[0]
    return logits_LV[len(prompt_ids) - 1 : -1]


def full_logp(model: nn.Module, prompt_ids: Sequence[int], rollout: Rollout) -> Tensor:
    return full_logits(model, prompt_ids, rollout).log_softmax(dim=-1)


def of_tokens(logp_TV: Tensor, rollout: Rollout) -> Tensor:
    return logp_TV[range(len(rollout.completion.token_ids)), list(rollout.completion.token_ids)]


def gradient_norm(model: nn.Module) -> float:
    """Of all weights together; 0 counts where a weight has no gradient."""
    return math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))


class Restated:
    """SGSD: docs/method.md, steps 5 to 8."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, pairs: Pairs, *, teacher: nn.Module | None = None, **objective: Any
    ) -> None:
        self.model, self.tokenizer, self.pairs = model, tokenizer, pairs
        self.teacher = teacher or model
        given = {"tau": 1.0, "clip": 3.0, "eps": 0.05, "polarity": "verified", "gate": "bounded"}
        self.settings: dict[str, Any] = given | {"support_baseline": "none", "support_top_k": 0} | objective

    def gate(self, d: Any, log: Any) -> Any:
        tau = self.settings["tau"]
        if self.settings["gate"] == "quadratic":
            return d * d / (4 * tau)
        return math.log(2) - log(1 + math.e ** (-d * d / (2 * tau)))

    def gate_slope(self, d: np.ndarray) -> np.ndarray:
        tau = self.settings["tau"]
        return d / (2 * tau) if self.settings["gate"] == "quadratic" else d / tau / (1 + np.exp(d * d / (2 * tau)))

    def polarity(self, delta: np.ndarray, baseline: np.ndarray, mask: np.ndarray, outcome: int) -> float:
        if self.settings["polarity"] == "off":
            return float(outcome != 0)
        support = (mask * np.clip(delta - baseline, -self.settings["clip"], self.settings["clip"])).sum() / mask.sum()
        return outcome * np.sign(support) if abs(support) > self.settings["eps"] else 0.0

    def run(self, rollouts: list[Rollout]) -> float:
        """The loss of a window; its gradient is left in the model."""
        self.model.zero_grad()
        total = 0.0
        for rollout in rollouts:
            outcome = {"correct": 1, "wrong": -1, "unverifiable": 0}[rollout.verdict.outcome]
            mask = np.array([float(token > 2) for token in rollout.completion.token_ids])  # 0 to 2 are special
            teachers = self.teachers(rollout.problem)
            if teachers and outcome and mask.sum():
                one = self.local if self.settings["support_top_k"] else self.full
                total += one(rollout, teachers, outcome, mask, len(rollouts))
        return total

    def teachers(self, problem: Problem) -> list[tuple[list[int], float]]:
        found = self.pairs.retrieve([problem.problem], [problem.problem_id])[0]
        return [(self.prompt(problem, Guidance(pair.skill, pair.mistake)), pair.weight) for pair in found]

    def prompt(self, problem: Problem, *guidance: Guidance) -> list[int]:
        return render(self.tokenizer, guided_user_text(problem.problem, guidance))

    def full(self, rollout: Rollout, teachers: list[Any], outcome: int, mask: np.ndarray, examples: int) -> float:
        student_T = of_tokens(full_logp(self.model, self.prompt(rollout.problem), rollout), rollout)
        with torch.no_grad():
            deltas = [of_tokens(full_logp(self.teacher, ids, rollout), rollout) - student_T for ids, _ in teachers]
            neutral = of_tokens(full_logp(self.model, self.prompt(rollout.problem, NEUTRAL), rollout), rollout)
        delta_KT = np.stack([delta.numpy() for delta in deltas])
        baseline_T = {
            "none": np.zeros(len(mask)),
            "pool": delta_KT.mean(axis=0),
            "placebo": (neutral - student_T.detach()).numpy(),
        }[self.settings["support_baseline"]]
        loss, slope_T = 0.0, np.zeros(len(mask))
        for (_, weight), delta_T in zip(teachers, delta_KT, strict=True):
            scale = weight * self.polarity(delta_T, baseline_T, mask, outcome) / mask.sum() / examples
            loss += scale * (mask * self.gate(delta_T, np.log)).sum()
            slope_T -= scale * mask * self.gate_slope(delta_T)
        student_T.backward(torch.tensor(slope_T))
        return loss

    def local(self, rollout: Rollout, teachers: list[Any], outcome: int, mask: np.ndarray, examples: int) -> float:
        student_TV = full_logp(self.model, self.prompt(rollout.problem), rollout)
        loss = student_TV.sum() * 0
        for ids, weight in teachers:
            with torch.no_grad():
                teacher_TV = full_logp(self.model, ids, rollout)
            delta, gates = [], []
            for t, token in enumerate(rollout.completion.token_ids):
                support = sorted({*teacher_TV[t].topk(self.settings["support_top_k"]).indices.tolist(), token})
                p, q = teacher_TV[t, support].log_softmax(-1), student_TV[t, support].log_softmax(-1)
                at = support.index(token)
                delta.append((p[at] - q[at]).item())
                gates.append(self.gate((p.exp() * (p - q)).sum(), torch.log))
            rho = self.polarity(np.array(delta), np.zeros(len(mask)), mask, outcome)
            loss = loss + weight * rho * (torch.tensor(mask) * torch.stack(gates)).sum() / mask.sum() / examples
        loss.backward()
        return loss.item()


class RestatedDistribution:
    """OPSD and OPD: docs/systems.md. The mean over all completion tokens of what `token_loss` makes of each token.

    `student` and `teacher` give the prompt under which each reads.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        token_loss: Callable[[Tensor, Tensor, int], Tensor],
        *,
        student_prompt: Callable[[Problem], Sequence[int]],
        teacher_prompt: Callable[[Problem], Sequence[int]],
    ) -> None:
        self.model, self.teacher, self.token_loss = model, teacher, token_loss
        self.student_prompt, self.teacher_prompt = student_prompt, teacher_prompt

    def run(self, rollouts: Sequence[Rollout]) -> float:
        self.model.zero_grad()
        losses: list[Tensor] = []
        for rollout in rollouts:
            student_TV = full_logits(self.model, self.student_prompt(rollout.problem), rollout)
            with torch.no_grad():
                teacher_TV = full_logits(self.teacher, self.teacher_prompt(rollout.problem), rollout)
            for student_V, teacher_V, token in zip(student_TV, teacher_TV, rollout.completion.token_ids, strict=True):
                losses.append(self.token_loss(student_V, teacher_V, token))
        loss = torch.stack(losses).mean()
        loss.backward()
        return loss.item()


def opsd_token(config: OPSDConfig, temperature: float) -> Callable[[Tensor, Tensor, int], Tensor]:
    """beta KL(T || m) + (1 - beta) KL(S || m) with m = beta T + (1 - beta) S; beta 0 is KL(T || S), 1 is KL(S || T)."""
    beta = config.beta

    def token_loss(student_V: Tensor, teacher_V: Tensor, token: int) -> Tensor:
        if config.loss == "sampled":
            return _policy_gradient(student_V / temperature, teacher_V / temperature, token)
        kept = teacher_V.argsort(descending=True)[: config.top_k or len(teacher_V)]
        S, T = (torch.softmax(side[kept] / temperature, dim=0) for side in (student_V, teacher_V))
        if beta == 0:
            terms = T * torch.log(T / S)
        elif beta == 1:
            terms = S * torch.log(S / T)
        else:
            m = beta * T + (1 - beta) * S
            terms = beta * T * torch.log(T / m) + (1 - beta) * S * torch.log(S / m)
        if config.clip is not None:
            terms = torch.minimum(terms, torch.tensor(config.clip, dtype=terms.dtype))
        return terms.sum()

    return token_loss


def opd_token(config: OPDConfig) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A_v = w_v (log q_v - log p_v), loss = - sum over v in S of stopgrad(A_v) log p_v; KL(p || q) on all tokens."""

    def token_loss(student_V: Tensor, teacher_V: Tensor, token: int) -> Tensor:
        student_V, teacher_V = student_V / config.temperature, teacher_V / config.temperature
        if config.loss == "sampled":
            return _policy_gradient(student_V, teacher_V, token)
        p, q = torch.softmax(student_V, dim=0), torch.softmax(teacher_V, dim=0)
        if config.loss == "full":
            return (p * torch.log(p / q)).sum()
        of_p, of_q = (set(side.argsort(descending=True)[: config.k].tolist()) for side in (p, q))
        chosen = {
            "student": of_p,
            "teacher": of_q,
            "intersection": of_p & of_q,
            "union": of_p | of_q,
            "union-intersection": of_p ^ of_q,
        }[config.strategy]
        weigher = {"student_p": p, "teacher_p": q, "none": torch.ones_like(p)}[config.weighting].detach()
        whole = config.strategy == "union-intersection" or config.weighting == "none"
        mass = 1.0 if whole else sum(weigher[v].item() for v in chosen)
        loss = 0.0 * student_V.sum()
        for v in chosen:
            advantage = weigher[v] / mass * (math.log(q[v].item()) - math.log(p[v].item()))
            loss = loss - advantage * torch.log(p[v])
        return loss

    return token_loss


def _policy_gradient(student_V: Tensor, teacher_V: Tensor, token: int) -> Tensor:
    logp, logq = (side.log_softmax(dim=0)[token] for side in (student_V, teacher_V))
    return -(logq.item() - logp.item()) * logp
