"""The index: texts into vectors, and the nearest of a bank's entries. A cache: deleting it loses nothing.

embed, lexical  any sentence-transformers model behind a fingerprint; the embedder that needs no model
vectors         the vectors of a bank's entries, each computed once
nearest         exact or approximate search over vectors under ids
generations     its files: written whole, put in use in one step
bank_index      VectorIndex, which follows a bank from revision to revision
"""

from __future__ import annotations

from skillbank.index.bank_index import VectorIndex

__all__ = ["VectorIndex"]
