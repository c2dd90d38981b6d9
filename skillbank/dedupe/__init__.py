"""Near duplicates: found, previewed, merged as one revision.

neighbours      exact pairs above a cosine, in bounded memory
cluster         complete-link clusters of them
contradict      near texts that do not say the same
standing        which entry of a cluster stays, and which may meet at all
duplicates      the clusters of a bank
apply           merging them
"""

from __future__ import annotations

from skillbank.dedupe.apply import Merged, merge_duplicates

__all__ = ["Merged", "merge_duplicates"]
