"""The methods: what teaches the student, and how its opinion becomes a loss.

base.py   what a method is to the trainer
gated.py  SGSD: skill-pair teachers, gated by the verifier's outcome
"""

from sgsd.methods.base import Method, MethodResult, Objective
from sgsd.methods.gated import GatedObjective, UsageLedger, open_bank, sgsd_method
from skillbank.retrieve import Retriever

__all__ = [
    "GatedObjective",
    "Method",
    "MethodResult",
    "Objective",
    "Retriever",
    "UsageLedger",
    "open_bank",
    "sgsd_method",
]
