"""The methods: what teaches the student, and how its opinion becomes a loss.

base.py   what a method is to the trainer
gated.py  SGSD: skill-pair teachers, gated by the verifier's outcome
distribution.py  OPSD and OPD: one teacher a problem, its whole distribution against the student's
served.py  OPD with a teacher behind a server, which tells few tokens
mean.py   what OPSD and OPD share: a mean over tokens
"""

from sgsd.methods.base import Method, MethodResult, Objective, Window
from sgsd.methods.distribution import opd_method, opsd_method
from sgsd.methods.gated import GatedObjective, open_bank, sgsd_method
from skillbank.retrieve import Retriever

__all__ = [
    "GatedObjective",
    "Method",
    "MethodResult",
    "Objective",
    "Retriever",
    "Window",
    "opd_method",
    "open_bank",
    "opsd_method",
    "sgsd_method",
]
