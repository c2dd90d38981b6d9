"""When two mined texts are one: the rule of the miner that needs no model.

Skills merge with skills and mistakes with mistakes; a merged pair is (merged skill, merged mistake). Two texts of one
origin merge when

1. they are the same but for case, spaces and closing punctuation; or
2. vectors are given, their cosine is at least `min_cosine`, *and* they have the same key words in the same order and
   the same arithmetic signs: they differ in numbers, fillers (articles, pronouns, auxiliaries) and inflection only.

The second half of rule 2 is what keeps "zorp means sum" from "zorp means doubled sum", and "reduced to" from "reduced
by", which no embedding tells apart reliably. A text joins a cluster only when it is near enough to every member
(complete link), so a chain of small steps does not join its ends. The wording with the most evidence stands for a
cluster. `harvest.py` holds the texts, brings together those that may meet, and adds their evidence up.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from skillbank.mine.steps import stem
from skillbank.records import Mistake, Skill

if TYPE_CHECKING:
    import numpy as np

FILLERS = frozenset(
    {"a", "an", "the", "this", "that", "these", "those", "is", "are", "was", "were", "be", "been", "has", "have", "had"}
    | {"he", "she", "it", "they", "his", "her", "its", "their", "we", "you", "i", "our", "your", "will", "would", "do"}
    | {"so", "then", "thus", "therefore", "hence", "and", "now", "also", "just"}
)

_TOKEN = re.compile(r"[^\W\d_]+|(?<=[\d\s)%.])[-+*/×÷−–](?=[\s\d(.$])")

ROWS = 256
"""Of one product of vectors."""


def key_words(text: Skill | Mistake) -> tuple[str, ...]:
    """What must be equal before two texts may merge: stems of the words that carry meaning, and signs, in order.

    Title and `when_to_apply` are left out: they repeat the words of the principle and of the problem it was mined from.
    """
    parts = (text.principle,) if isinstance(text, Skill) else (text.description, text.how_to_avoid)
    keys: list[str] = []
    for part in parts:
        tokens = _TOKEN.findall(part)
        keys += [stem(token) for token in tokens if token.lower() not in FILLERS]
        keys.append("|")
    return tuple(keys)


def all_fields(text: Skill | Mistake) -> tuple[str, str, str]:
    """The words of a skill or a mistake, in the order of its fields."""
    if isinstance(text, Skill):
        return text.title, text.principle, text.when_to_apply
    return text.description, text.why_it_happens, text.how_to_avoid


def plain(text: Skill | Mistake) -> tuple[str, ...]:
    """Equal for texts that are the same by rule 1."""
    return tuple(" ".join(part.casefold().split()).rstrip(".,;: ") for part in all_fields(text))


def first_fit(vectors_ND: np.ndarray[Any, Any], min_cosine: float) -> list[int]:
    """The row that leads each row's cluster: of the first cluster all of whose members are near enough."""
    import numpy as np

    count = len(vectors_ND)
    cluster_N = np.zeros(count, dtype=np.int64)
    leaders: list[int] = []
    for start in range(0, count, ROWS):
        rows_BD = vectors_ND[start : start + ROWS]
        cosines_BN = rows_BD @ vectors_ND[: start + len(rows_BD)].T
        for row, cosines_N in enumerate(cosines_BN, start=start):
            far = np.bincount(cluster_N[:row][cosines_N[:row] < min_cosine], minlength=len(leaders))
            home = np.flatnonzero(far == 0)
            cluster_N[row] = home[0] if len(home) else len(leaders)
            if not len(home):
                leaders.append(row)
    return [leaders[cluster] for cluster in cluster_N]
