"""Near-equal pairs of different problems become one, their evidence added up.

Skills merge with skills and mistakes with mistakes; a merged pair is (merged skill, merged mistake). Two texts of one
origin merge when

1. they are the same but for case, spaces and closing punctuation; or
2. vectors are given, their cosine is at least `min_cosine`, *and* they have the same key words in the same order and
   the same arithmetic signs: they differ in numbers, fillers (articles, pronouns, auxiliaries) and inflection only.

The second half of rule 2 is what keeps "zorp means sum" from "zorp means doubled sum", and "reduced to" from "reduced
by", which no embedding tells apart reliably. A text joins a cluster only when it is near enough to every member
(complete link), so a chain of small steps does not join its ends. The wording with the most evidence stands for a
cluster. The outcome depends neither on the order of the pairs nor on that within their evidence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from skillbank.mine.steps import stem
from skillbank.records import Evidence, MinedPair, Mistake, Record, Skill

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Encode = Callable[[Sequence[str]], NDArray[np.float32]]
    """Texts -> L2-normalised vectors [n, dim]."""

FILLERS = frozenset(
    {"a", "an", "the", "this", "that", "these", "those", "is", "are", "was", "were", "be", "been", "has", "have", "had"}
    | {"he", "she", "it", "they", "his", "her", "its", "their", "we", "you", "i", "our", "your", "will", "would", "do"}
    | {"so", "then", "thus", "therefore", "hence", "and", "now", "also", "just"}
)

_TOKEN = re.compile(r"[^\W\d_]+|(?<=[\d\s)%.])[-+*/×÷−–](?=[\s\d(.$])")

Text = TypeVar("Text", bound=Skill | Mistake)


class MergeReport(Record):
    """How many of each there were, and how many are left. Skills and mistakes are counted by distinct text."""

    pairs_in: int
    pairs_out: int
    skills_in: int
    skills_out: int
    mistakes_in: int
    mistakes_out: int


def merge_pairs(
    pairs: Iterable[MinedPair], *, encode: Encode | None = None, min_cosine: float = 0.95
) -> tuple[list[MinedPair], MergeReport]:
    """Merge near-equal pairs by the rules above; without `encode`, by the first rule alone."""
    before = list(pairs)
    skills = _Merged([(pair.origin, pair.skill, pair.skill_evidence) for pair in before], encode, min_cosine)
    mistakes = _Merged([(pair.origin, pair.mistake, pair.mistake_evidence) for pair in before], encode, min_cosine)
    merged: dict[tuple[str, Skill, Mistake], tuple[set[Evidence], set[Evidence]]] = {}
    for pair in before:
        key = (pair.origin, skills.of(pair.origin, pair.skill), mistakes.of(pair.origin, pair.mistake))
        skill_evidence, mistake_evidence = merged.setdefault(key, (set(), set()))
        skill_evidence.update(pair.skill_evidence)
        mistake_evidence.update(pair.mistake_evidence)
    after = [
        MinedPair(
            skill=skill,
            mistake=mistake,
            skill_evidence=_sorted(evidence[0]),
            mistake_evidence=_sorted(evidence[1]),
            origin=origin,
        )
        for (origin, skill, mistake), evidence in merged.items()
    ]
    after.sort(key=lambda pair: (pair.skill.text(), pair.mistake.text(), pair.origin))
    return after, MergeReport(
        pairs_in=len(before),
        pairs_out=len(after),
        skills_in=skills.distinct,
        skills_out=skills.clusters,
        mistakes_in=mistakes.distinct,
        mistakes_out=mistakes.clusters,
    )


def _sorted(evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    return tuple(
        sorted(evidence, key=lambda item: (item.problem_id, item.rollout_id, item.span or (-1, -1), item.quote))
    )


@dataclass(eq=False)
class _Group(Generic[Text]):
    """Wordings that are the same by rule 1, each with its evidence."""

    origin: str
    wordings: dict[Text, set[Evidence]] = field(default_factory=dict)

    def best(self) -> Text:
        return min(self.wordings, key=lambda wording: (-len(self.wordings[wording]), *_all_fields(wording)))

    def weight(self) -> int:
        return len(set[Evidence]().union(*self.wordings.values()))


class _Merged(Generic[Text]):
    """The clusters of one kind, and what stands for each wording."""

    def __init__(
        self, wordings: Sequence[tuple[str, Text, Sequence[Evidence]]], encode: Encode | None, min_cosine: float
    ) -> None:
        self.distinct = len({(origin, wording) for origin, wording, _ in wordings})
        by_text: dict[tuple[str, ...], _Group[Text]] = {}
        for origin, wording, evidence in wordings:
            group = by_text.setdefault((origin, *_plain(wording)), _Group(origin))
            group.wordings.setdefault(wording, set()).update(evidence)
        # Best-evidenced first: it founds a cluster and stands for it.
        groups = [group for _, group in sorted(by_text.items(), key=lambda item: (-item[1].weight(), item[0]))]
        clusters = [[group] for group in groups] if encode is None else _clusters(groups, encode, min_cosine)
        self.clusters = len(clusters)
        self._stands_for: dict[tuple[str, Text], Text] = {}
        for cluster in clusters:
            best = cluster[0].best()
            for group in cluster:
                for wording in group.wordings:
                    self._stands_for[group.origin, wording] = best

    def of(self, origin: str, wording: Text) -> Text:
        return self._stands_for[origin, wording]


def _clusters(groups: Sequence[_Group[Text]], encode: Encode, min_cosine: float) -> list[list[_Group[Text]]]:
    """Complete-link clusters in the order of `groups`, each led by its first. Only groups with equal key words meet."""
    by_key: dict[tuple[str, ...], list[_Group[Text]]] = {}
    for group in groups:
        by_key.setdefault((group.origin, *key_words(group.best())), []).append(group)
    meeting = [group for same in by_key.values() if len(same) > 1 for group in same]
    vectors = encode([group.best().text() for group in meeting]) if meeting else None
    row = {id(group): number for number, group in enumerate(meeting)}
    clusters: list[list[_Group[Text]]] = []
    for same in by_key.values():
        if len(same) == 1 or vectors is None:
            clusters.append(same)
            continue
        started: list[list[_Group[Text]]] = []
        for group in same:
            near = (
                cluster
                for cluster in started
                if (vectors[[row[id(member)] for member in cluster]] @ vectors[row[id(group)]]).min() >= min_cosine
            )
            home = next(near, None)
            if home is None:
                started.append([group])
            else:
                home.append(group)
        clusters += started
    return clusters


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


def _plain(text: Skill | Mistake) -> tuple[str, ...]:
    return tuple(" ".join(part.casefold().split()).rstrip(".,;: ") for part in _all_fields(text))


def _all_fields(text: Skill | Mistake) -> tuple[str, str, str]:
    if isinstance(text, Skill):
        return text.title, text.principle, text.when_to_apply
    return text.description, text.why_it_happens, text.how_to_avoid
