"""OPSD and OPD: one teacher a problem, and its whole distribution against the student's at every token.

docs/systems.md. OPSD's teacher is the network itself with the reference solution in its prompt, OPD's is another model
of the same tokenizer with the plain prompt. Both are read over the student's own rollout; the verdict plays no part.

The teacher's pass keeps hidden states, [T, H], and the head that belongs to them; distributions come into being chunk
by chunk in the student's pass (`sgsd.paired`), so that no [T, V] of either side exists. The loss is the mean over all
completion tokens of the optimiser step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sgsd.config import ModelConfig, OPDConfig, OPSDConfig, RunConfig
from sgsd.distributions import TokenRead, score_against, teacher_sides
from sgsd.errors import ConfigError
from sgsd.methods.base import Method, MethodResult, Window
from sgsd.methods.mean import COUNTED, mean_metrics, mean_over_tokens
from sgsd.methods.served import served_objective
from sgsd.models import load_student, locate_model, tokenizer_of
from sgsd.objectives.divergence import DivergenceSettings, divergence, sampled_loss
from sgsd.objectives.topk import choose, topk_loss
from sgsd.score import ScoreRow, check_scoring
from sgsd.shards import sharded
from sgsd.teachers import Example, PlainPool, ReferencePool, TeacherScores


class DistributionObjective:
    """`token_loss` of both distributions, averaged over tokens. `teacher` None: the student under another prompt."""

    counted = COUNTED

    def __init__(self, token_loss: TokenRead, *, token_budget: int | None, teacher: nn.Module | None = None) -> None:
        self.token_loss = token_loss
        self.token_budget = token_budget
        self.teacher_network = teacher

    def score_teachers(self, model: nn.Module, examples: Sequence[Example]) -> list[Example]:
        """One pass over the first teacher of each example. No gradient."""
        rows = [example.row(example.teachers[0].prompt_ids) for example in examples if example.teachers]
        if not rows:
            return list(examples)
        teacher = self.teacher_network or model
        if sharded(teacher):
            raise ConfigError(
                "opsd compares whole distributions under a head that a sharded student takes apart after each pass: "
                "use configs/accelerate/ddp.yaml or zero2.yaml"
            )
        sides = iter(teacher_sides(teacher, rows, token_budget=self.token_budget))
        return [replace(e, scores=TeacherScores(side=next(sides))) if e.teachers else e for e in examples]

    def loss(self, model: nn.Module, batch: Sequence[Example], window: Window) -> MethodResult:
        """The part of a micro-batch in the mean over the window's completion tokens."""
        return mean_over_tokens(model, batch, window, self.token_losses)

    def token_losses(self, model: nn.Module, rows: Sequence[ScoreRow], examples: Sequence[Example]) -> Tensor:
        """[B, T] of examples that a teacher has read, 0 beyond a completion; gradient in the student."""
        sides = [example.scores.side for example in examples if example.scores.side is not None]
        return score_against(model, rows, sides, self.token_loss)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return mean_metrics(sums)


def opsd_method(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Method:
    """A teacher that is shown the reference, and a divergence from it."""
    pool = ReferencePool(
        tokenizer,
        privilege=config.opsd.privilege,
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        thinking=config.teacher.thinking,
    )
    token_loss = opsd_token_loss(config.opsd, config.rollout.temperature)
    return Method("opsd", pool, DistributionObjective(token_loss, token_budget=config.teacher.token_budget))


def opd_method(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Method:
    """Another model as teacher, here or behind a server. ConfigError when there is none, or it has another tokenizer;
    ModelNotFound; ServerError."""
    name = config.opd.teacher
    if name is None:
        raise ConfigError("opd.teacher is not set: name the model that teaches, a folder or a hub name")
    pool = PlainPool(tokenizer, thinking=config.teacher.thinking)
    if config.opd.server.urls:
        check_same_tokenizer(tokenizer, tokenizer_of(*locate_model(name)), name)
        served = served_objective(config.opd, tokenizer)
        return Method("opd", pool, served, close=served.teacher.close)
    teacher, its_tokenizer = load_student(ModelConfig(name_or_path=name, dtype=config.opd.dtype))
    check_same_tokenizer(tokenizer, its_tokenizer, name)
    check_scoring(teacher)
    objective = DistributionObjective(
        opd_token_loss(config.opd), token_budget=config.teacher.token_budget, teacher=teacher.requires_grad_(False)
    )
    return Method("opd", pool, objective)


def check_same_tokenizer(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, name: str) -> None:
    """ConfigError that names the first token on which both differ: a teacher reads the student's token ids."""
    ours, theirs = ({i: token for token, i in side.get_vocab().items()} for side in (student, teacher))
    for i in range(max(len(ours), len(theirs))):
        if ours.get(i) != theirs.get(i):
            raise ConfigError(
                f"opd.teacher {name} has another tokenizer: its token {i} is {theirs.get(i)!r}, the student's "
                f"{ours.get(i)!r}; take a teacher of the student's family"
            )


def opsd_token_loss(config: OPSDConfig, sampling_temperature: float) -> TokenRead:
    """The divergence, or the policy gradient on the sampled token."""
    temperature = sampling_temperature if config.temperature is None else config.temperature
    if config.loss == "sampled":
        return _sampled(temperature)
    settings = DivergenceSettings(config.beta, config.clip, config.top_k, temperature)
    return lambda student_cV, teacher_cV, _: divergence(student_cV, teacher_cV, settings)


def opd_token_loss(config: OPDConfig) -> TokenRead:
    """Reverse KL on the sampled token, on the whole vocabulary or on a few tokens."""
    if config.loss == "sampled":
        return _sampled(config.temperature)
    if config.loss == "full":
        settings = DivergenceSettings(beta=1.0, clip=None, temperature=config.temperature)
        return lambda student_cV, teacher_cV, _: divergence(student_cV, teacher_cV, settings)

    def token_loss(student_cV: Tensor, teacher_cV: Tensor, _: Tensor) -> Tensor:
        p_cV = (student_cV / config.temperature).log_softmax(dim=-1)
        q_cV = (teacher_cV / config.temperature).log_softmax(dim=-1)
        ids_cS, counts_cS = choose(p_cV, q_cV, min(config.k, p_cV.shape[1]), config.strategy)
        p_cS, q_cS = p_cV.gather(1, ids_cS), q_cV.gather(1, ids_cS)
        normalise = config.strategy != "union-intersection"
        return topk_loss(p_cS, q_cS, counts_cS, config.weighting, normalise=normalise)

    return token_loss


def _sampled(temperature: float) -> TokenRead:
    def token_loss(student_cV: Tensor, teacher_cV: Tensor, sampled_c: Tensor) -> Tensor:
        sides = [(side / temperature).log_softmax(dim=-1) for side in (student_cV, teacher_cV)]
        student_c, teacher_c = (side.gather(1, sampled_c[:, None])[:, 0] for side in sides)
        return sampled_loss(student_c, teacher_c)

    return token_loss
