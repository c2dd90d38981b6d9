"""The guard: what keeps answers, evaluation problems, orders to the model and other people's secrets out of a bank.

Skills become weights: a student is trained to think as it would with the bank's entries in its prompt. So every wording
is looked at when it enters and again on demand, what is found is quarantined with its reason, and only a person lets it
through. The rules are a table of small pure functions (`rules.py`); docs/guard.md says what each catches and what not.
"""

from __future__ import annotations

from skillbank.guard.certificate import certify, verify
from skillbank.guard.evaluations import forget, register, registered
from skillbank.guard.guard import Flagged, Guard, ScanReport
from skillbank.guard.retraction import retract
from skillbank.guard.rules import RULES

__all__ = [
    "RULES",
    "Flagged",
    "Guard",
    "ScanReport",
    "certify",
    "forget",
    "register",
    "registered",
    "retract",
    "verify",
]
