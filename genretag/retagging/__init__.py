"""Other thresholds for what is stored: new genres from old probabilities."""
