"""Building: past rollouts in, a bank that can be retrieved from out.

bank_build      the way from files to report
site            where a bank grows until it is whole
intake          rollouts into the spool; what a model's build would take
spool, harvest  rollouts and findings on disk, so that memory does not grow with them
miners          contrast and model, to the build alike
merging         which wordings are one
guarding        the guard over what a build brought in
report          what was read, refused, made
sharded, workers    the same on a cluster
"""

from __future__ import annotations

from skillbank.building.bank_build import Engine, Local, build_bank
from skillbank.building.report import BuildReport

__all__ = ["BuildReport", "Engine", "Local", "build_bank"]
