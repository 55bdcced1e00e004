"""The fastest setting that fits: what may be chosen, few blocks for all of them, the search, its picture."""
