"""The search behind retrieval: for a batch of problems, entries that may be used, as deep as the pairing wants them.

A depth is searched for all problems at once; those whose choice is not certain yet are searched again, four times as
deep. What may be used is decided here (bound on the cosine, entries left out), which pairs it makes in `pairing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillbank.index.nearest import Nearest
from skillbank.records import Kind
from skillbank.retrieve.diversity import spread
from skillbank.retrieve.pairing import Found, Joined, Ranked, best_pairs, by_rank, pairs_among, partners
from skillbank.retrieve.settings import Settings
from skillbank.store import Bank
from skillbank.store.query import SIDES

if TYPE_CHECKING:
    import numpy as np

SPREAD_OVER = 4
"""With diversity, K are chosen out of this many times K."""
DEEPER = 4
"""Factor between two depths."""


@dataclass(frozen=True)
class Searched:
    """One problem, and what was found for it so far."""

    query_D: np.ndarray[Any, Any]
    left_out: set[int]
    skills: Ranked
    mistakes: Ranked


class Candidates:
    """Finds the pairs of many problems in the indexes of a bank at one revision."""

    def __init__(
        self, bank: Bank, indexes: Mapping[Kind, Nearest], settings: Settings, bounds: Mapping[Kind, float | None]
    ) -> None:
        self._bank, self._indexes, self._settings, self._bounds = bank, indexes, settings, bounds
        self._choose = {"rank": self._by_rank, "mined": self._as_mined, "match": self._matched}[settings.pairing]

    def pools(self, queries_ND: np.ndarray[Any, Any], left_out: Sequence[set[int]]) -> list[list[Joined]]:
        """The pairs of each problem, best first."""
        pools: dict[int, list[Joined]] = {}
        waiting = list(range(len(left_out)))
        wanted = self._settings.k * (SPREAD_OVER if self._settings.diversity else 1)
        depth = wanted + max(map(len, left_out), default=0)
        while waiting:
            lists = {
                kind: self._ranked(kind, queries_ND[waiting], [left_out[n] for n in waiting], depth) for kind in SIDES
            }
            searched = [
                Searched(queries_ND[n], left_out[n], skills, mistakes)
                for n, skills, mistakes in zip(waiting, lists["skill"], lists["mistake"], strict=True)
            ]
            chosen = self._choose(searched)
            pools.update((n, pool) for n, pool in zip(waiting, chosen, strict=True) if pool is not None)
            waiting = [n for n in waiting if n not in pools]
            depth *= DEEPER
        return [pools[n] for n in range(len(left_out))]

    def _ranked(
        self, kind: Kind, queries_ND: np.ndarray[Any, Any], left_out: Sequence[set[int]], depth: int
    ) -> list[Ranked]:
        cosines_ND, ids_ND = self._indexes[kind].search(queries_ND, depth)
        all_found = depth >= self._indexes[kind].count
        bound = self._bounds[kind]
        ranked = []
        for ids, cosines, left in zip(ids_ND.tolist(), cosines_ND.tolist(), left_out, strict=True):
            found = [Found(i, c) for i, c in zip(ids, cosines, strict=True) if bound is None or c >= bound]
            ranked.append(Ranked([f for f in found if f.id not in left], all_found or len(found) < len(ids)))
        return ranked

    # The three pairings, each for all problems that are still waiting: None where the lists end too early.

    def _by_rank(self, searched: Sequence[Searched]) -> list[list[Joined] | None]:
        spread_out = [(self._spread("skill", one.skills), self._spread("mistake", one.mistakes)) for one in searched]
        known = pairs_among(
            self._bank,
            {found.id for one in searched for found in one.skills.found},
            {found.id for one in searched for found in one.mistakes.found},
        )
        return [
            None if skills is None or mistakes is None else by_rank(skills, mistakes, known, self._settings.k)
            for skills, mistakes in spread_out
        ]

    def _spread(self, kind: Kind, ranked: Ranked) -> Ranked | None:
        """The list with its first SPREAD_OVER * K by maximal marginal relevance; None when it is too short for that."""
        import numpy as np

        if not self._settings.diversity:
            return ranked
        first = SPREAD_OVER * self._settings.k
        if len(ranked.found) < first and not ranked.all_seen:
            return None
        head, rest = ranked.found[:first], ranked.found[first:]
        vectors_ND = self._indexes[kind].vectors(np.array([found.id for found in head], dtype=np.int64))
        order = spread(np.array([found.cosine for found in head]), vectors_ND, self._settings.diversity)
        return Ranked([*(head[n] for n in order), *rest], ranked.all_seen)

    def _as_mined(self, searched: Sequence[Searched]) -> list[list[Joined] | None]:
        """Fagin's threshold: a pair not met yet has both sides below the ends of the lists, so scores no higher."""
        seen = {
            SIDES[kind]: {found.id for one in searched for found in getattr(one, f"{kind}s").found} for kind in SIDES
        }
        of = partners(self._bank, seen)
        return [self._mined_pool(one, of) for one in searched]

    def _mined_pool(self, one: Searched, of: Mapping[int, Sequence[tuple[int, int, int]]]) -> list[Joined] | None:
        met = {pair for found in (*one.skills.found, *one.mistakes.found) for pair in of.get(found.id, ())}
        skills = self._cosines("skill", one, one.skills, {skill for _, skill, _ in met})
        mistakes = self._cosines("mistake", one, one.mistakes, {mistake for _, _, mistake in met})
        pairs = [
            Joined(Found(skill, skills[skill]), Found(mistake, mistakes[mistake]), pair_id)
            for pair_id, skill, mistake in met
            if skill in skills and mistake in mistakes
        ]
        all_met = one.skills.all_seen or one.mistakes.all_seen  # a pair has one of each
        ends = [ranked.found[-1].cosine if ranked.found else 1.0 for ranked in (one.skills, one.mistakes)]
        sure = pairs if all_met else [pair for pair in pairs if pair.score >= sum(ends) / 2]
        wanted = self._settings.k * (SPREAD_OVER if self._settings.diversity else 1)
        pool = best_pairs(sure, wanted)
        if len(pool) < wanted and not all_met:
            return None
        return self._spread_pairs(pool)[: self._settings.k]

    def _cosines(self, kind: Kind, one: Searched, ranked: Ranked, ids: set[int]) -> dict[int, float]:
        """Cosines to the problem of those of the entries that may be used."""
        import numpy as np

        cosines = {found.id: found.cosine for found in ranked.found if found.id in ids}
        unknown = sorted(ids - set(cosines) - one.left_out)
        if ranked.all_seen or not unknown:
            return cosines
        index, bound = self._indexes[kind], self._bounds[kind]
        there_N = np.array(unknown, dtype=np.int64)
        there_N = there_N[index.holds(there_N)]
        values_N = index.vectors(there_N) @ one.query_D
        cosines.update(
            (i, value)
            for i, value in zip(there_N.tolist(), values_N.tolist(), strict=True)
            if bound is None or value >= bound
        )
        return cosines

    def _spread_pairs(self, pool: list[Joined]) -> list[Joined]:
        """By maximal marginal relevance, two pairs being as alike as their sides are on average."""
        import numpy as np

        if not self._settings.diversity or not pool:
            return pool
        sides = {"skill": [pair.skill.id for pair in pool], "mistake": [pair.mistake.id for pair in pool]}
        vectors = [self._indexes[kind].vectors(np.array(sides[kind], dtype=np.int64)) for kind in SIDES]
        order = spread(
            np.array([pair.score for pair in pool]), np.hstack(vectors) / np.sqrt(2), self._settings.diversity
        )
        return [pool[n] for n in order]

    def _matched(self, searched: Sequence[Searched]) -> list[list[Joined] | None]:
        """The K nearest skills, each with the mistake nearest to itself that none before it has taken."""
        skills = [self._spread("skill", one.skills) for one in searched]
        ready = [
            n
            for n, ranked in enumerate(skills)
            if ranked is not None and (ranked.all_seen or len(ranked.found) >= self._settings.k)
        ]
        matched: list[list[Joined] | None] = [None] * len(searched)
        todo = {n: skills[n].found[: self._settings.k] for n in ready}  # type: ignore[union-attr]  # ready are not None
        depth = 2 * self._settings.k
        while todo:
            near = self._near_skills({found.id for chosen in todo.values() for found in chosen}, depth)
            known = pairs_among(self._bank, near, {i for ids in near.values() for i in ids})
            complete = depth >= self._indexes["mistake"].count
            for n, chosen in list(todo.items()):
                pool = self._match(searched[n], chosen, near, known, complete)
                if pool is not None:
                    matched[n] = pool
                    del todo[n]
            depth *= DEEPER
        return matched

    def _near_skills(self, skill_ids: set[int], depth: int) -> dict[int, list[int]]:
        """The mistakes nearest to each skill, best first."""
        import numpy as np

        ids_N = np.array(sorted(skill_ids), dtype=np.int64)
        if len(ids_N) == 0:
            return {}
        _, near_ND = self._indexes["mistake"].search(self._indexes["skill"].vectors(ids_N), depth)
        return dict(zip(ids_N.tolist(), near_ND.tolist(), strict=True))

    def _match(
        self,
        one: Searched,
        chosen: Sequence[Found],
        near: Mapping[int, Sequence[int]],
        known: Mapping[tuple[int, int], tuple[int, bool]],
        complete: bool,
    ) -> list[Joined] | None:
        cosines = self._cosines("mistake", one, one.mistakes, {i for skill in chosen for i in near[skill.id]})
        taken: set[int] = set()
        pool: list[Joined] = []
        for skill in chosen:
            for mistake in near[skill.id]:
                pair_id, usable = known.get((skill.id, mistake), (None, True))
                if usable and mistake in cosines and mistake not in taken:
                    taken.add(mistake)
                    pool.append(Joined(skill, Found(mistake, cosines[mistake]), pair_id))
                    break
            else:
                if not complete:
                    return None
        return pool
