"""From the rollouts of a problem to the calls of a model: who is shown together, in which words, under which key.

Right attempts alone give a call for skills, wrong ones alone one for mistakes, both together one for pairs: what made
the difference shows only side by side. Left out: making the call (`extract.py`) and reading its reply (`reply.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from skillbank.mine.model.complete import Request
from skillbank.mine.model.prompts import CallKind, Prompts, load_prompts
from skillbank.mine.model.reply import reply_schema
from skillbank.records import Record, Rollout, rollout_hash


class ExtractSettings(Record):
    """How rollouts are shown to the writer, and what is asked of it."""

    max_items: int = Field(3, ge=1)
    """Skills, mistakes or pairs of one call."""
    attempts_shown: int = Field(4, ge=1)
    """Right attempts, and wrong ones, in one call; what is over that is rejected and counted."""
    max_characters: int = Field(6000, ge=200)
    """A longer problem or attempt is shortened in its middle, with a mark, and counted."""
    show_reference: bool = False
    """Shows the writer the reference answer, which may then leak into entries."""
    prompts: tuple[Path, ...] = ()
    """Files named like those of `skillbank/mine/model/prompts`, or folders of such, in their place."""
    max_tokens: int = Field(2048, ge=1)
    """Of a reply, thinking included."""
    temperature: float | None = Field(0.0, ge=0)
    """None leaves it to the model's own settings."""
    seed: int | None = None


class Attempt(Record):
    """One completion as it is shown; rollouts that say the very same are one attempt."""

    number: int
    """What the writer cites it by."""
    rollouts: tuple[Rollout, ...] = Field(min_length=1)


class Call(Record):
    """One call of the writer. It holds all that is needed to make it, and to read what came back."""

    key: str
    """Hash of the rollouts' content, the prompt, the model and the settings that change the reply."""
    kind: CallKind
    problem_id: str
    prompt_hash: str
    model: str
    right: tuple[Attempt, ...]
    wrong: tuple[Attempt, ...]
    max_items: int
    request: Request

    def rollouts(self) -> list[Rollout]:
        return [rollout for attempt in (*self.right, *self.wrong) for rollout in attempt.rollouts]


class Prepared(Record):
    """What is to be done about the rollouts of a problem."""

    problem_id: str
    call: Call | None
    """None when no rollout can be shown."""
    rejected: tuple[tuple[Rollout, str], ...]
    """Rollouts that are not shown, and why."""
    notices: dict[str, int]


class CallMaker:
    """Makes the calls of a build: settings, prompts and the model's name are the same for all."""

    def __init__(self, settings: ExtractSettings, model: str) -> None:
        self.settings, self.model = settings, model
        self.prompts: Prompts = load_prompts(settings.prompts)
        self._hashes = {kind: self.prompts.hash(kind, _bare_schema(kind)) for kind in KINDS}

    def prepare(self, group: Sequence[Rollout]) -> Prepared:
        """The call for the rollouts of one problem. Their order changes nothing."""
        ordered = sorted(group, key=lambda rollout: (rollout.rollout_id, rollout.completion))
        rejected: list[tuple[Rollout, str]] = []
        attempts: dict[str, dict[str, list[Rollout]]] = {"correct": {}, "wrong": {}}
        for rollout in ordered:
            if rollout.outcome == "unverifiable":
                rejected.append((rollout, "outcome is unverifiable"))
            elif not rollout.completion.strip():
                rejected.append((rollout, "completion is empty"))
            elif rollout.problem.split() != ordered[0].problem.split():
                rejected.append((rollout, "its problem differs from that of others with the same problem_id"))
            else:
                attempts[rollout.outcome].setdefault(rollout.completion, []).append(rollout)
        shown: dict[str, list[Attempt]] = {}
        number = 0
        for outcome, word in (("correct", "right"), ("wrong", "wrong")):
            together = list(attempts[outcome].values())
            most = self.settings.attempts_shown
            for rollouts in together[most:]:
                rejected += [(rollout, f"over the {most} {word} attempts that a call shows") for rollout in rollouts]
            shown[outcome] = [
                Attempt(number=number + i, rollouts=tuple(r)) for i, r in enumerate(together[:most], start=1)
            ]
            number += len(shown[outcome])
        notices: Counter[str] = Counter()
        call = self._call(tuple(shown["correct"]), tuple(shown["wrong"]), notices) if number else None
        return Prepared(problem_id=ordered[0].problem_id, call=call, rejected=tuple(rejected), notices=dict(+notices))

    def _call(self, right: tuple[Attempt, ...], wrong: tuple[Attempt, ...], notices: Counter[str]) -> Call:
        settings = self.settings
        kind: CallKind = "pairs" if right and wrong else "skills" if right else "mistakes"
        one = (*right, *wrong)[0].rollouts[0]
        reference = one.reference if settings.show_reference else None
        blocks = [
            self._attempt(attempt, word, notices)
            for side, word in ((right, "right"), (wrong, "wrong"))
            for attempt in side
        ]
        request = Request(
            messages=self.prompts[kind].messages(
                problem=self._problem(one.problem, reference, notices),
                attempts="\n\n".join(blocks),
                max_items=str(settings.max_items),
            ),
            schema_name=kind,
            reply_schema=reply_schema(kind, _numbers(right), _numbers(wrong), settings.max_items),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
        )
        contents = [[rollout_hash(attempt.rollouts[0]) for attempt in side] for side in (right, wrong)]
        matters = settings.model_dump(mode="json", exclude={"prompts", "show_reference", "attempts_shown"})
        identity = [contents, self._hashes[kind], self.model, matters, reference]
        return Call(
            key=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32],
            kind=kind,
            problem_id=one.problem_id,
            prompt_hash=self._hashes[kind],
            model=self.model,
            right=right,
            wrong=wrong,
            max_items=settings.max_items,
            request=request,
        )

    def _problem(self, problem: str, reference: str | None, notices: Counter[str]) -> str:
        text = f"<problem>\n{self._shown(problem, 'problem', notices)}\n</problem>"
        return text if reference is None else f"{text}\n\n<reference_answer>{reference}</reference_answer>"

    def _attempt(self, attempt: Attempt, word: str, notices: Counter[str]) -> str:
        text = self._shown(attempt.rollouts[0].completion, "attempt", notices)
        return f'<attempt number="{attempt.number}" outcome="{word}">\n{text}\n</attempt>'

    def _shown(self, text: str, what: str, notices: Counter[str]) -> str:
        """Shortened where it is too long; it cannot close the block that it stands in."""
        short = shorten(text, self.settings.max_characters)
        notices[f"{what} shortened to {self.settings.max_characters:,} characters"] += short != text
        return short.strip().replace("</problem>", "< /problem>").replace("</attempt>", "< /attempt>")


KINDS: tuple[CallKind, ...] = ("skills", "mistakes", "pairs")


def _numbers(side: Sequence[Attempt]) -> list[int]:
    return [attempt.number for attempt in side]


def _bare_schema(kind: CallKind) -> dict[str, object]:
    """The schema without what differs from call to call."""
    return reply_schema(kind, (), (), 0)


def shorten(text: str, most: int) -> str:
    """At most `most` characters and a mark that says how many are missing, from the middle: beginning and end of an
    attempt say most about it."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    tail = most - head
    return f"{text[:head]}\n[... {len(text) - most:,} characters left out ...]\n{text[-tail:]}"
