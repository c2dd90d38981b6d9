"""What the usage ledger says of entries, and which of them are worth keeping.

ledger      the rows of training as arrays
clusters    sums over problems, means and correlations whose errors know that rows of one problem are alike
estimate    utility with its interval, support-outcome correlation, difference from placebo: of entries and of pairs
"""

from skillbank.usage.estimate import AgainstPlacebo, Correlation, Estimate, Interval, estimates

__all__ = ["AgainstPlacebo", "Correlation", "Estimate", "Interval", "estimates"]
