"""All figures of thousands of draws of posters at once, from sums over posters that are made once.

A draw with replacement is a weight for each poster: how often it was drawn. So every figure is computed with weights,
for many draws in one array: what is a mean over posters is a product of matrices, and what goes down a ranking
(average precision, area under the ROC curve) is a cumulative sum over an order that never changes. With all weights 1
the figures are those of `genretag.modeling.metrics`, which come from scikit-learn.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from genretag.modeling.metrics import calibration_gaps, coverages, cross_entropies, hits_at, ranking_losses
from genretag.profiles import Profile

LABEL_APS = "label_aps"  # the name of the labels' average precisions among the figures
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
        ordered = scores[order]
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # the last of each place
        self._posters = order if posters is None else posters[order]
        self._truth = truth[order].astype(np.float64)[:, np.newaxis]

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """float64 (posters, B) -> (B,), NaN where no positive has weight."""
        hits, seen = self._down_to_each_place(weights)
        gained = np.diff(hits, axis=0, prepend=0.0)
        with np.errstate(invalid="ignore"):
            return (gained * hits / np.maximum(seen, 1.0)).sum(axis=0) / hits[-1]

    def roc_auc(self, weights: np.ndarray) -> np.ndarray:
        """float64 (posters, B) -> (B,), NaN where positives or negatives have no weight: the trapezoids' area."""
        hits, seen = self._down_to_each_place(weights)
        false = seen - hits
        higher = hits - np.diff(hits, axis=0, prepend=0.0) / 2
        with np.errstate(invalid="ignore"):
            return (np.diff(false, axis=0, prepend=0.0) * higher).sum(axis=0) / (hits[-1] * false[-1])

    def _down_to_each_place(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many positives, and how many at all, stand at each place or above: float64 (places, B) both."""
        drawn = weights[self._posters]
        seen = np.cumsum(drawn, axis=0)[self._ends]
        return np.cumsum(drawn * self._truth, axis=0)[self._ends], seen


class Resampler:
    """What a bundle said of posters, prepared to be measured on any draw of them."""

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray, profiles: Mapping[str, Profile]) -> None:
        """`truth` uint8 (N, L), `probabilities` float (N, L)."""
        self._shape = truth.shape
        self._labels = [Ranking(truth[:, label], probabilities[:, label]) for label in range(truth.shape[1])]
        self._pairs = Ranking(truth.ravel(), probabilities.ravel(), np.arange(len(truth)).repeat(truth.shape[1]))
        self._truth = truth.astype(np.float64)
        self._gaps = calibration_gaps(truth, probabilities)
        self._predicted = {name: p.predicted(probabilities).astype(np.float64) for name, p in profiles.items()}
        self._of_posters = {
            "hit_at_1": hits_at(1, truth, probabilities).astype(np.float64),
            "hit_at_3": hits_at(3, truth, probabilities).astype(np.float64),
            "ranking_loss": ranking_losses(truth, probabilities),
            "coverage_error": coverages(truth, probabilities),
            "bce": cross_entropies(truth, probabilities),
        }

    def bootstrap(
        self, resamples: int, seed: int, progress: Callable[[int], None] = lambda _draws: None
    ) -> dict[str, np.ndarray]:
        """Each figure in each draw, float64 (resamples,), and `LABEL_APS`, float64 (resamples, L).

        The same seed draws the same posters, so two bundles' figures may be subtracted draw by draw.
        """
        posters, labels = self._shape
        chunk = min(max(CHUNK_ELEMENTS // (posters * labels), 1), resamples)
        chunks = []
        for weights in draws(posters, resamples, seed, chunk):
            chunks.append(self.figures(weights))
            progress(weights.shape[1])
        return {name: np.concatenate([figures[name] for figures in chunks]) for name in chunks[0]}

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each figure with the weights float64 (N, B) -> float64 (B,), and `LABEL_APS`, float64 (B, L)."""
        total = weights.sum(axis=0)
        precisions = np.stack([ranking.average_precision(weights) for ranking in self._labels], axis=1)
        areas = np.stack([ranking.roc_auc(weights) for ranking in self._labels], axis=1)
        found = {
            "macro_map": np.nan_to_num(_mean_of_known(precisions)),
            "micro_ap": self._pairs.average_precision(weights),
            "macro_roc_auc": _mean_of_known(areas),
            **{name: values @ weights / total for name, values in self._of_posters.items()},
            "ece": np.abs(self._gaps.T @ weights).sum(axis=0) / (total * self._shape[1]),
        }
        for name, predicted in self._predicted.items():
            found |= self._of_profile(name, predicted, weights)
        return {**found, LABEL_APS: precisions}

    def _of_profile(self, name: str, predicted: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        hits = (predicted * self._truth).T @ weights  # (L, B), as the others
        said = predicted.T @ weights
        either = said + self._truth.T @ weights
        return {
            f"micro_f1:{name}": 2 * hits.sum(axis=0) / np.maximum(either.sum(axis=0), 1.0),
            f"macro_f1:{name}": (2 * hits / np.maximum(either, 1.0)).mean(axis=0),
            f"labels:{name}": said.sum(axis=0) / weights.sum(axis=0),
        }


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over the labels, of those that are not NaN; NaN where all are: float64 (B, L) -> (B,)."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
