"""Every prompt string of training and evaluation, once.

A *plain* prompt holds the problem and the instruction. A *guided* prompt puts skill-mistake pairs before the problem,
as soft guidance. Both are chat messages for the tokenizer's own template and end in the same assistant header, so that
the first completion token is scored in the same state by the student and by its teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
GUIDANCE = "Lessons from earlier attempts at other problems. Use them only where they fit this one."
REFERENCE = "A reference solution of the problem, for you alone. Solve the problem in your own words."


class Skillful(Protocol):
    """What a prompt shows of a skill."""

    @property
    def title(self) -> str: ...
    @property
    def principle(self) -> str: ...
    @property
    def when_to_apply(self) -> str: ...


class Mistaken(Protocol):
    """What a prompt shows of a mistake (its cause is for curators, not for the model)."""

    @property
    def description(self) -> str: ...
    @property
    def how_to_avoid(self) -> str: ...


class Guidance(NamedTuple):
    """One lesson: a skill, a mistake, or both."""

    skill: Skillful | None
    mistake: Mistaken | None


class _Neutral(NamedTuple):
    title: str = "Careful work"
    principle: str = "Read the problem closely and write down one step after the other"
    when_to_apply: str = "Any problem."
    description: str = "Haste"
    how_to_avoid: str = "Look over each step before the next"


NEUTRAL = Guidance(_Neutral(), _Neutral())
"""The placebo: a lesson of the same shape that says nothing about any problem (docs/method.md, support baseline)."""


def skill_text(skill: Skillful) -> str:
    when = f"\nWhen to apply: {skill.when_to_apply}" if skill.when_to_apply else ""
    return f"Skill: {skill.title}\n{skill.principle}{when}"


def mistake_text(mistake: Mistaken) -> str:
    how = f"\nHow to avoid it: {mistake.how_to_avoid}" if mistake.how_to_avoid else ""
    return f"Mistake: {mistake.description}{how}"


def plain_user_text(problem: str) -> str:
    return f"{problem}\n\n{INSTRUCTION}"


def guided_user_text(problem: str, guidance: Sequence[Guidance]) -> str:
    """Guidance first, then the very words of the plain prompt. Without guidance it *is* the plain prompt."""
    if not guidance:
        return plain_user_text(problem)
    lessons = []
    for skill, mistake in guidance:
        parts = [skill_text(skill)] if skill is not None else []
        parts += [mistake_text(mistake)] if mistake is not None else []
        lessons.append("\n".join(parts))
    return "\n\n".join([GUIDANCE, *lessons, f"Problem: {plain_user_text(problem)}"])


def reference_user_text(problem: str, reference: str) -> str:
    """A reference solution or answer first, then the very words of the plain prompt."""
    return "\n\n".join([REFERENCE, reference, f"Problem: {plain_user_text(problem)}"])


def render(tokenizer: PreTrainedTokenizerBase, user_text: str, *, thinking: bool = False) -> list[int]:
    """Token ids of one user turn and the assistant header.

    `thinking` is handed to templates that know it (Qwen3 and its kin); others ignore the variable.
    """
    ids: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": user_text}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
        enable_thinking=thinking,
    )
    return [int(i) for i in ids]
