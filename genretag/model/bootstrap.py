"""Bootstrap: every figure for thousands of draws of posters at once, from per-poster values that are computed once.

A draw with replacement gives each poster a weight: how often it was drawn. So every figure is computed with weights,
for many draws in one array. A mean over posters is a product of matrices. A figure that goes down a ranking (average
precision, area under the ROC curve) is a cumulative sum over an order that never changes.

With all weights 1, the figures equal those of `genretag.model.metrics`, which come from scikit-learn. Only the
calibration error is corrected for its bias in every draw, because its spread would otherwise be too small.

In shapes, N is the number of posters, L of labels and B of draws.
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

LABEL_APS = "label_aps"  # name of the labels' average precisions among the figures
CALIBRATED = "ece_if_calibrated"  # the calibration error if no probability were wrong
IMAGINED = "imagined:"  # prefix of figures whose draws also include the effect of posters that were not seen
IMAGINED_POSTERS = 0.25  # imagined posters per label, in draws for intervals of macro F1
CHUNK_ELEMENTS = 2**20  # pairs of poster and label times draws, computed together: they should fit in a cache


def draws(posters: int, resamples: int, seed: int, chunk: int) -> Iterator[np.ndarray]:
    """Yield how often each poster is drawn in bootstrap draws: float64 (posters, at most `chunk`), one column per draw.

    A draw takes `posters` posters with replacement. All pieces together have `resamples` columns. The same seed gives
    the same draws.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        yield np.stack(
            [np.bincount(generator.integers(0, posters, posters), minlength=posters) for _ in range(count)], axis=1
        ).astype(np.float64)


class Ranking:
    """Ranking of scores, best first, with the truth of each score; equal scores share a place.

    The scores are sorted once. Figures can then be computed for many bootstrap draws at once.
    """

    def __init__(self, truth: np.ndarray, scores: np.ndarray, posters: np.ndarray | None = None) -> None:
        """Sort M scores: `truth`, uint8 (M,), is 1 for a positive, and `scores` are float (M,).

        `posters`, int64 (M,), is the index of the poster that each score belongs to. None means that score i belongs to
        poster i.
        """
        order = np.argsort(-scores, kind="stable")
        ordered, true = scores[order], np.flatnonzero(truth[order])
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # the last score of each place
        places = np.searchsorted(ends, true)
        self._last = np.flatnonzero(np.append(places[1:] != places[:-1], len(places) > 0))  # last positive of a place
        places = places[self._last]  # places that hold a positive
        self._ends, self._starts = ends[places], np.append(0, ends + 1)[places]
        self._posters = order if posters is None else posters[order]
        self._positives, self._true = self._posters[true], true

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Return the average precision in each of B draws: weights float64 (posters, B) -> (B,).

        A weight says how often a draw has a poster. The result is NaN for a draw in which no positive has weight.
        """
        return self.precision_and_area(weights)[0]

    def precision_and_area(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return average precision and area under the ROC curve in each of B draws: weights (posters, B) -> (B,) each.

        A weight says how often a draw has a poster, as float64. The area is computed by trapezoids. In a draw without
        positives, both are NaN. Without negatives, the area is NaN.
        """
        if not len(self._last):
            return np.full(weights.shape[1], np.nan), np.full(weights.shape[1], np.nan)
        seen = weights[self._posters]
        np.cumsum(seen, axis=0, out=seen)
        hits = np.cumsum(weights[self._positives], axis=0)[self._last]
        gained = np.diff(hits, axis=0, prepend=0.0)
        here, above = seen[self._ends], np.where(self._starts[:, np.newaxis] > 0, seen[self._starts - 1], 0.0)
        false = seen[-1] - hits[-1]
        beaten = false - (here - hits + above - (hits - gained)) / 2  # negatives with lower scores, and half the equal
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
    """Figures of one model on N labelled posters, prepared so that many bootstrap draws are measured at once."""

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray, profiles: Mapping[str, Profile]) -> None:
        """Prepare the figures from `truth`, uint8 (N, L), and `probabilities`, float (N, L).

        `profiles` has the threshold profiles to measure, by name.
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
        self._undrawn = self._of_labels(every)  # stands in for a label without positives in a draw
        self._unseen = _unseen([ranking.negatives_below() for ranking in self._labels])
        self._overlaps = {name: _pooled_overlap(*self._counts(p, every)) for name, p in self._predicted.items()}

    def bootstrap(
        self, resamples: int, seed: int, progress: Callable[[int], None] = lambda _draws: None
    ) -> dict[str, np.ndarray]:
        """Compute every figure in `resamples` bootstrap draws: by the figure's name, float64 (resamples,).

        `LABEL_APS` is float64 (resamples, L). The same seed draws the same posters. So two bundles' figures on the same
        posters may be subtracted draw by draw. Two kinds of entries serve only for intervals: `CALIBRATED`, and names
        that begin with `IMAGINED`. After each chunk of draws, `progress` is called with the number of draws in it.
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
        """Return the figures of all posters without resampling, by name: float64 (1,), and `LABEL_APS` as (1, L)."""
        return self.figures(np.ones((self._shape[0], 1)))

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Compute every figure in B draws: weights float64 (N, B) -> float64 (B,) by the figure's name.

        A weight says how often a draw has a poster. `LABEL_APS` is float64 (B, L). If a draw has no positives of a
        label, `LABEL_APS` has NaN there. Means over labels then use the label's figure over all posters.
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
        """Return each label's average precision and ROC area in each draw: weights (N, B) -> float64 (B, L) both."""
        both = [ranking.precision_and_area(weights) for ranking in self._labels]
        precisions, areas = (np.stack(values, axis=1) for values in zip(*both, strict=True))
        return precisions, areas

    def _mean_gaps(self, weights: np.ndarray) -> np.ndarray:
        """Return the sum of probability minus truth in each bin of probability, divided by the number of all pairs.

        Pairs are those of poster and label: weights float64 (N, B) -> float64 (bins, B).
        """
        return self._gaps.T @ weights / weights.sum(axis=0)

    def _if_calibrated(self, weights: np.ndarray) -> np.ndarray:
        """Return the calibration error that chance alone would give in each draw: weights (N, B) -> float64 (B,).

        Each bin's gap is shifted by its gap over all posters, so that it is 0 on average.
        """
        return np.abs(self._mean_gaps(weights) - self._gaps.mean(axis=0)[:, np.newaxis]).sum(axis=0)

    def _counts(self, predicted: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each label's true positives, and the sum of its predictions and positives: float64 (L, B) each.

        `predicted` is float64 (N, L) of 0 and 1. `weights`, float64 (N, B), say how often a draw has a poster.
        """
        return (predicted * self._truth).T @ weights, (predicted + self._truth).T @ weights

    def _imagined(self, weights: np.ndarray, chances: np.ndarray) -> dict[str, np.ndarray]:
        """Return each profile's macro F1 with a quarter of an imagined poster added to every label: float64 (B,).

        A draw can only repeat what the sample has. A label that was predicted twice and never right would have F1 0 in
        every draw, as if that were certain. `chances`, uniform float64 (L, B) between 0 and 1, decide whether the
        imagined poster is a hit. The probability of a hit is the Jaccard index over all labels. Names begin with
        `IMAGINED`.
        """
        found = {}
        for name, predicted in self._predicted.items():
            hits, either = self._counts(predicted, weights)
            more = np.where(chances < self._overlaps[name], IMAGINED_POSTERS, 0.0)
            found[f"{IMAGINED}macro_f1:{name}"] = _f1(hits + more, either + IMAGINED_POSTERS + more).mean(axis=0)
        return found


def _filled(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return `values` with those of `others` in place of values that are NaN or infinite."""
    return np.where(np.isfinite(values), values, others)


def _f1(hits: np.ndarray, either: np.ndarray) -> np.ndarray:
    """Return F1 from the counts of `Resampler._counts`, in their shape; 0 if a label is neither predicted nor true."""
    return 2 * hits / np.maximum(either, 1.0)


def _unseen(shares: Sequence[np.ndarray]) -> float:
    """Return the standard deviation of the mean ROC area that draws miss, because they repeat a label's few positives.

    `shares` has, for each label, the result of `Ranking.negatives_below`. For a label with P positives, draws show (P -
    1) / P of the variance; with one positive, none of it. The missing part is estimated from the spread of all labels
    together. If no label has two positives, return 0.
    """
    some = [each for each in shares if len(each)]
    freedom = sum(len(each) - 1 for each in some)
    if not freedom:
        return 0.0
    variance = sum(float(((each - each.mean()) ** 2).sum()) for each in some) / freedom
    return float(np.sqrt(variance * sum(1 / len(each) ** 2 for each in some)) / len(some))


def _pooled_overlap(hits: np.ndarray, either: np.ndarray) -> float:
    """Return the Jaccard index over all labels: the hits, divided by the pairs that are predicted or true.

    `hits` and `either` are the counts of `Resampler._counts`.
    """
    return float(hits.sum() / max(either.sum() - hits.sum(), 1.0))


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean over labels, without labels that are NaN; NaN if all are NaN: float64 (B, L) -> (B,)."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
