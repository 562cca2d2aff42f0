"""Model: the bundle, its networks and engines, and measures of how good its probabilities are."""
