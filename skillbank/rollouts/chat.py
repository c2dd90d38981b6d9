"""Prompts and completions as trainers log them: a text, a text with its chat template applied, or a list of messages.

The problem is what the user said last. Whatever instruction a dataset put around a problem stays: only `sgsd/data.py`
knows datasets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from skillbank.rollouts.rejects import Unusable

# A turn of the user in a prompt whose template was applied: as ChatML, as Llama 3, and with special tokens left out.
_TURNS = (
    re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL),
    re.compile(r"<\|start_header_id\|>user<\|end_header_id\|>\s*(.*?)<\|eot_id\|>", re.DOTALL),
)
_HEADER_TAIL = re.compile(r"\s*(?:<think>\s*(?:</think>\s*)?)?")

OWN_GUIDANCE = "Lessons from earlier attempts at other problems."
"""The first words of a guided prompt of this project (a test holds them against `sgsd/prompts.py`)."""
OWN_PROBLEM = "\n\nProblem: "
"""What stands between the lessons and the problem in it."""

_SHOWS_SKILLS = (
    OWN_GUIDANCE,
    "as soft guidance. Solve the current problem independently",  # SGSD
    "## Retrieved Relevant Experience",  # SkillRL
    "memory items that I accumulated from past interaction",  # ReasoningBank
)
_LESSON = re.compile(r"^(?:When to apply|How to avoid it): ", re.MULTILINE)
_ENTRY = re.compile(r"^(?:Skill|Mistake): ", re.MULTILINE)


def problem_of(prompt: object) -> str:
    """The problem that a prompt poses. Raises Unusable when there is none."""
    if isinstance(prompt, str):
        problem = _last_turn(prompt)
    else:
        said = [text for role, text in _messages(prompt, "prompt") if role == "user"]
        if not said:
            raise Unusable("no problem", "no message of the prompt is the user's")
        problem = said[-1]
    if OWN_GUIDANCE in problem:
        problem = problem.rpartition(OWN_PROBLEM)[2]
    if not problem.strip():
        raise Unusable("no problem", "the prompt is empty")
    return problem


def completion_of(completion: object) -> str:
    """The text of a completion; of several messages (the tools' among them), all that they say."""
    if isinstance(completion, str):
        return completion
    return "\n\n".join(text for _, text in _messages(completion, "completion") if text)


def shows_skills(prompt: object) -> bool:
    """Whether a prompt carried skills or mistakes as guidance, in the wording of this project or of a known one."""
    texts = [prompt] if isinstance(prompt, str) else [text for _, text in _messages(prompt, "prompt")]
    return any(_is_guided(text) for text in texts)


def _is_guided(text: str) -> bool:
    if any(words in text for words in _SHOWS_SKILLS):
        return True
    return _ENTRY.search(text) is not None and _LESSON.search(text) is not None


def _last_turn(prompt: str) -> str:
    for turn in _TURNS:
        turns = turn.findall(prompt)
        if turns:
            return str(turns[-1])
    return _last_bare_turn(prompt)


def _last_bare_turn(prompt: str) -> str:
    """Of a template decoded without its special tokens: `user`, the turn, and the header `assistant` at the end."""
    body, header, tail = prompt.rpartition("\nassistant")
    if not header or not _HEADER_TAIL.fullmatch(tail):
        return prompt
    _, user, turn = body.rpartition("\nuser\n")
    if user:
        return turn
    return body.removeprefix("user\n") if body.startswith("user\n") else prompt


def _messages(value: object, what: str) -> Iterator[tuple[str, str]]:
    """(role, text) of a chat. Content is a text, or a list of parts of which the texts count."""
    if not isinstance(value, list):
        raise Unusable("not a chat", f"{what}: a text or a list of messages is wanted, not {type(value).__name__}")
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise Unusable("not a chat", f"{what}: a message is a record with role and content")
        content = message.get("content")
        if isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, Mapping)]
            content = "\n".join(part for part in parts if isinstance(part, str))
        yield message["role"], content if isinstance(content, str) else ""
