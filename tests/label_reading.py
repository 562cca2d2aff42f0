"""Helpers that read a CSV of labels in a test."""

from genretag.data.label_csv import read_labels
from genretag.settings import LabelSettings


def read(text, min_positives=1, **settings):
    """Read a CSV of labels. Rare labels are kept (`min_positives` is 1), so that a few rows are enough for a test."""
    return read_labels(text, "posters.csv", LabelSettings(**settings), min_positives=min_positives)


def labels_by_id(text, **options):
    """Read a CSV of labels, and return the labels of each poster by its id."""
    labelled, _ = read(text, **options)
    return {
        poster: [label for label, is_set in zip(labelled.labels, row, strict=True) if is_set]
        for poster, row in zip(labelled.ids, labelled.multi_hot, strict=True)
    }
