"""Views of a bank, for every face of it: an entry with its evidence, search, which problems are covered."""
