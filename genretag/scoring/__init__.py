"""Scoring: posters to probabilities on Ray, for `tag`, `train` and `evaluate`."""
