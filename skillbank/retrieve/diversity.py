"""Maximal marginal relevance (Carbonell and Goldstein 1998): near the problem, but not near what is already chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def spread(cosines_N: np.ndarray[Any, Any], vectors_ND: np.ndarray[Any, Any], diversity: float) -> list[int]:
    """All candidates in the order in which each next one has the highest

        (1 - diversity) * cosine to the problem - diversity * highest cosine to one before it

    The nearest comes first. Vectors are unit; of equal candidates the earlier one comes first.
    """
    import numpy as np

    count = len(cosines_N)
    nearest_chosen_N = np.zeros(count)
    order: list[int] = []
    left_N = np.ones(count, dtype=bool)
    for _ in range(count):
        value_N = (1 - diversity) * cosines_N - diversity * nearest_chosen_N
        best = int(np.argmax(np.where(left_N, value_N, -np.inf)))
        likeness_N = vectors_ND @ vectors_ND[best]
        nearest_chosen_N = likeness_N if not order else np.maximum(nearest_chosen_N, likeness_N)
        order.append(best)
        left_N[best] = False
    return order
