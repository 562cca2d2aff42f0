"""What a night said, in counts that add up: each write task counts its own rows, the run record holds the sums.

So the record tells of drift, and the morning report draws it, without reading the night's rows again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from genretag.labels import column_names

BINS = 20  # of equal width, of the probabilities of one label


@dataclass(frozen=True)
class Counts:
    """Of scored posters: how many got each label and how many none, and each label's probabilities in bins."""

    posters: tuple[int, ...]  # in the order of the labels
    without_label: int
    histograms: tuple[tuple[int, ...], ...]  # (labels, BINS)


def count_predictions(table: pa.Table, labels: Sequence[str]) -> Counts:
    """Counts the rows of a predictions table."""
    names = column_names(labels)
    predicted = [table[f"is_{name}"].to_numpy() for name in names]
    probabilities = [table[f"p_{name}"].to_numpy() for name in names]
    return Counts(
        tuple(int(column.sum()) for column in predicted),
        int(len(table) - np.logical_or.reduce(predicted).sum()),
        tuple(tuple(np.histogram(column, BINS, (0.0, 1.0))[0].tolist()) for column in probabilities),
    )


def sum_counts(counts: Sequence[Counts], labels: int) -> Counts:
    """The counts of all of them together."""
    posters, histograms = np.zeros(labels, np.int64), np.zeros((labels, BINS), np.int64)
    for one in counts:
        posters += np.array(one.posters)
        histograms += np.array(one.histograms)
    return Counts(
        tuple(posters.tolist()), sum(c.without_label for c in counts), tuple(tuple(row) for row in histograms.tolist())
    )
