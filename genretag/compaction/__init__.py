"""Merges the small part files of past nights, crash-safe, without a row seen twice."""
