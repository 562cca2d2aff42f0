"""How the tests read a CSV of labels."""

from genretag.label_csv import read_labels


def read(text, **options):
    """Reads with every label kept, so that a test needs no twenty posters."""
    return read_labels(text, "posters.csv", **{"min_positives": 1, **options})


def labels_by_id(text, **options):
    labelled, _ = read(text, **options)
    return {
        poster: [label for label, is_set in zip(labelled.labels, row, strict=True) if is_set]
        for poster, row in zip(labelled.ids, labelled.multi_hot, strict=True)
    }
