"""Whether a bank is sound, and mending what can be computed again.

    report = doctor("bank")            # reads everything, changes nothing
    report = doctor("bank", fix=True)  # and mends what hangs on something else in the bank
    report.sound                       # no error is left

What is looked for is listed in `problems.py`; docs/robustness.md says what a bank promises and how that is proven.
"""

from __future__ import annotations

from skillbank.doctor.examine import doctor
from skillbank.doctor.report import Finding, Report
from skillbank.doctor.vacuum import Vacuumed, vacuum

__all__ = ["Finding", "Report", "Vacuumed", "doctor", "vacuum"]
