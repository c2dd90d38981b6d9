"""What is retrieved from the bank, what is written to its ledger, and how it is maintained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sgsd.config.base import Config


class BankConfig(Config):
    """The skill bank and what is retrieved from it."""

    path: str | None = None
    embedder: str | None = None
    """None: the one that the bank was built with."""
    k: PositiveInt = 8
    """Pairs a problem, and so teachers a problem."""
    mode: Literal["similar", "random"] = "similar"
    temperature: PositiveFloat = 1.0
    """Of the softmax over mean cosines that weighs the pairs."""
    pairing: Literal["rank", "mined", "match"] = "rank"
    """By rank (the paper), only pairs as they were mined, or each skill with the mistake nearest to it."""
    diversity: float = Field(0.0, ge=0.0, lt=1.0)
    """Above 0, entries that resemble those already chosen are passed over (maximal marginal relevance)."""
    min_cosine: Annotated[float, Field(ge=-1.0, le=1.0)] | Literal["auto"] | None = None
    """Entries with a lower cosine to the problem are not used; `auto` reads the bound off the bank's own problems."""
    where: str | None = None
    """Only entries that fit, such as `utility:>0`; read at the start and when the bank's revision changes."""
    leave_one_problem_out: bool = True
    """Never give a problem the entries that were mined from that problem alone."""


class LedgerConfig(Config):
    """What is measured beside the teachers, for the bank's usage ledger (docs/usage.md)."""

    placebo_share: float = Field(0.1, ge=0.0, le=1.0)
    """Share of the examples on which neutral guidance is scored too, so that entries can be held against it; it changes
    no loss. One more teacher pass of these examples each. 0 measures none."""


class MaintainConfig(Config):
    """The bank, maintained while it teaches (docs/maintenance.md). Off unless `every_steps` is set."""

    every_steps: NonNegativeInt = 0
    """Optimiser steps between looks at all rollouts since the last; 0 leaves the bank alone. The paper: 25."""
    success_below: float = Field(0.8, ge=0.0, le=1.0)
    """New entries are mined when a smaller share of the verified rollouts was right."""
    max_new: PositiveInt = 5
    """New skills, and new mistakes, of one look; the best-evidenced are taken, the others counted."""
    capacity: PositiveInt = 30
    """Active skills, and mistakes, that training made; those of the lowest measured credit give way. All others are
    static and untouched: what was mined from files, imported or written, and what is pinned."""
    young_steps: NonNegativeInt = 50
    """Optimiser steps for which a new entry gives way to none: it has had no time to be measured."""
    prune: str | None = None
    """Also retire what fits a rule of `sgsd bank prune`, static entries included, such as `misleading`: what opposes
    right solutions, unless its partners did. None leaves static entries alone."""
    near_cosine: float = Field(0.9, ge=-1.0, le=1.0)
    """Problems at least so near are contrasted too: one rollout a problem rarely shows both outcomes."""
    miner: Literal["contrast", "model"] = "contrast"
    """Compare right and wrong attempts, or have a language model write the lessons."""
    model: str | None = None
    """Of `miner: model`: its name at `endpoint`; None asks the student itself, as it is by then."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    max_problems: PositiveInt = 64
    """Of `miner: model`: problems shown to it, a call each; those with both outcomes first, then failures."""
    max_tokens: PositiveInt = 2048
    """Of `miner: model`: the longest reply."""

    @model_validator(mode="after")
    def _a_model_has_an_address(self) -> Self:
        if (self.model is None) != (self.endpoint is None):
            missing, given = ("endpoint", "model") if self.endpoint is None else ("model", "endpoint")
            raise ValueError(f"maintain.{given} needs maintain.{missing}: give both, or neither to ask the student")
        if self.miner == "contrast" and self.model is not None:
            raise ValueError(f"maintain.model {self.model} would not be asked: set maintain.miner to model")
        return self
