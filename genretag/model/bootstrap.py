"""Bootstrap: compute every metric for thousands of bootstrap draws of posters at once.

A draw takes N of the N posters with replacement. It is stored as a weight for each poster: how often the draw has the
poster. Metrics are computed from these weights, for many draws in one array. A metric that is a mean over posters is a
matrix product of weights and per-poster values, which are computed only once. A metric that depends on a ranking
(average precision, area under the ROC curve) is a cumulative sum of weights. The order of the sum is the same for all
draws.

If all weights are 1, the metrics equal those of `genretag.model.metrics`, most of which scikit-learn computes. The
exception is the calibration error. Here every draw corrects the bias of the calibration error, because the uncorrected
errors differ too little from draw to draw.

In shapes, N is the number of posters, L the number of labels, and B the number of draws.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from genretag.model.metrics import (
    FREQUENT,
    calibration_gaps,
    coverages,
    cross_entropies,
    hits_at,
    ranking_losses,
    without_folding,
)
from genretag.model.thresholds import Profile

LABEL_APS = "label_aps"  # the key, in results, of the average precision of each label
CALIBRATED = "ece_if_calibrated"  # the key of the calibration error that a calibrated model would have by chance
IMAGINED = "imagined:"  # prefix of keys of metrics with added spread, for posters that the sample cannot show
IMAGINED_POSTERS = 0.25  # imagined posters added to each label, in draws for intervals of macro F1
CHUNK_ELEMENTS = 2**20  # largest posters x labels x draws that are computed at once, to fit in the CPU's cache


def draws(posters: int, resamples: int, seed: int, chunk: int) -> Iterator[np.ndarray]:
    """Yield bootstrap draws in pieces: float64 (posters, at most `chunk`).

    Each column is one draw: the number of times that the draw has each poster. A draw takes `posters` posters with
    replacement. All pieces together have `resamples` draws. The same seed gives the same draws.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        yield np.stack(
            [np.bincount(generator.integers(0, posters, posters), minlength=posters) for _ in range(count)], axis=1
        ).astype(np.float64)


class Ranking:
    """Scores in order, highest first, with the truth (positive or negative) of each score. Equal scores share a place.

    The scores are sorted once. Metrics of the ranking can then be computed for many bootstrap draws at once.
    """

    def __init__(self, truth: np.ndarray, scores: np.ndarray, posters: np.ndarray | None = None) -> None:
        """Sort M scores, float (M,). `truth`, uint8 (M,), is 1 for a positive and 0 for a negative.

        `posters`, int64 (M,), is the index of the poster that each score belongs to. None means that score i belongs to
        poster i.
        """
        order = np.argsort(-scores, kind="stable")
        ordered, true = scores[order], np.flatnonzero(truth[order])
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # index of each place's last score
        places = np.searchsorted(ends, true)
        self._last = np.flatnonzero(np.append(places[1:] != places[:-1], len(places) > 0))  # each place's last positive
        places = places[self._last]  # only the places that have a positive
        self._ends, self._starts = ends[places], np.append(0, ends + 1)[places]
        self._posters = order if posters is None else posters[order]
        self._positives, self._true = self._posters[true], true

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Return the average precision in each of B draws: `weights` float64 (posters, B) -> (B,).

        A weight is the number of times that a draw has a poster. The result is NaN for a draw without positives.
        """
        return self.precision_and_area(weights)[0]

    def precision_and_area(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the average precision and the area under the ROC curve in each of B draws, both float64 (B,).

        `weights` is float64 (posters, B): the number of times that a draw has a poster. The area is computed by
        trapezoids, so pairs of equal scores count one half. In a draw without positives, both results are NaN. In a
        draw without negatives, only the area is NaN.
        """
        if not len(self._last):
            return np.full(weights.shape[1], np.nan), np.full(weights.shape[1], np.nan)
        seen = weights[self._posters]
        np.cumsum(seen, axis=0, out=seen)
        hits = np.cumsum(weights[self._positives], axis=0)[self._last]
        gained = np.diff(hits, axis=0, prepend=0.0)
        here, above = seen[self._ends], np.where(self._starts[:, np.newaxis] > 0, seen[self._starts - 1], 0.0)
        false = seen[-1] - hits[-1]
        beaten = false - (here - hits + above - (hits - gained)) / 2  # negatives below, and half of the equal ones
        with np.errstate(invalid="ignore"):
            precision = (gained * hits / np.maximum(here, 1.0)).sum(axis=0) / hits[-1]
            return precision, (gained * beaten).sum(axis=0) / (hits[-1] * false)

    def negatives_below(self) -> np.ndarray:
        """Return, for each positive, the share of all negatives that rank below it: float64 (positives,).

        Without equal scores, the mean of these shares is the area under the ROC curve.
        """
        negatives = len(self._posters) - len(self._true)
        return 1 - (self._true - np.arange(len(self._true))) / max(negatives, 1)


class Resampler:
    """Metrics of one model on N labelled posters, computed for many bootstrap draws at once."""

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray, profiles: Mapping[str, Profile]) -> None:
        """Compute what all draws share, from `truth`, uint8 (N, L), and `probabilities`, float (N, L).

        `profiles` maps names to the threshold profiles (a threshold for each label) to measure.
        """
        self._shape = truth.shape
        self._labels = [Ranking(truth[:, label], probabilities[:, label]) for label in range(truth.shape[1])]
        self._pairs = Ranking(truth.ravel(), probabilities.ravel(), np.arange(len(truth)).repeat(truth.shape[1]))
        self._truth = truth.astype(np.float64)
        self._frequent = truth.sum(axis=0) >= FREQUENT
        self._gaps = calibration_gaps(truth, probabilities) / truth.shape[1]
        self.calibration_error = float(np.abs(self._gaps.mean(axis=0)).sum())
        self._predicted = {name: p.predicted(probabilities).astype(np.float64) for name, p in profiles.items()}
        self._of_posters = {
            "hit_at_1": hits_at(1, truth, probabilities).astype(np.float64),
            "hit_at_3": hits_at(3, truth, probabilities).astype(np.float64),
            "ranking_loss": ranking_losses(truth, probabilities),
            "coverage_error": coverages(truth, probabilities),
            "bce": cross_entropies(truth, probabilities),
        }

        every = np.ones((len(truth), 1))
        self._undrawn = self._of_labels(every)  # used for a label without positives in a draw
        self._unseen = _unseen([ranking.negatives_below() for ranking in self._labels])
        self._overlaps = {name: _pooled_overlap(*self._counts(p, every)) for name, p in self._predicted.items()}

    def bootstrap(
        self, resamples: int, seed: int, progress: Callable[[int], None] = lambda _draws: None
    ) -> dict[str, np.ndarray]:
        """Compute every metric in `resamples` bootstrap draws. Return metric name -> float64 (resamples,).

        The entry `LABEL_APS`, the average precision of each label, is float64 (resamples, L). Two kinds of entries are
        for confidence intervals only: `CALIBRATED`, and names that begin with `IMAGINED`. The same seed draws the same
        posters. So the metrics of two models on the same posters may be subtracted draw by draw. After each chunk of
        draws, `progress` is called with the number of draws in the chunk.
        """
        posters, labels = self._shape
        chunk = min(max(CHUNK_ELEMENTS // (posters * labels), 1), resamples)
        chances = np.random.default_rng((seed, 1))
        chunks = []
        for weights in draws(posters, resamples, seed, chunk):
            found, count = self.figures(weights), weights.shape[1]
            imagined = self._imagined(weights, chances.random((count, labels)).T)
            imagined[f"{IMAGINED}macro_roc_auc"] = found["macro_roc_auc"] + chances.normal(0, self._unseen, count)
            chunks.append({**found, CALIBRATED: self._if_calibrated(weights), **imagined})
            progress(weights.shape[1])
        return {name: np.concatenate([figures[name] for figures in chunks]) for name in chunks[0]}

    def of_all(self) -> dict[str, np.ndarray]:
        """Return the metrics of all posters, without resampling: metric name -> float64 (1,).

        The entry `LABEL_APS`, the average precision of each label, is float64 (1, L).
        """
        return self.figures(np.ones((self._shape[0], 1)))

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Compute every metric in B draws: `weights` float64 (N, B) -> a dictionary from metric name to float64 (B,).

        A weight is the number of times that a draw has a poster. The entry `LABEL_APS`, the average precision of each
        label, is float64 (B, L). It is NaN if a draw has no positives of the label. For such a label, means over labels
        use the label's value on all posters.
        """
        total = weights.sum(axis=0)
        precisions, areas = self._of_labels(weights)
        filled = [_filled(*both) for both in zip((precisions, areas), self._undrawn, strict=True)]
        gaps, noise = self._mean_gaps(weights), self._gaps.std(axis=0) / np.sqrt(len(self._gaps))
        found = {
            "macro_map": np.nan_to_num(_mean_of_known(filled[0])),
            "macro_map_frequent": _mean_of_known(filled[0][:, self._frequent]),
            "micro_ap": self._pairs.average_precision(weights),
            "macro_roc_auc": _mean_of_known(filled[1]),
            **{name: values @ weights / total for name, values in self._of_posters.items()},
            "ece": without_folding(gaps, noise[:, np.newaxis]).sum(axis=0),
        }
        for name, predicted in self._predicted.items():
            hits, either = self._counts(predicted, weights)
            found[f"micro_f1:{name}"] = 2 * hits.sum(axis=0) / np.maximum(either.sum(axis=0), 1.0)
            found[f"macro_f1:{name}"] = _f1(hits, either).mean(axis=0)
            found[f"labels:{name}"] = predicted.sum(axis=1) @ weights / total
        return {**found, LABEL_APS: precisions}

    def _of_labels(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the average precision and the area under the ROC curve of each label in each draw.

        `weights`, float64 (N, B), is the number of times that a draw has a poster. Both results are float64 (B, L).
        """
        both = [ranking.precision_and_area(weights) for ranking in self._labels]
        precisions, areas = (np.stack(values, axis=1) for values in zip(*both, strict=True))
        return precisions, areas

    def _mean_gaps(self, weights: np.ndarray) -> np.ndarray:
        """Return the calibration gap of each bin of probability in each draw: float64 (bins, B).

        `weights`, float64 (N, B), is the number of times that a draw has a poster. A bin's gap is the sum of
        probability minus truth over the (poster, label) pairs in the bin, divided by the number of all pairs.
        """
        return self._gaps.T @ weights / weights.sum(axis=0)

    def _if_calibrated(self, weights: np.ndarray) -> np.ndarray:
        """Return the calibration error that a calibrated model would have by chance in each draw: float64 (B,).

        `weights`, float64 (N, B), is the number of times that a draw has a poster. A bin's gap is a mean of probability
        minus truth (see `_mean_gaps`). From the gap in the draw, the function subtracts the gap over all posters.
        So the mean over draws is 0, as for a calibrated model.
        """
        return np.abs(self._mean_gaps(weights) - self._gaps.mean(axis=0)[:, np.newaxis]).sum(axis=0)

    def _counts(self, predicted: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return two counts for each label in each draw, float64 (L, B) each.

        The first is the number of true positives. The second is the number of predictions plus the number of positives.

        `predicted` is float64 (N, L) of 0 and 1. `weights`, float64 (N, B), is the number of times that a draw has a
        poster.
        """
        return (predicted * self._truth).T @ weights, (predicted + self._truth).T @ weights

    def _imagined(self, weights: np.ndarray, chances: np.ndarray) -> dict[str, np.ndarray]:
        """Return the macro F1 of each threshold profile, with a quarter of an imagined poster added to every label.

        A draw only repeats posters of the sample. If no prediction of a label is right in the sample, the label's F1 is
        0 in every draw. The imagined posters make the draws differ.

        `weights`, float64 (N, B), is the number of times that a draw has a poster. `chances`, float64 (L, B), are
        random numbers from 0 to 1. They decide, for each label and draw, whether the imagined poster is a true positive
        or an error. The probability of a true positive is the Jaccard index over all labels. Keys of the result begin
        with `IMAGINED`. Values are float64 (B,).
        """
        found = {}
        for name, predicted in self._predicted.items():
            hits, either = self._counts(predicted, weights)
            more = np.where(chances < self._overlaps[name], IMAGINED_POSTERS, 0.0)
            found[f"{IMAGINED}macro_f1:{name}"] = _f1(hits + more, either + IMAGINED_POSTERS + more).mean(axis=0)
        return found


def _filled(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return `values` with NaN and infinite values replaced from `others`, which broadcasts to the same shape."""
    return np.where(np.isfinite(values), values, others)


def _f1(hits: np.ndarray, either: np.ndarray) -> np.ndarray:
    """Return the F1 of each label in each draw, float64 (L, B), from the two results of `Resampler._counts`.

    `hits` is the number of true positives, and `either` the number of predictions plus the number of positives. If a
    label has neither predictions nor positives, its F1 is 0.
    """
    return 2 * hits / np.maximum(either, 1.0)


def _unseen(shares: Sequence[np.ndarray]) -> float:
    """Return the noise that bootstrap draws of macro ROC AUC lack, as a standard deviation.

    A draw only repeats the P positives of a label. So the variance over draws is (P - 1) / P of the true variance, and
    0 if P is 1. The missing variance is estimated from the positives of all labels together.

    `shares` has the result of `Ranking.negatives_below` for each label. If no label has two positives, return 0.
    """
    some = [each for each in shares if len(each)]
    freedom = sum(len(each) - 1 for each in some)
    if not freedom:
        return 0.0
    variance = sum(float(((each - each.mean()) ** 2).sum()) for each in some) / freedom
    return float(np.sqrt(variance * sum(1 / len(each) ** 2 for each in some)) / len(some))


def _pooled_overlap(hits: np.ndarray, either: np.ndarray) -> float:
    """Return the Jaccard index over all labels.

    The index is the number of true positives, divided by the number of (poster, label) pairs that are predicted or
    true. If there are no such pairs, return 0. `hits` is the number of true positives, and `either` the number of
    predictions plus the number of positives (`Resampler._counts`).
    """
    return float(hits.sum() / max(either.sum() - hits.sum(), 1.0))


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean over labels: float64 (B, L) -> (B,). NaN values are left out. If all are NaN, the mean is NaN."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
