"""What the usage ledger says of entries, and which of them are worth keeping.

ledger      the rows of training as arrays
clusters    sums over problems, means and correlations whose errors know that rows of one problem are alike
credit      what an entry did on its own, its partners and problems taken out
estimate    utility with its interval, support-outcome correlation, difference from placebo: of entries and of pairs
keep        rules over estimates that say which entries go
"""

from skillbank.usage.estimate import AgainstPlacebo, Correlation, Credit, Estimate, Interval, estimates
from skillbank.usage.keep import MEASURES, RULES, KeepRule

__all__ = [
    "MEASURES",
    "RULES",
    "AgainstPlacebo",
    "Correlation",
    "Credit",
    "Estimate",
    "Interval",
    "KeepRule",
    "estimates",
]
