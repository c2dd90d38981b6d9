"""How a problem's pairs are chosen: the settings of retrieval, checked once. The defaults are the paper's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from skillbank.errors import InvalidOption
from skillbank.store.query import Query

Mode = Literal["similar", "random"]
Pairing = Literal["rank", "mined", "match"]


@dataclass(frozen=True)
class Settings:
    """Settings of a Retriever. Raises InvalidOption, which names value, bound and fix."""

    k: int = 8
    """Pairs a problem, at most."""
    temperature: float = 1.0
    """Of the softmax over mean cosines that weighs the pairs."""
    mode: Mode = "similar"
    """`random` is an ablation: both kinds drawn uniformly, by the seed and the problem's id, with equal weights."""
    pairing: Pairing = "rank"
    """Which skill goes with which mistake (`pairing.py`)."""
    diversity: float = 0.0
    """0: the nearest entries, however alike. Towards 1: entries that resemble those already chosen are passed over."""
    min_cosine: float | Literal["auto"] | None = None
    """Entries with a lower cosine to the problem are not used; `auto` reads the bound off the bank (`abstain.py`)."""
    where: Query | None = None
    """Only entries that fit are used; read when the retriever opens and when the bank's revision changes."""
    leave_one_problem_out: bool = True
    """Never give a problem what rests on that problem alone."""
    seed: int = 0
    """Of `random`."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InvalidOption(f"k is {self.k}: retrieve at least 1 pair")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InvalidOption(f"temperature is {self.temperature}: it must be above 0")
        for name, choices in (("mode", Mode), ("pairing", Pairing)):
            if getattr(self, name) not in get_args(choices):
                allowed = " or ".join(map(repr, get_args(choices)))
                raise InvalidOption(f"{name} is {getattr(self, name)!r}: choose {allowed}")
        if not 0 <= self.diversity < 1:
            raise InvalidOption(f"diversity is {self.diversity}: choose at least 0 and less than 1")
        if self.min_cosine not in (None, "auto") and not -1 <= float(self.min_cosine) <= 1:
            raise InvalidOption(f"min_cosine is {self.min_cosine}: choose -1 to 1, or 'auto'")
        if self.mode == "random" and (self.pairing, self.diversity, self.min_cosine) != ("rank", 0, None):
            raise InvalidOption(
                f"mode is 'random', which looks at no cosine, but pairing is {self.pairing!r}, diversity "
                f"{self.diversity:g} and min_cosine {self.min_cosine}: leave the three as they are, or choose 'similar'"
            )
