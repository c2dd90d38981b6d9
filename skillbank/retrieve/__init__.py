"""Retrieval: a problem in, the pairs that guide its teachers out, with weights and reasons.

retriever       Retriever, for many problems at once
settings        how many, how paired, how weighed, what may be retrieved
candidates      the nearest entries that may be taken
pairing         skills and mistakes into pairs; `diversity` among them; `abstain` where nothing is near
explain         why these, and why not the next
"""

from __future__ import annotations

from skillbank.retrieve.retriever import Retriever, nearest_entries, open_retriever
from skillbank.retrieve.settings import Settings

__all__ = ["Retriever", "Settings", "nearest_entries", "open_retriever"]
