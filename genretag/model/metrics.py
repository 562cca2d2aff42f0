"""Metrics of multi-label predictions, and the null model, which predicts the labels' prevalence for every poster.

If scikit-learn has a metric, scikit-learn computes it. Metrics that are means over posters have a function that returns
a value for each poster. `genretag.model.bootstrap` takes the mean of these values over any draw of posters.

On a small sample, average precision and calibration error are too large on average. For values without this bias, use
`population_average_precision` and `without_folding`. They need at least a few hundred posters. `docs/evaluation.md` has
the derivation, the sources, and a simulation that compares them with other methods.

Unless a function says otherwise, `truth` is uint8 (N, L) and `probabilities` is float (N, L), for N posters and L
labels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from genretag.model.thresholds import DEFAULT_PROFILE, Profile, most_probable


def population_average_precisions(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Estimate each label's average precision in the population: uint8 (N, L), float (N, L) -> float64 (L,).

    `population_average_precision` explains the estimate. The result is NaN for a label without positives.
    """
    return np.array([population_average_precision(truth[:, i], scores[:, i]) for i in range(truth.shape[1])])


def population_average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Estimate one label's average precision in the population that the posters are a sample of. Return 0 to 1.

    `truth` is uint8 (N,) and `scores` is float (N,). Average precision is the mean of a precision over the positives.
    The precision at a positive is the share of positives among the posters with that score or a higher score.

    The estimate removes two biases. First, a positive counts itself in its own precision, which is then too large. Here
    the precision counts only the *other* posters (leave one out, as in a U-statistic; Hoeffding 1948). Second, the mean
    is a ratio: a sum over the positives, divided by their number, which is random. Such a ratio is too small here,
    because samples with more positives have higher precisions. The ratio's first-order bias is added back (Cochran
    1977, chapter 6).

    Returns NaN without positives, and 1 for a single poster that is positive.
    """
    order = np.argsort(-scores, kind="stable")
    true, ordered = truth[order].astype(np.float64), scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # last of each place; equal scores share it
    place = np.searchsorted(ends, np.flatnonzero(true))  # the place of each positive
    positives = len(place)
    if positives == 0:
        return float("nan")
    if len(true) == 1:
        return 1.0
    seen, hits = (ends + 1.0), np.cumsum(true)[ends]
    alone = seen[place] == 1  # the first poster has no others at its score or above: use the next place
    place = place + alone
    shares = (hits[place] - 1) / (seen[place] - 1)
    ratio = (shares * (1 - shares)).mean() * (1 - positives / len(true)) / positives
    return float(min(shares.mean() + ratio, 1.0))


def without_folding(gaps: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Return |gap| minus the bias that noise gives to the absolute value of a gap. The result may be below 0.

    `gaps` are mean differences of probability and truth. `deviations` are the standard errors of these means. Both are
    float64, of shapes that broadcast. The expected |gap| is the mean of a folded normal distribution (Leone, Nelson and
    Nottingham 1961). Bröcker (2012) and Roelofs et al. (2022) correct calibration errors in this way.
    """
    from scipy.special import ndtr

    size, noise = np.abs(gaps), np.maximum(deviations, 1e-300)
    ratio = np.minimum(size / noise, 40.0)  # above 40, folding has no effect
    folded = noise * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + size * (1 - 2 * ndtr(-ratio))
    return np.asarray(2 * size - folded)


CLIP = 1e-7  # keeps the logarithm of a probability of exactly 0 or 1 finite, as Keras does
FREQUENT = 10  # a label with at least this number of positives counts as frequent
ECE_BINS = 15  # of equal width, over all pairs of poster and label (Guo et al. 2017)
LOWER_IS_BETTER = frozenset(("ranking_loss", "coverage_error", "bce", "ece"))


def figures(truth: np.ndarray, probabilities: np.ndarray, profiles: Mapping[str, Profile]) -> dict[str, float]:
    """Compute every metric. Return metric name -> value.

    `truth` is uint8 (N, L) and `probabilities` is float (N, L), with N at least 1. `profiles` maps names to profiles (a
    threshold for each label). Metrics that depend on thresholds have an entry for each profile. The entry's name ends
    with the profile's name, such as `micro_f1:balanced`. Means of average precisions and ROC areas leave out labels
    without positives. The mean of ROC areas also leaves out labels without negatives.
    """
    from sklearn.metrics import average_precision_score, coverage_error, label_ranking_loss

    found = {
        "macro_map": macro_map(truth, probabilities),
        "macro_map_frequent": macro_map_frequent(truth, probabilities),
        "micro_ap": float(average_precision_score(truth.ravel(), probabilities.ravel())),
        "macro_roc_auc": macro_roc_auc(truth, probabilities),
        "hit_at_1": hit_at(1, truth, probabilities),
        "hit_at_3": hit_at(3, truth, probabilities),
        "ranking_loss": float(label_ranking_loss(truth, probabilities)),
        "coverage_error": float(coverage_error(truth, probabilities)),
        "bce": binary_cross_entropy(truth, probabilities),
        "ece": expected_calibration_error(truth, probabilities),
    }
    for name, profile in profiles.items():
        predicted = profile.predicted(probabilities)
        micro_f1, macro_f1 = f1_scores(truth, predicted)
        found |= {f"micro_f1:{name}": micro_f1, f"macro_f1:{name}": macro_f1}
        found[f"labels:{name}"] = float(predicted.sum(axis=1).mean())
    return found


def summary(truth: np.ndarray, probabilities: np.ndarray, profile: Profile) -> dict[str, Any]:
    """Return the metrics that a bundle stores: metric name -> rounded value, and `posters`, the number of posters.

    `truth` is uint8 (N, L) and `probabilities` is float (N, L). `profile` has the threshold of each label. Its name is
    not part of metric names such as `micro_f1`. Metrics that are not finite are left out.
    """
    found = figures(truth, probabilities, {DEFAULT_PROFILE: profile})
    known = {name.partition(":")[0]: round(value, 4) for name, value in found.items() if np.isfinite(value)}
    return {"posters": len(truth)} | known


def average_precisions(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the average precision of each label: uint8 (N, L), float (N, L) -> float (L,), NaN without positives."""
    from sklearn.metrics import average_precision_score

    return np.array(
        [
            average_precision_score(truth[:, label], probabilities[:, label]) if truth[:, label].any() else np.nan
            for label in range(truth.shape[1])
        ]
    )


def macro_map(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean average precision over the labels with positives; 0 if no label has positives."""
    precisions = average_precisions(truth, probabilities)
    return float(np.nanmean(precisions)) if np.isfinite(precisions).any() else 0.0


def macro_map_frequent(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean average precision of the labels with at least `FREQUENT` positives; NaN if there is none."""
    columns = truth.sum(axis=0) >= FREQUENT
    return macro_map(truth[:, columns], probabilities[:, columns]) if columns.any() else float("nan")


def macro_roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean ROC AUC over labels that have both positives and negatives; NaN if there is none."""
    from sklearn.metrics import roc_auc_score

    columns = [label for label in range(truth.shape[1]) if 0 < truth[:, label].sum() < len(truth)]
    areas = [roc_auc_score(truth[:, label], probabilities[:, label]) for label in columns]
    return float(np.mean(areas)) if areas else float("nan")


def binary_cross_entropy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean cross-entropy over posters and labels, in nats."""
    return float(cross_entropies(truth, probabilities).mean())


def cross_entropies(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return each poster's mean cross-entropy over the labels, in nats: float64 (N,)."""
    p = np.clip(probabilities.astype(np.float64), CLIP, 1 - CLIP)
    return -np.where(truth.astype(bool), np.log(p), np.log(1 - p)).mean(axis=1)


def hit_at(k: int, truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the share of posters that have at least one true label among their k most probable labels."""
    return float(hits_at(k, truth, probabilities).mean())


def hits_at(k: int, truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return whether each poster has a true label among its k most probable labels: bool (N,)."""
    return np.take_along_axis(truth, most_probable(k, probabilities), axis=1).max(axis=1) > 0


def ranking_losses(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return each poster's share of wrongly ordered pairs of a true and a false label: float64 (N,).

    A pair is wrongly ordered if the false label is at least as probable as the true one. As in scikit-learn, the result
    is 0 for a poster without true or without false labels. scikit-learn itself returns only the mean over posters.
    """
    true = truth.astype(bool)
    pairs = true.sum(axis=1) * (~true).sum(axis=1)
    wrong = np.zeros(len(truth))
    for label in range(truth.shape[1]):
        below = (true & (probabilities <= probabilities[:, label, np.newaxis])).sum(axis=1)
        wrong += np.where(true[:, label], 0, below)
    return wrong / np.maximum(pairs, 1)


def coverages(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return, for each poster, the number of labels at least as probable as its least probable true label.

    The result is float64 (N,), and 0 for a poster without true labels. The least probable true label counts too.
    """
    least = np.where(truth.astype(bool), probabilities, np.inf).min(axis=1, keepdims=True)
    return (probabilities >= least).sum(axis=1).astype(np.float64)


def expected_calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the expected calibration error (ECE) over `ECE_BINS` bins of probability.

    The bins have equal width, and hold all pairs of poster and label. A bin's gap is |mean probability - share of true
    labels|. The result is the mean gap, weighted by the number of pairs.
    """
    return float(np.abs(calibration_gaps(truth, probabilities).sum(axis=0)).sum() / truth.size)


def calibration_gaps(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return, for each poster, the sum of probability minus truth over its labels in each bin: float64 (N, ECE_BINS).

    The bins divide the probabilities from 0 to 1 into `ECE_BINS` parts of equal width.
    """
    p = probabilities.astype(np.float64)
    bins = np.minimum((p * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    places = bins + ECE_BINS * np.arange(len(p))[:, np.newaxis]
    added = np.bincount(places.ravel(), weights=(p - truth).ravel(), minlength=ECE_BINS * len(p))
    return added.reshape(len(p), ECE_BINS)


def f1_scores(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Return the micro F1 and the macro F1 of predicted labels. `truth` and `predicted` are uint8 or bool (N, L).

    The macro F1 is the mean over all labels. A label without a correct prediction counts as 0.
    """
    from sklearn.metrics import f1_score

    micro, macro = (f1_score(truth, predicted, average=how, zero_division=0) for how in ("micro", "macro"))
    return float(micro), float(macro)


def null_probabilities(prevalence: np.ndarray, posters: int) -> np.ndarray:
    """Return the predictions of the null model: the prevalence of each label, for every poster. float32 (N, L).

    `prevalence` is each label's share of the training posters, float (L,). `posters` is N.
    """
    return np.tile(np.asarray(prevalence, dtype=np.float32), (posters, 1))
