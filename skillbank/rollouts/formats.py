"""What a record means: one function a format of past rollouts, and one line of the table `FORMATS`.

    native                  the fields of `skillbank.records.Rollout`
    gsm8k_model_solutions   question, ground_truth, and for each model a key with {is_correct, solution}
    trl_completions         TRL, `log_completions=True`: step, prompt, completion, a column a reward function, advantage
    verl_rollouts           verl, `trainer.rollout_data_dir`: input, output, gts, score, step, what the reward adds
    memories                SkillRL and SGSD: tags.outcome, content.task_meta.original_goal, a trajectory or raw attempt
    plain                   prompt, completion, reward

A problem's id is the hash of its text and a rollout's the hash of all that it says, where a format has none of its own:
the same file read twice gives the same ids, and the same attempt twice in a file is the same rollout.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from skillbank.records import Outcome, Rollout, problem_hash
from skillbank.rollouts.chat import completion_of, problem_of, shows_skills
from skillbank.rollouts.rejects import Unusable
from skillbank.rollouts.rewards import Verdict, deciding, outcome_of

Format = Literal["auto", "native", "gsm8k_model_solutions", "trl_completions", "verl_rollouts", "memories", "plain"]
NATIVE_FIELDS = "rollout_id, problem_id, problem, completion, outcome"

Fields = Mapping[str, Any]


class KnownFormat(NamedTuple):
    """How a format is known and read."""

    needs: tuple[str, ...]
    """A record with all of these is taken for one of this format."""
    read: Callable[[Fields, Verdict], list[Rollout]]
    """Raises Unusable."""


def detect(record: Fields) -> str:
    """The name of the first format of the table that the record fits. Raises Unusable."""
    for name, known in FORMATS.items():
        if all(field in record for field in known.needs):
            return name
    raise Unusable("unknown format", f"fields {', '.join(sorted(map(str, record))[:8])}")


def _native(record: Fields, _: Verdict) -> list[Rollout]:
    # A field that is null says nothing, so its default holds. In parquet, `sampling` may be JSON text.
    fields = {name: value for name, value in record.items() if value is not None}
    if isinstance(fields.get("sampling"), str):
        try:
            fields["sampling"] = json.loads(fields["sampling"])
        except (ValueError, RecursionError) as error:
            raise Unusable("not a rollout", f"sampling: {error}") from error
    return [_rollout(fields)]


_GSM8K_ANSWER = re.compile(r"^\s*(?:A:|####)\s*(.+?)\s*$", re.MULTILINE)


def _gsm8k_model_solutions(record: Fields, _: Verdict) -> list[Rollout]:
    question, truth = record.get("question"), record.get("ground_truth")
    if not isinstance(question, str) or not question.strip() or not isinstance(truth, str):
        raise Unusable("not GSM8K model solutions", "question and ground_truth must be texts")
    problem_id = problem_hash(question)
    rollouts = []
    for model, attempt in record.items():
        if not isinstance(attempt, dict):
            continue  # a field of the problem, not an attempt at it
        correct, solution = attempt.get("is_correct"), attempt.get("solution")
        if not isinstance(correct, bool) or not isinstance(solution, str):
            raise Unusable("not GSM8K model solutions", f"{model}: needs is_correct (bool) and solution (text)")
        rollouts.append(
            _rollout(
                {
                    "rollout_id": f"gsm8k-{problem_id}-{model}",
                    "problem_id": problem_id,
                    "problem": question,
                    "completion": solution,
                    "outcome": outcome_of(correct),
                    "answer": _last_answer(solution),
                    "reference": _last_answer(truth),
                    "model": model,
                    "source": "gsm8k_model_solutions",
                }
            )
        )
    if not rollouts:
        raise Unusable("not GSM8K model solutions", "no key holds {is_correct, solution}")
    return rollouts


def _last_answer(text: str) -> str | None:
    answers = _GSM8K_ANSWER.findall(text)
    return answers[-1] if answers else None


_TRL_OWN = {"step", "prompt", "completion", "advantage"}


def _trl_completions(record: Fields, verdict: Verdict) -> list[Rollout]:
    # Columns of numbers are rewards, a reward that was not given is null. Others were added by the reward functions:
    # the `solution` is what TRL's own accuracy reward holds an answer against.
    others = {name: value for name, value in record.items() if name not in _TRL_OWN}
    rewards = {name: value for name, value in others.items() if value is None or isinstance(value, int | float)}
    return [
        _attempt(
            "trl_completions",
            record.get("prompt"),
            record.get("completion"),
            outcome_of(deciding(rewards, verdict), verdict.threshold),
            reference=_text(record.get("solution")),
            sampling={"step": record.get("step"), "rewards": rewards},
        )
    ]


def _verl_rollouts(record: Fields, verdict: Verdict) -> list[Rollout]:
    # `score` may hold penalties of length beside the verdict; `acc` is the verdict alone where a reward gives it.
    field = verdict.reward or ("acc" if "acc" in record else "score")
    if field not in record:
        raise Unusable("no such reward", f"{field}; the fields are: {', '.join(sorted(record))}")
    return [
        _attempt(
            "verl_rollouts",
            record.get("input"),
            record.get("output"),
            outcome_of(record[field], verdict.threshold),
            answer=_text(record.get("pred")),
            reference=_text(record.get("gts")),
            sampling={"step": record.get("step"), "rewards": {field: record[field]}},
        )
    ]


def _memories(record: Fields, _: Verdict) -> list[Rollout]:
    content, tags = _record(record, "content"), _record(record, "tags")
    task, attempt = _record(content, "task_meta"), _record(content, "raw_attempt")
    said = tags.get("outcome")
    if not isinstance(said, str) or said.lower() not in ("success", "failure"):
        raise Unusable("not a memory", "tags.outcome must be Success or Failure")
    completion = attempt.get("completion")
    return [
        _attempt(
            "memories",
            task.get("original_goal"),
            completion if isinstance(completion, str) and completion else _told(record, content),
            "correct" if said.lower() == "success" else "wrong",
            name=_text(record.get("memory_id")),
            answer=_text(attempt.get("predicted_answer")),
            reference=_text(attempt.get("ground_truth") or task.get("ground_truth")),
        )
    ]


def _told(record: Fields, content: Fields) -> str:
    """An attempt of which no transcript was kept: its steps, or what is told of how it failed."""
    trajectory = content.get("refined_trajectory")
    steps = trajectory.get("refined_trajectory") if isinstance(trajectory, Mapping) else trajectory
    lines = []
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, Mapping):
            parts = [step.get(name) for name in ("action", "critical_observation", "reasoning")]
            lines.append("\n".join(part for part in parts if isinstance(part, str) and part))
    guidelines = _record(content, "strategic_guidelines")
    guidelines = _record(guidelines, "strategic_guidelines") or guidelines
    mistakes = guidelines.get("mistakes_to_avoid")
    for mistake in mistakes if isinstance(mistakes, list) else []:
        if isinstance(mistake, Mapping):
            parts = [mistake.get(name) for name in ("trigger_condition", "bad_action")]
            lines.append("\n".join(part for part in parts if isinstance(part, str) and part))
    described = record.get("contextual_description")
    if isinstance(described, str) and not any(lines):
        lines.append(described)
    told = "\n\n".join(line for line in lines if line)
    if not told:
        raise Unusable("not a memory", "neither an attempt, a trajectory nor a description")
    return told


def _plain(record: Fields, verdict: Verdict) -> list[Rollout]:
    field = verdict.reward or "reward"
    if field not in record:
        raise Unusable("no such reward", f"{field}; the fields are: {', '.join(sorted(record))}")
    return [
        _attempt(
            "plain",
            record.get("prompt"),
            record.get("completion"),
            outcome_of(record[field], verdict.threshold),
            answer=_text(record.get("answer")),
            reference=_text(record.get("reference")),
            model=_text(record.get("model")),
        )
    ]


FORMATS: dict[str, KnownFormat] = {
    "native": KnownFormat(("completion", "outcome"), _native),
    "gsm8k_model_solutions": KnownFormat(("question", "ground_truth"), _gsm8k_model_solutions),
    "trl_completions": KnownFormat(("prompt", "completion", "advantage"), _trl_completions),
    "verl_rollouts": KnownFormat(("input", "output", "score"), _verl_rollouts),
    "memories": KnownFormat(("tags", "content"), _memories),
    "plain": KnownFormat(("prompt", "completion", "reward"), _plain),
}
"""In the order in which a record is tried for them."""


# ------------------------------------------------------------------------------------------------ what formats share


def _attempt(
    source: str, prompt: object, completion: object, outcome: Outcome, *, name: str | None = None, **fields: Any
) -> Rollout:
    """A rollout of what a prompt (or a problem) and a completion say, with ids made of it."""
    problem = problem_of(prompt)
    text = completion_of(completion)
    digest = hashlib.sha256("\0".join((problem, text, outcome)).encode()).hexdigest()
    return _rollout(
        {
            "rollout_id": f"{name}-{digest[:8]}" if name else f"{source}-{digest[:24]}",
            "problem_id": problem_hash(problem),
            "problem": problem,
            "completion": text,
            "outcome": outcome,
            "source": source,
            "guided": shows_skills(prompt),
            **fields,
        }
    )


def _rollout(fields: Mapping[str, Any]) -> Rollout:
    try:
        return Rollout.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise Unusable("not a rollout", f"{where}: {first['msg']}") from error
    except RecursionError as error:
        raise Unusable("not a rollout", "nested too deep") from error


def _record(fields: Fields, name: str) -> Fields:
    """A field that is a record itself; an empty one when it is not."""
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    """An answer, which some write as a number or as a list of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        return None
    return str(value) or None
