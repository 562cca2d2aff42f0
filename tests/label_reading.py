"""How the tests read a CSV of labels."""

from genretag.data.label_csv import read_labels
from genretag.settings import LabelSettings


def read(text, min_positives=1, **settings):
    """Reads with every label kept, so that a test needs no twenty posters."""
    return read_labels(text, "posters.csv", LabelSettings(**settings), min_positives=min_positives)


def labels_by_id(text, **options):
    labelled, _ = read(text, **options)
    return {
        poster: [label for label, is_set in zip(labelled.labels, row, strict=True) if is_set]
        for poster, row in zip(labelled.ids, labelled.multi_hot, strict=True)
    }
