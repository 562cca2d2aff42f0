"""A CSV of labels: how it is read, and what is said about it."""
