"""All figures of thousands of draws of posters at once, from sums over posters that are made once.

A draw with replacement is a weight for each poster: how often it was drawn. So every figure is computed with weights,
for many draws in one array: what is a mean over posters is a product of matrices, and what goes down a ranking
(average precision, area under the ROC curve) is a cumulative sum over an order that never changes. With all weights 1
the figures are those of `genretag.modeling.metrics`, which come from scikit-learn; only the calibration error is
corrected for its bias in every draw, as its spread is too small otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from genretag.evaluation.estimates import without_folding
from genretag.modeling.metrics import FREQUENT, calibration_gaps, coverages, cross_entropies, hits_at, ranking_losses
from genretag.profiles import Profile

LABEL_APS = "label_aps"  # the name of the labels' average precisions among the figures
CALIBRATED = "ece_if_calibrated"  # what the calibration error would be if no probability were wrong
IMAGINED = "imagined:"  # before the name of a figure whose draws also have what posters that were not seen may change
IMAGINED_POSTERS = 0.25  # of each label, in draws for intervals of macro F1
CHUNK_ELEMENTS = 2**20  # pairs of poster and label times draws that are in work together: they should fit in a cache


def draws(posters: int, resamples: int, seed: int, chunk: int) -> Iterator[np.ndarray]:
    """Yields how often each poster is drawn in each of `resamples` draws with replacement, float64 (N, <= chunk)."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        yield np.stack(
            [np.bincount(generator.integers(0, posters, posters), minlength=posters) for _ in range(count)], axis=1
        ).astype(np.float64)


class Ranking:
    """One ranking of scores, best first, and which of them are true; equal scores share a place."""

    def __init__(self, truth: np.ndarray, scores: np.ndarray, posters: np.ndarray | None = None) -> None:
        """`truth` and `scores` are (M,); `posters` int64 (M,) says whose each one is, 0 to M - 1 when not given."""
        order = np.argsort(-scores, kind="stable")
        ordered, true = scores[order], np.flatnonzero(truth[order])
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # the last of each place
        places = np.searchsorted(ends, true)
        self._last = np.flatnonzero(np.append(places[1:] != places[:-1], len(places) > 0))  # positive of its place
        places = places[self._last]  # those that hold a positive
        self._ends, self._starts = ends[places], np.append(0, ends + 1)[places]
        self._posters = order if posters is None else posters[order]
        self._positives, self._true = self._posters[true], true

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """float64 (posters, B) -> (B,), NaN where no positive has weight."""
        return self.precision_and_area(weights)[0]

    def precision_and_area(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision, and the area under the ROC curve by trapezoids: float64 (posters, B) -> (B,) both.

        Both are NaN where no positive has weight, the area also where no negative has.
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
        """The share of negatives below each positive, float64 (positives,); their mean is the area, but for ties."""
        negatives = len(self._posters) - len(self._true)
        return 1 - (self._true - np.arange(len(self._true))) / max(negatives, 1)


class Resampler:
    """What a bundle said of posters, prepared to be measured on any draw of them."""

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray, profiles: Mapping[str, Profile]) -> None:
        """`truth` uint8 (N, L), `probabilities` float (N, L)."""
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
        self._undrawn = self._of_labels(every)  # stands in for a label that a draw has no positives of
        self._unseen = _unseen([ranking.negatives_below() for ranking in self._labels])
        self._overlaps = {name: _pooled_overlap(*self._counts(p, every)) for name, p in self._predicted.items()}

    def bootstrap(
        self, resamples: int, seed: int, progress: Callable[[int], None] = lambda _draws: None
    ) -> dict[str, np.ndarray]:
        """Each figure in each draw, float64 (resamples,), and `LABEL_APS`, float64 (resamples, L).

        The same seed draws the same posters, so two bundles' figures may be subtracted draw by draw. Two kinds of
        draws are for intervals only: `CALIBRATED`, and `IMAGINED` with the name of a mean over labels.
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
        """The figures of the posters as they are, each drawn once."""
        return self.figures(np.ones((self._shape[0], 1)))

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each figure with the weights float64 (N, B) -> float64 (B,), and `LABEL_APS`, float64 (B, L).

        A label without positives in a draw, NaN in `LABEL_APS`, counts in means with its figure of all posters.
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
        """Average precisions and areas, float64 (B, L) both."""
        both = [ranking.precision_and_area(weights) for ranking in self._labels]
        precisions, areas = (np.stack(values, axis=1) for values in zip(*both, strict=True))
        return precisions, areas

    def _mean_gaps(self, weights: np.ndarray) -> np.ndarray:
        """Probability less truth by bin of probability, as a share of all pairs: float64 (bins, B)."""
        return self._gaps.T @ weights / weights.sum(axis=0)

    def _if_calibrated(self, weights: np.ndarray) -> np.ndarray:
        """Calibration errors that chance alone would give, of gaps that are moved to 0 on average: float64 (B,)."""
        return np.abs(self._mean_gaps(weights) - self._gaps.mean(axis=0)[:, np.newaxis]).sum(axis=0)

    def _counts(self, predicted: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How often each label is predicted and true, and how often either, both times counted: float64 (L, B)."""
        return (predicted * self._truth).T @ weights, (predicted + self._truth).T @ weights

    def _imagined(self, weights: np.ndarray, chances: np.ndarray) -> dict[str, np.ndarray]:
        """Macro F1 with a quarter of a poster more per label, found or not by `chances`, float64 (L, B) from 0 to 1.

        A draw can only repeat what was found. A label that was predicted twice and never right would have F1 0 in
        every draw, as if that were certain. How often the imagined poster is found is what all labels together say.
        """
        found = {}
        for name, predicted in self._predicted.items():
            hits, either = self._counts(predicted, weights)
            more = np.where(chances < self._overlaps[name], IMAGINED_POSTERS, 0.0)
            found[f"{IMAGINED}macro_f1:{name}"] = _f1(hits + more, either + IMAGINED_POSTERS + more).mean(axis=0)
        return found


def _filled(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, others)


def _f1(hits: np.ndarray, either: np.ndarray) -> np.ndarray:
    return 2 * hits / np.maximum(either, 1.0)


def _unseen(shares: Sequence[np.ndarray]) -> float:
    """The standard deviation of the mean area that draws miss, as they repeat the positives that a label has.

    Of a label with P positives they show (P - 1) / P of the variance, with one positive none of it. What lacks is told
    from the spread of all labels together. `shares` has the negatives below each positive, by label.
    """
    some = [each for each in shares if len(each)]
    freedom = sum(len(each) - 1 for each in some)
    if not freedom:
        return 0.0
    variance = sum(float(((each - each.mean()) ** 2).sum()) for each in some) / freedom
    return float(np.sqrt(variance * sum(1 / len(each) ** 2 for each in some)) / len(some))


def _pooled_overlap(hits: np.ndarray, either: np.ndarray) -> float:
    """The Jaccard index over all labels: how often predicted and true, of the times that it is either."""
    return float(hits.sum() / max(either.sum() - hits.sum(), 1.0))


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over the labels, of those that are not NaN; NaN where all are: float64 (B, L) -> (B,)."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
