"""skillbank: past experience as curated skill-mistake pairs."""
