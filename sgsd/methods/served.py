"""OPD with a teacher that is too large to be here: its log-probs come from a server, never its distributions.

docs/systems.md. `sampled` needs the teacher's log-prob of the student's tokens, `top_k` on the teacher's likeliest
tokens theirs; on both sides these are full-vocabulary log-probs at temperature 1. What else OPD can do asks for
probabilities that a server does not tell, and its configuration is refused (`sgsd.config`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from sgsd.config import OPDConfig
from sgsd.errors import ConfigError
from sgsd.methods.base import MethodResult, Window
from sgsd.methods.mean import COUNTED, mean_metrics, mean_over_tokens
from sgsd.objectives.divergence import sampled_loss
from sgsd.objectives.topk import topk_loss
from sgsd.prompt_logprobs import ServedTeacher
from sgsd.score import ScoreRow, head_width, score, score_tokens
from sgsd.teachers import Example, TeacherScores

PROBE = "Let $f(x) = \\frac{x^2 - 3}{10}$.\n\nWhat is f(17), to 4 digits? “Ça dépend” 你好 def f(x):\n\treturn x**2\n"
"""Digits, symbols, indentation and scripts, which tokenizers cut most unlike."""


class ServedObjective:
    """Reverse KL on the sampled token or on the teacher's likeliest, from what a server tells."""

    counted = COUNTED
    teacher_network = None

    def __init__(self, config: OPDConfig, teacher: ServedTeacher) -> None:
        self.config = config
        self.teacher = teacher

    def score_teachers(self, model: nn.Module, examples: Sequence[Example]) -> list[Example]:
        """Ask the server about the first teacher of each example. Raises ServerError."""
        rows = [example.row(example.teachers[0].prompt_ids) for example in examples if example.teachers]
        told = self.teacher.read(rows)
        width = head_width(model)
        for one in told:
            if one.ids_TK.numel() and int(one.ids_TK.max()) >= width:
                raise ConfigError(
                    f"the served teacher holds token {int(one.ids_TK.max())} likely, the student's vocabulary ends at "
                    f"{width - 1}: take a teacher of the student's family"
                )
        scores = iter(
            TeacherScores(logp_KT=one.logp_T[None])
            if self.config.loss == "sampled"
            else TeacherScores(support_ids_KTS=one.ids_TK[None], support_logits_KTS=one.logp_TK[None])
            for one in told
        )
        return [replace(example, scores=next(scores)) if example.teachers else example for example in examples]

    def loss(self, model: nn.Module, batch: Sequence[Example], window: Window) -> MethodResult:
        """The part of a micro-batch in the mean over the window's completion tokens."""
        return mean_over_tokens(model, batch, window, self.token_losses)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return mean_metrics(sums)

    def token_losses(self, model: nn.Module, rows: Sequence[ScoreRow], examples: Sequence[Example]) -> Tensor:
        """[B, T] of examples that a teacher has read, 0 beyond a completion; gradient in the student."""
        read = self._sampled if self.config.loss == "sampled" else self._top_k
        return read(model, rows, examples)

    def _sampled(self, model: nn.Module, rows: Sequence[ScoreRow], examples: Sequence[Example]) -> Tensor:
        student_BT = score(model, rows, grad=True)
        teacher_BT = _stacked([example.scores.logp_KT for example in examples]).to(student_BT)
        return sampled_loss(student_BT, teacher_BT)

    def _top_k(self, model: nn.Module, rows: Sequence[ScoreRow], examples: Sequence[Example]) -> Tensor:
        ids_BTS = _stacked([example.scores.support_ids_KTS for example in examples])
        student_BTS = score_tokens(model, rows, ids_BTS, grad=True)
        teacher_BTS = _stacked([example.scores.support_logits_KTS for example in examples]).to(student_BTS)
        everywhere_BTS = torch.ones_like(student_BTS, dtype=torch.bool)
        return topk_loss(student_BTS, teacher_BTS, everywhere_BTS, self.config.weighting)


def served_objective(config: OPDConfig, tokenizer: PreTrainedTokenizerBase) -> ServedObjective:
    """Raises ServerError where a server cannot be reached, ConfigError where it has another tokenizer."""
    teacher = ServedTeacher(config.server, 0 if config.loss == "sampled" else config.k)
    try:
        teacher.check_tokenizer(tokenizer, PROBE)
    except BaseException:
        teacher.close()
        raise
    return ServedObjective(config, teacher)


def _stacked(of_teacher: Sequence[Tensor | None]) -> Tensor:
    """The one teacher's [1, T, ...] of each example as [B, T, ...], zeros beyond a completion."""
    return pad_sequence([one[0] for one in of_teacher if one is not None], batch_first=True)
