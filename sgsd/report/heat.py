"""Tokens as a page shows them: a tint and an underline for each, and its numbers in words.

The tint's colour and the kind of the underline say the sign (so that one of them does without colour), its depth the
size of |delta|, the weight of the underline how much the gate lets the token teach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sgsd.report.scored import Scored, TeacherSaid

LEVELS = (0.05, 0.3, 1.0, 3.0)
"""Bounds of the four depths of a tint, in nats. Below the first a token is left plain: as good as agreement."""
GATES = (0.1, 0.25)
"""Bounds of the three weights of an underline. The bounded gate is at most 0.393 / sqrt(tau)."""
CONTROLS = {i: chr(0x2400 + i) for i in range(32) if chr(i) not in "\n\r\t"} | {0x7F: "␡"}


class Cell(NamedTuple):
    """A token of a text."""

    text: str
    """Line ends and control characters made visible."""
    look: str
    """Classes of the style sheet."""
    title: str


@dataclass(frozen=True)
class Row:
    """A token of the table of numbers."""

    number: int
    text: str
    counted: bool
    pull: str
    values: tuple[str, ...]
    """Two a teacher: delta, and gate or loss."""


def of_teacher(scored: Scored, teacher: TeacherSaid) -> list[Cell]:
    """The completion as a teacher sees it."""
    second = teacher.gate_T or teacher.loss_T or ()
    word = "gate" if teacher.gate_T else "loss"
    cells = []
    for t, (token, counted, delta) in enumerate(zip(scored.tokens, scored.counted_T, teacher.delta_T, strict=True)):
        gate = teacher.gate_T[t] if teacher.gate_T else None
        said = f"{signed(delta)} nats, {word} {second[t]:.3f}" if counted else "does not count"
        cells.append(Cell(visible(token), _look(delta, gate, counted), f"token {t + 1}: {said}"))
    return cells


def of_all(scored: Scored, pull_T: Sequence[float]) -> list[Cell]:
    """The completion as all teachers together pull at it: a gate's worth is a full one."""
    strongest = max((abs(pull) for pull in pull_T), default=0.0) or 1.0
    return [
        Cell(visible(token), _look(3 * pull / strongest, None, counted), f"token {t + 1}: {signed(pull, 3)}")
        for t, (token, counted, pull) in enumerate(zip(scored.tokens, scored.counted_T, pull_T, strict=True))
    ]


def table(scored: Scored) -> list[Row]:
    """All numbers, a token a row."""
    asked = (*scored.teachers, *([scored.placebo] if scored.placebo else []))
    rows = []
    for t, (token, counted) in enumerate(zip(scored.tokens, scored.counted_T, strict=True)):
        values = []
        for teacher in asked:
            second = (teacher.gate_T or teacher.loss_T or ())[t]
            values += [signed(teacher.delta_T[t]), f"{second:.3f}"] if counted else ["", ""]
        pull = signed(scored.pull_T[t], 3) if scored.pull_T is not None and counted else ""
        rows.append(Row(t + 1, visible(token).replace("\n", "") or "␣", counted, pull, tuple(values)))
    return rows


def visible(text: str) -> str:
    """A token's text with what cannot be seen made visible. What would turn the line round stays within its token, by
    the style sheet."""
    return text.translate(CONTROLS).replace("\r", "␍").replace("\n", "↵\n").replace("\t", "⇥\t")


def signed(number: float, digits: int = 2) -> str:
    """With its sign, a real minus; no sign for what rounds to nothing."""
    text = f"{number:+.{digits}f}".replace("-", "−")
    return text[1:] if not float(f"{number:.{digits}f}") else text


def _look(delta: float, gate: float | None, counted: bool) -> str:
    if not counted:
        return "off"
    level = sum(abs(delta) >= bound for bound in LEVELS)
    if not level:
        return ""
    weight = 0 if gate is None else sum(gate >= bound for bound in GATES)
    return f"{'up' if delta > 0 else 'down'} d{level} g{weight}"
