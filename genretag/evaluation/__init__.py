"""Evaluation: a bundle and labelled posters -> figures with intervals, next to a null model and another bundle."""
