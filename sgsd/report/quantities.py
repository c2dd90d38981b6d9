"""The quantities that a run's log may hold, under the words in which a report speaks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Log = Mapping[str, Any]
"""A line of `metrics.jsonl`."""
Unit = Literal["share", "nats", "tokens", "number"]


@dataclass(frozen=True)
class Quantity:
    """What a curve is made of. `of` reads it from the log of a step; None where the step has none."""

    section: str
    key: str
    title: str
    unit: Unit
    of: Callable[[Log], float | None]
    meaning: str


def _logged(*keys: str) -> Callable[[Log], float | None]:
    """The first of these that a log has: TRL's trainers have names of their own."""
    return lambda log: next((float(log[key]) for key in keys if log.get(key) is not None), None)


def _share_of_examples(key: str, *, rest: bool = False) -> Callable[[Log], float | None]:
    def of(log: Log) -> float | None:
        if not log.get("examples") or key not in log:
            return None
        share = float(log[key] / log["examples"])
        return 1 - share if rest else share

    return of


QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        "Learning", "reward", "Reward", "share", _logged("reward"), "Share of the step's rollouts that were right."
    ),
    Quantity(
        "Learning",
        "loss",
        "Loss",
        "number",
        _logged("loss"),
        "As optimised; losses of different methods do not compare.",
    ),
    Quantity(
        "Learning",
        "token_loss",
        "Divergence",
        "nats",
        _logged("token_loss"),
        "The method's loss of a token, mean over tokens.",
    ),
    Quantity("Learning", "grad_norm", "Gradient norm", "number", _logged("grad_norm"), "Before clipping."),
    Quantity(
        "Teachers",
        "helpful",
        "Helpful teachers",
        "share",
        _logged("helpful"),
        "Of judged teachers, those that supported a success or suppressed a failure.",
    ),
    Quantity(
        "Teachers",
        "harmful",
        "Harmful teachers",
        "share",
        _logged("harmful"),
        "Those that supported a failure or suppressed a success, and were reversed.",
    ),
    Quantity("Teachers", "neutral", "Neutral teachers", "share", _logged("neutral"), "Those with hardly an opinion."),
    Quantity(
        "Teachers",
        "gate_mass",
        "Gate mass",
        "number",
        _logged("gate_mass"),
        "How much a token teaches at full weight, mean over tokens and teachers; at most 0.393 at tau = 1.",
    ),
    Quantity(
        "Teachers", "support", "Support", "nats", _logged("support"), "Mean clipped delta of a token, over teachers."
    ),
    Quantity(
        "Teachers",
        "clipped",
        "Clipped tokens",
        "share",
        _logged("clipped"),
        "Of teachers' tokens, those with |delta| above the clip.",
    ),
    Quantity(
        "Retrieval",
        "hits",
        "Retrieval hit rate",
        "share",
        _share_of_examples("without_teachers", rest=True),
        "Of the rollouts, those that were given a teacher.",
    ),
    Quantity(
        "Retrieval",
        "teachers_skipped",
        "Teachers not asked",
        "number",
        lambda log: log.get("teachers_skipped") or None,
        "Left out by a screen, in steps where any was.",
    ),
    Quantity(
        "Agreement",
        "overlap",
        "Overlap of the likeliest tokens",
        "share",
        _logged("agreement/overlap"),
        "Of student's and teacher's k likeliest tokens.",
    ),
    Quantity(
        "Agreement",
        "student_mass",
        "Student's mass on the shared tokens",
        "share",
        _logged("agreement/student_mass"),
        "Probability.",
    ),
    Quantity(
        "Agreement",
        "teacher_mass",
        "Teacher's mass on the shared tokens",
        "share",
        _logged("agreement/teacher_mass"),
        "Probability.",
    ),
    Quantity(
        "Agreement",
        "overlap_advantage",
        "Overlap advantage",
        "nats",
        _logged("agreement/overlap_advantage"),
        "Tends to 0 as the student learns what the teacher knows.",
    ),
    Quantity(
        "Agreement",
        "entropy_gap",
        "Entropy gap",
        "nats",
        _logged("agreement/entropy_gap"),
        "|H(teacher) - H(student)| of a token.",
    ),
    Quantity("Rollouts", "entropy", "Entropy", "nats", _logged("entropy"), "Of the student's next-token distribution."),
    Quantity(
        "Rollouts",
        "completion_length",
        "Length of a completion",
        "tokens",
        _logged("completion_length", "completions/mean_length"),
        "Mean, end token included.",
    ),
    Quantity(
        "Rollouts",
        "truncated",
        "Cut off",
        "share",
        _logged("truncated", "completions/clipped_ratio"),
        "Of the rollouts, those that met the length limit.",
    ),
    Quantity(
        "Rollouts",
        "unverifiable",
        "Unverifiable",
        "share",
        _share_of_examples("unverifiable"),
        "Of the rollouts, those without a verdict.",
    ),
    Quantity(
        "Rollouts",
        "engine_gap_mean",
        "Gap of the drawing engine",
        "nats",
        _logged("engine_gap_mean"),
        "|log p by the engine - log p by the trainer| of drawn tokens.",
    ),
)
