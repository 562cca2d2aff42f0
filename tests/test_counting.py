"""Write tasks count their rows by label and probability, and the counts add up in the run record."""

import pyarrow as pa

from genretag.output.run_record import BINS, PredictionCounts, count_predictions, sum_counts


def a_table(drama, western):
    """Return a table of predictions with two labels, both with the threshold .5."""
    columns = {"drama": drama, "western": western}
    return pa.table(
        {f"is_{name}": [p >= 0.5 for p in column] for name, column in columns.items()}
        | {f"p_{name}": pa.array(column, pa.float32()) for name, column in columns.items()}
    )


def test_posters_are_counted_by_label_and_probabilities_by_bin():
    counts = count_predictions(a_table([0.9, 0.61, 0.02], [0.51, 0.0, 1.0]), ("Drama", "Western"))

    assert (counts.posters, counts.without_label) == ((2, 2), 0)
    drama, western = counts.histograms
    assert [at for at, count in enumerate(drama) if count] == [0, 12, 18]
    assert [at for at, count in enumerate(western) if count] == [0, 10, BINS - 1]


def test_a_poster_with_no_label_is_counted_as_such():
    assert count_predictions(a_table([0.1, 0.9], [0.2, 0.1]), ("Drama", "Western")).without_label == 1


def test_counts_of_several_tasks_add_up():
    ones, zeros = (1,) * BINS, (0,) * BINS

    assert sum_counts(
        [PredictionCounts((1, 2), 3, (ones, zeros)), PredictionCounts((0, 5), 1, (ones, ones))], 2
    ) == PredictionCounts((1, 7), 4, ((2,) * BINS, ones))
    assert sum_counts([], 2) == PredictionCounts((0, 0), 0, (zeros, zeros))
