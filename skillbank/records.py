"""What the skill bank speaks of: rollouts, skills, mistakes, pairs, and where they come from.

All records are frozen pydantic models. Ids of entries are integers that the database hands out once and never again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Outcome = Literal["correct", "wrong", "unverifiable"]
Kind = Literal["skill", "mistake", "pair"]
Status = Literal["active", "disabled", "quarantined", "superseded", "retired"]
Fate = Literal["accepted", "rejected", "dead"]
"""What became of a rollout: an entry rests on it, it was refused for a reason, or its call died and can be retried."""


class Record(BaseModel):
    """Base of every record: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rollout(Record):
    """One past attempt at a problem, verified. The line format of rollout files (JSONL or parquet)."""

    rollout_id: str = Field(min_length=1)
    problem_id: str = Field(min_length=1)
    problem: str = Field(min_length=1)
    completion: str
    outcome: Outcome
    answer: str | None = None
    """The answer read from the completion."""
    reference: str | None = None
    """The reference answer of the problem."""
    model: str | None = None
    sampling: dict[str, Any] | None = None
    source: str = "unknown"
    split: str = "train"
    guided: bool = False
    """Its prompt contained skills already: what is mined from it would teach the bank its own words."""
    token_ids: tuple[int, ...] | None = Field(None, exclude_if=lambda ids: ids is None)
    """Of the completion as drawn, end token included, where the writer kept them: a text can be cut otherwise."""


class Skill(Record):
    """What the right attempts do."""

    title: str = Field(min_length=1)
    principle: str = Field(min_length=1)
    when_to_apply: str = ""

    def text(self) -> str:
        """The text that is embedded (docs/method.md, step 3)."""
        return "\n".join(part for part in (self.title, self.principle, self.when_to_apply) if part)


class Mistake(Record):
    """What the wrong attempts do, and what to do instead."""

    description: str = Field(min_length=1)
    why_it_happens: str = ""
    how_to_avoid: str = ""

    def text(self) -> str:
        """The text that is embedded (docs/method.md, step 3)."""
        return "\n".join(part for part in (self.description, self.why_it_happens, self.how_to_avoid) if part)


class Pair(Record):
    """A skill and the mistake it was mined against: the unit of curation and of the usage ledger."""

    skill_id: int
    mistake_id: int


class Evidence(Record):
    """One place in one rollout on which an entry rests."""

    rollout_id: str
    problem_id: str
    outcome: Outcome
    quote: str
    """The words of the completion."""
    span: tuple[int, int] | None = None
    """Character offsets [start, end) of `quote` in the completion."""
    source: str = "unknown"


class Flag(Record):
    """Why an entry is kept from retrieval. An entry with a flag that nobody released is never active."""

    rule: str
    reason: str
    released: bool = False
    """A person looked at it and let the entry through; the same rule and reason are not raised again."""


class Provenance(Record):
    """Who wrote an entry, and from what; the places it rests on are its evidence."""

    miner: str
    """contrast, model, merge, split, import or manual."""
    model: str | None = None
    prompt: str | None = None
    """Hash of the prompt template that the model was given."""
    file: str | None = None
    """The file it was imported from."""
    parent: int | None = None
    """The entry it was split from."""
    detail: str | None = None
    """What else the place of origin says, such as the id it had there."""


class Entry(Record):
    """A skill, mistake or pair as the bank holds it: content, state, version."""

    id: int
    kind: Kind
    content: Skill | Mistake | Pair
    status: Status = "active"
    origin: str = "mined"
    """Where it came from: mined, imported, manual, online, misleading (arena) ..."""
    version: int = 1
    revision: int = 0
    """The bank revision that last changed it."""
    evidence_count: int = 0
    """Places it rests on; of a pair, those of its two sides."""
    superseded_by: int | None = None
    tags: tuple[str, ...] = ()
    pinned: bool = False
    """Neither merged away nor pruned."""
    flags: tuple[Flag, ...] = ()
    provenance: Provenance | None = None


class MinedPair(Record):
    """A skill-mistake pair as a miner hands it to the bank, with all it rests on."""

    skill: Skill
    mistake: Mistake
    skill_evidence: tuple[Evidence, ...]
    mistake_evidence: tuple[Evidence, ...]
    origin: str = "mined"
    provenance: Provenance | None = None


class MinedEntry(Record):
    """A skill or a mistake without a counterpart, as a miner hands it to the bank."""

    content: Skill | Mistake
    evidence: tuple[Evidence, ...] = ()
    origin: str = "mined"
    provenance: Provenance | None = None


class ProblemText(Record):
    """A problem that rollouts were about."""

    problem_id: str
    problem: str
    reference: str | None = None
    """Its reference answer, which is known to the guard and never shown to a writer."""


class RolloutFate(Record):
    """A rollout that a miner read, and what became of it."""

    rollout_id: str
    problem_id: str
    content_hash: str
    """`rollout_hash` of it."""
    outcome: Outcome
    answer: str | None = None
    model: str | None = None
    source: str = "unknown"
    guided: bool = False
    file: str = ""
    """The file it was read from."""
    miner: str
    fate: Fate
    reason: str = ""
    """Why it was rejected, or what its dead call ended with."""
    completion: str | None = None
    """Kept where an entry rests on it."""


class RetrievedPair(Record):
    """One teacher's worth of guidance for a problem."""

    skill_id: int
    mistake_id: int
    skill: Skill
    mistake: Mistake
    skill_cosine: float
    mistake_cosine: float
    weight: float
    """softmax over the pool of mean(cosines) / temperature; a pool's weights sum to 1."""
    pair_id: int | None = None
    """The bank's pair entry that joins this skill and this mistake, when they were mined together."""


_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
"""Made once: `json.dumps` makes one a call."""


def content_hash(content: BaseModel) -> str:
    """Hash of what an entry says, equal for equal content on every machine."""
    return body_hash(content.model_dump())


def body_hash(body: dict[str, Any]) -> str:
    """`content_hash` of the content with these fields."""
    return hashlib.sha256(_ENCODER.encode(body).encode()).hexdigest()[:32]


def rollout_hash(rollout: Rollout) -> str:
    """Hash of what a rollout says and how it ended, whatever id and file it goes by."""
    text = _ENCODER.encode([rollout.problem, rollout.completion, rollout.outcome])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def problem_hash(problem: str) -> str:
    """Id of a problem by its text, whitespace folded: the same problem in two files gets one id."""
    return hashlib.sha256(" ".join(problem.split()).encode()).hexdigest()[:16]
