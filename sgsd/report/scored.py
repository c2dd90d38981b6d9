"""What teachers say of each token of a recorded rollout, scored again by the run's own method.

Teachers are those that the ledger names, in the words they had. Weights are the newest that the run kept from before
the rollout's step; where they are the very ones that judged it, the numbers are those of training, and the ledger's
own stand beside them. Nothing is computed here that `sgsd.methods` does not compute: this file puts a rollout before
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

import skillbank.records
from sgsd.config import ModelConfig
from sgsd.errors import ConfigError, DataInvalid
from sgsd.generate.transformers import stop_token_ids
from sgsd.methods import GatedObjective, Method, Window, opd_method, opsd_method
from sgsd.methods.distribution import DistributionObjective
from sgsd.methods.served import ServedObjective
from sgsd.models import load_student, mixed_precision
from sgsd.objectives.gated import GatedDiagnostics
from sgsd.prompts import NEUTRAL, Guidance, mistake_text, plain_user_text, render, skill_text
from sgsd.records import Completion, Problem, Rollout, TeacherPrompt, Verdict
from sgsd.report.chosen import Chosen
from sgsd.report.folder import RunFolder
from sgsd.score import completion_mask, score
from sgsd.teachers import Example, guided_prompt
from sgsd.weights import TeacherWeights
from skillbank.look.judged import Judgement, Opinion, PastTeacher, judgements
from skillbank.store import Bank


@dataclass(frozen=True)
class TeacherSaid:
    """One teacher over the tokens of a completion."""

    name: str
    reads: str
    """The guidance in its prompt."""
    weight: float
    delta_T: tuple[float, ...]
    """log p_teacher - log p_student of each token, nats; of the local support in that variant. 0 where none counts."""
    gate_T: tuple[float, ...] | None
    """|dl / d disagreement|: how much the token teaches at full weight. None where there is no gate."""
    loss_T: tuple[float, ...] | None
    """The method's own loss of each token, nats; None where teachers are judged instead."""
    opinion: Opinion | None
    """Support, polarity and gate mass at these weights; None where teachers are not judged."""
    in_training: Opinion | None
    """The same as the ledger has it."""


@dataclass(frozen=True)
class Scored:
    """A rollout with all that its teachers say of it."""

    rollout: skillbank.records.Rollout
    step: int
    why: str
    weights: str
    """Which weights student and teachers had here."""
    weights_step: int
    """Optimiser steps behind them; `step` - 1 are those that judged the rollout in training."""
    exact_tokens: bool
    """False where the run kept no token ids and the text was cut into tokens anew."""
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    counted_T: tuple[bool, ...]
    """Which tokens count, as the method masks them."""
    teachers: tuple[TeacherSaid, ...]
    placebo: TeacherSaid | None
    pull_T: tuple[float, ...] | None
    """Sum over teachers of weight * polarity * sign(delta) * gate: above 0 the step makes the token likelier. None
    where teachers are not judged, and with a local support, whose gate is of whole distributions."""


Found = Callable[[str], Problem | None]
"""A problem of the run's data by its id, where more of it is wanted than its text and answer."""


def scored(run: RunFolder, chosen: Sequence[Chosen], bank: Bank | None, problems: Found) -> list[Scored]:
    """Each of the rollouts, in their order. Models are loaded once for each set of weights.

    Raises ConfigError for a method without a teacher that scores, for rollouts whose prompt was not recorded, and where
    nobody judged one; DataInvalid where a reference solution cannot be found again.
    """
    method = run.config.method
    if method not in ("sgsd", "opsd", "opd"):
        raise ConfigError(f"{run.path} was trained by {method}, where no teacher scores tokens: give sgsd, opsd or opd")
    if any(one.rollout.guided for one in chosen):
        raise ConfigError(f"{run.path} has skills in its rollout prompts (skills_in_prompt), which are not recorded")
    by_weights: dict[int, list[Chosen]] = {}
    for one in chosen:
        by_weights.setdefault(run.weights_before(one.step)[0], []).append(one)
    done: dict[str, Scored] = {}
    for some in by_weights.values():
        desk = _Desk(run, some[0].step, bank, problems)
        try:
            done |= {one.rollout.rollout_id: desk.score(one) for one in some}
        finally:
            desk.close()
    return [done[one.rollout.rollout_id] for one in chosen]


class _Desk:
    """The run's student, teachers and objective at one set of weights."""

    def __init__(self, run: RunFolder, step: int, bank: Bank | None, problems: Found) -> None:
        self.run, self.config, self.bank, self.problems = run, run.config, bank, problems
        self.weights_step, checkpoint = run.weights_before(step)
        set_seed(self.config.seed)  # a new adapter's weights are drawn, as the run's were
        self.model, self.tokenizer = load_student(self.config.model, training=True)
        self.teacher_weights = TeacherWeights(self.config.teacher, self.model)  # `base` copies the initial ones
        self.name = f"{self.config.model.name_or_path}, as it was before training"
        if checkpoint is not None:
            _restore(self.model, checkpoint, self.config.model)
            self.teacher_weights.load(checkpoint)
            self.name = checkpoint.name
        self.model.eval()
        self.method: Method | None = None
        if self.config.method != "sgsd":
            make = opsd_method if self.config.method == "opsd" else opd_method
            self.method = make(self.config, self.tokenizer)

    def score(self, one: Chosen) -> Scored:
        rollout, exact_tokens = self._rollout(one.rollout)
        judged = self._judged(rollout, one) if self.method is None else self._compared(rollout, self.method)
        teachers, placebo, pull_T = judged
        ids = rollout.completion.token_ids
        return Scored(
            rollout=one.rollout,
            step=one.step,
            why=one.why,
            weights=self.name,
            weights_step=self.weights_step,
            exact_tokens=exact_tokens,
            token_ids=ids,
            tokens=tuple(self.tokenizer.batch_decode([[i] for i in ids])),
            counted_T=self._counted(ids),
            teachers=teachers,
            placebo=placebo,
            pull_T=pull_T,
        )

    def close(self) -> None:
        """Give back what a teacher elsewhere holds."""
        if self.method is not None:
            self.method.close()

    def _rollout(self, past: skillbank.records.Rollout) -> tuple[Rollout, bool]:
        """The rollout as the trainer had it, and whether its tokens are those that were drawn."""
        ids = past.token_ids
        if ids is None:
            told = self.tokenizer(past.completion, add_special_tokens=False)["input_ids"]
            cut = len(told) >= self.config.rollout.max_new_tokens
            ids = (*told, *([] if cut else stop_token_ids(self.model, self.tokenizer)[:1]))
        if not ids:
            raise DataInvalid(f"rollout {past.rollout_id} has no tokens: there is nothing to explain")
        problem = Problem(past.problem_id, past.problem, past.reference or "", past.source, past.split)
        prompt = render(self.tokenizer, plain_user_text(past.problem), thinking=self.config.rollout.thinking)
        verdict = Verdict(past.outcome, past.answer)
        return Rollout(problem, tuple(prompt), Completion(tuple(ids), past.completion, False), verdict), (
            past.token_ids is not None
        )

    def _counted(self, ids: Sequence[int]) -> tuple[bool, ...]:
        """SGSD leaves some tokens out; the others compare whole distributions at every token."""
        if self.method is not None:
            return (True,) * len(ids)
        return tuple(completion_mask(ids, self.tokenizer).tolist())

    @contextmanager
    def _scoring(self) -> Iterator[None]:
        """As in training: without gradient, under mixed precision where the run had it."""
        dtype = getattr(torch, self.config.model.dtype)
        half = mixed_precision(self.config.model)
        with torch.no_grad(), torch.autocast(self.model.device.type, dtype=dtype if half else None, enabled=half):
            yield

    # SGSD: teachers that are judged

    def _judged(self, rollout: Rollout, one: Chosen) -> _Said:
        judgement = self._judgement(one)
        prompts = [
            TeacherPrompt(self._guided(rollout, Guidance(past.skill, past.mistake)), past.weight)
            for past in judgement.teachers
        ]
        neutral = TeacherPrompt(self._guided(rollout, NEUTRAL), 0.0) if judgement.placebo else None
        # Whom a screen left out has no row in the ledger: those there are, are asked.
        asked = self.config.teacher.model_copy(update={"min_usefulness": None, "screen_tokens": None})
        objective = GatedObjective(self.config.objective, self.tokenizer, asked, self.bank)
        example = Example(rollout, tuple(prompts), neutral)
        with self._scoring():
            with self.teacher_weights.active():
                read = objective.score_teachers(self.model, [example])
            result = objective.loss(self.model, read, Window(1, len(example)))
        assert result.diagnostics is not None
        teachers = tuple(
            _said(result.diagnostics, k, _name(past), _lesson(past), past.weight, past.opinion)
            for k, past in enumerate(judgement.teachers)
        )
        placebo = None
        if result.placebo is not None and judgement.placebo is not None:
            words = f"{skill_text(NEUTRAL.skill)}\n{mistake_text(NEUTRAL.mistake)}"  # type: ignore[arg-type]
            placebo = _said(result.placebo, 0, "placebo", words, 0.0, judgement.placebo)
        return teachers, placebo, None if objective.top_k else _pull(teachers, objective.settings.polarity == "off")

    def _judgement(self, one: Chosen) -> Judgement:
        assert self.bank is not None
        found = judgements(self.bank, self.run.ledger_name, one.step, one.rollout.problem_id)
        if one.rollout.outcome == "unverifiable" or one.number >= len(found):
            why = "it is unverifiable" if one.rollout.outcome == "unverifiable" else "it had no teachers"
            raise ConfigError(
                f"nobody judged rollout {one.rollout.rollout_id}: {why}, or the ledger of {self.bank.path} lacks run "
                f"{self.run.ledger_name}; name another one"
            )
        return found[one.number]

    def _guided(self, rollout: Rollout, guidance: Guidance) -> tuple[int, ...]:
        return guided_prompt(self.tokenizer, rollout.problem, guidance, thinking=self.config.teacher.thinking)

    # OPSD and OPD: a distribution that is followed

    def _compared(self, rollout: Rollout, method: Method) -> _Said:
        problem = rollout.problem
        if self.config.method == "opsd":
            known = self.problems(problem.problem_id)
            if known is None:
                raise DataInvalid(
                    f"problem {problem.problem_id} is not in {self.config.data.source}, where its reference stood: "
                    "put the data back in its place"
                )
            problem = known
        (prompts,) = method.pool([problem]).teachers
        if not prompts:
            raise ConfigError(f"the teacher's prompt of problem {problem.problem_id} was too long: it taught nothing")
        objective = method.objective
        assert isinstance(objective, DistributionObjective | ServedObjective)
        example = Example(rollout, tuple(prompts))
        ours, theirs = example.row(rollout.prompt_ids), example.row(prompts[0].prompt_ids)
        with self._scoring():
            with self.teacher_weights.active():
                read = objective.score_teachers(self.model, [example])
                if isinstance(objective, ServedObjective):
                    theirs_T = objective.teacher.read([theirs])[0].logp_T
                else:
                    theirs_T = score(objective.teacher_network or self.model, [theirs])[0]
            ours_T = score(self.model, [ours])[0]
            loss_T = objective.token_losses(self.model, [ours], read)[0]
        said = TeacherSaid(
            name=self.config.opd.teacher or "the student itself, shown the reference",
            reads="".join(self.tokenizer.batch_decode([list(prompts[0].prompt_ids)])),
            weight=1.0,
            delta_T=tuple((theirs_T.to(ours_T) - ours_T).tolist()),
            gate_T=None,
            loss_T=tuple(loss_T.tolist()),
            opinion=None,
            in_training=None,
        )
        return (said,), None, None


_Said = tuple[tuple[TeacherSaid, ...], TeacherSaid | None, tuple[float, ...] | None]
"""Teachers, placebo, and the pull of all teachers together."""


def _said(
    seen: GatedDiagnostics, k: int, name: str, reads: str, weight: float, in_training: Opinion | None
) -> TeacherSaid:
    now = Opinion(
        support=float(seen.support_BK[0, k]),
        polarity=round(float(seen.polarity_BK[0, k])),
        gate_mass=float(seen.gate_mass_BK[0, k]),
    )
    delta_T, gate_T = (tuple(values[0, k].tolist()) for values in (seen.delta_BKT, seen.gate_BKT))
    return TeacherSaid(name, reads, weight, delta_T, gate_T, None, now, in_training)


def _pull(teachers: Sequence[TeacherSaid], polarity_off: bool) -> tuple[float, ...]:
    """docs/method.md, step 7: minus the loss's gradient in the student's log-prob, times the tokens that count."""
    total = [0.0] * len(teachers[0].delta_T)
    for teacher in teachers:
        assert teacher.gate_T is not None
        assert teacher.opinion is not None
        rho = 1 if polarity_off else teacher.opinion.polarity
        for t, (delta, gate) in enumerate(zip(teacher.delta_T, teacher.gate_T, strict=True)):
            total[t] += teacher.weight * rho * ((delta > 0) - (delta < 0)) * gate
    return tuple(total)


def _name(past: PastTeacher) -> str:
    ids = f"pair {past.pair_id}" if past.pair_id else f"skill {past.skill_id} with mistake {past.mistake_id}"
    return f"{ids}: {past.skill.title}"


def _lesson(past: PastTeacher) -> str:
    return f"{skill_text(past.skill)}\n{mistake_text(past.mistake)}"


def _restore(model: Any, checkpoint: Path, config: ModelConfig) -> None:
    """A checkpoint's trained weights into a model that was loaded as the run's was."""
    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(checkpoint), device=str(model.device)))
        return
    saved, _ = load_student(
        config.model_copy(update={"name_or_path": str(checkpoint), "revision": None}), training=True
    )
    model.load_state_dict(saved.state_dict())
