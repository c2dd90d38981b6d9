"""Which evaluation problem is near a text, by an embedder: what a reworded problem cannot hide from.

The threshold is calibrated for each embedder on the registry itself. Cosines between different evaluation problems are
how near unrelated problems of the kind come; a text nearer than all but one in ten thousand of them, and nearer than
`MIN_COSINE`, is no stranger. docs/guard.md has what that finds and misses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from skillbank.guard.contamination import EvaluationProblem
from skillbank.guard.context import Neighbour

if TYPE_CHECKING:
    import numpy as np

    from skillbank.index.embed import Embedder

MIN_COSINE = 0.80
"""Never flag below it, however small the registry."""
STRANGERS = 0.9999
"""The quantile of cosines between different registered problems that a neighbour has to exceed."""
MARGIN = 0.02
_KEPT = 20_000
"""Vectors of texts kept between checks."""


class Neighbours:
    """The registered problems as vectors, and the nearest of them to a text."""

    def __init__(self, problems: Sequence[EvaluationProblem], embedder: Embedder) -> None:

        self._problems, self._embedder = list(problems), embedder
        self._vectors_ED = embedder.encode_documents([problem.problem for problem in problems])
        self._known: dict[str, np.ndarray[Any, Any]] = {}
        self.min_cosine = self._calibrate()

    def _calibrate(self) -> float:
        import numpy as np

        cosines_EE = self._vectors_ED @ self._vectors_ED.T
        different = cosines_EE[np.triu_indices(len(self._problems), 1)]
        different = different[different < 0.98]  # the same problem in two files
        if not len(different):
            return MIN_COSINE
        return max(MIN_COSINE, min(0.97, float(np.quantile(different, STRANGERS)) + MARGIN))

    def prepare(self, texts: Iterable[str]) -> None:
        """Embeds many texts at once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) + len(new) > _KEPT:
            self._known.clear()
        self._known.update(zip(new, self._embedder.encode_documents(new), strict=True))

    def near(self, what: str, text: str) -> Iterable[Neighbour]:
        """The nearest registered problem, when it is near enough."""
        if text not in self._known:
            self.prepare([text])
        cosines_E = self._vectors_ED @ self._known[text]
        best = int(cosines_E.argmax())
        if cosines_E[best] > self.min_cosine:
            yield Neighbour(str(self._problems[best]), float(cosines_E[best]), what)
