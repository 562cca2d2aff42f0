"""Figures of multi-label predictions, and of the null model that predicts the prior for every poster.

What scikit-learn has comes from there. Figures that are means over posters are computed poster by poster, so that
`genretag.evaluation.resampling` can take the mean over any draw of posters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from genretag.profiles import DEFAULT_PROFILE, Profile, most_probable

CLIP = 1e-7  # keeps the logarithm of a probability of exactly 0 or 1 finite, as Keras does
FREQUENT = 10  # positives from which a label counts in the macro mAP of frequent labels
ECE_BINS = 15  # of equal width, over all pairs of poster and label (Guo et al. 2017)
LOWER_IS_BETTER = frozenset(("ranking_loss", "coverage_error", "bce", "ece"))


def figures(truth: np.ndarray, probabilities: np.ndarray, profiles: Mapping[str, Profile]) -> dict[str, float]:
    """Every figure by its name; those of a profile are called `micro_f1:balanced` and the like.

    `truth` is uint8 (N, L), `probabilities` float (N, L), N at least 1. A label with no positives counts in no mean
    of average precisions or areas.
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
    """The figures that stand in a bundle, but for those without a value; `profile` decides the F1 scores."""
    found = figures(truth, probabilities, {DEFAULT_PROFILE: profile})
    known = {name.partition(":")[0]: round(value, 4) for name, value in found.items() if np.isfinite(value)}
    return {"posters": len(truth)} | known


def average_precisions(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Average precision per label: uint8 (N, L), float (N, L) -> float (L,), NaN for a label with no positives."""
    from sklearn.metrics import average_precision_score

    return np.array(
        [
            average_precision_score(truth[:, label], probabilities[:, label]) if truth[:, label].any() else np.nan
            for label in range(truth.shape[1])
        ]
    )


def macro_map(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of the labels' average precisions; labels with no positives are left out of the mean."""
    precisions = average_precisions(truth, probabilities)
    return float(np.nanmean(precisions)) if np.isfinite(precisions).any() else 0.0


def macro_map_frequent(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean average precision of the labels with at least `FREQUENT` positives; NaN if there is none."""
    columns = truth.sum(axis=0) >= FREQUENT
    return macro_map(truth[:, columns], probabilities[:, columns]) if columns.any() else float("nan")


def macro_roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of the labels' areas under the ROC curve, of those that some posters have and others do not; NaN if none."""
    from sklearn.metrics import roc_auc_score

    columns = [label for label in range(truth.shape[1]) if 0 < truth[:, label].sum() < len(truth)]
    areas = [roc_auc_score(truth[:, label], probabilities[:, label]) for label in columns]
    return float(np.mean(areas)) if areas else float("nan")


def binary_cross_entropy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over posters and labels, in nats."""
    return float(cross_entropies(truth, probabilities).mean())


def cross_entropies(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean over the labels of each poster, in nats: float64 (N,)."""
    p = np.clip(probabilities.astype(np.float64), CLIP, 1 - CLIP)
    return -np.where(truth.astype(bool), np.log(p), np.log(1 - p)).mean(axis=1)


def hit_at(k: int, truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of posters with at least one true label among the k most probable."""
    return float(hits_at(k, truth, probabilities).mean())


def hits_at(k: int, truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Whether each poster has a true label among its k most probable: bool (N,)."""
    return np.take_along_axis(truth, most_probable(k, probabilities), axis=1).max(axis=1) > 0


def ranking_losses(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Of each poster, the share of pairs of a true and a false label in which the false one is as probable or more.

    float64 (N,). As scikit-learn has it, 0 for a poster with no true or no false label; it gives the mean only.
    """
    true = truth.astype(bool)
    pairs = true.sum(axis=1) * (~true).sum(axis=1)
    wrong = np.zeros(len(truth))
    for label in range(truth.shape[1]):
        below = (true & (probabilities <= probabilities[:, label, np.newaxis])).sum(axis=1)
        wrong += np.where(true[:, label], 0, below)
    return wrong / np.maximum(pairs, 1)


def coverages(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """How far down each poster's ranking one must go to find all its true labels: float64 (N,), 0 for none."""
    least = np.where(truth.astype(bool), probabilities, np.inf).min(axis=1, keepdims=True)
    return (probabilities >= least).sum(axis=1).astype(np.float64)


def expected_calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean distance between what is said and what comes true, over `ECE_BINS` bins of all pairs of poster and label."""
    return float(np.abs(calibration_gaps(truth, probabilities).sum(axis=0)).sum() / truth.size)


def calibration_gaps(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Of each poster, probability less truth, added up by bin of probability: float64 (N, ECE_BINS)."""
    p = probabilities.astype(np.float64)
    bins = np.minimum((p * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    places = bins + ECE_BINS * np.arange(len(p))[:, np.newaxis]
    added = np.bincount(places.ravel(), weights=(p - truth).ravel(), minlength=ECE_BINS * len(p))
    return added.reshape(len(p), ECE_BINS)


def f1_scores(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Micro and macro F1 of a multi-hot prediction, uint8 or bool (N, L); a label never hit counts as 0."""
    from sklearn.metrics import f1_score

    micro, macro = (f1_score(truth, predicted, average=how, zero_division=0) for how in ("micro", "macro"))
    return float(micro), float(macro)


def null_probabilities(prevalence: np.ndarray, posters: int) -> np.ndarray:
    """What a model says that never looks at a poster: the training set's prevalence, float (L,) -> float32 (N, L)."""
    return np.tile(np.asarray(prevalence, dtype=np.float32), (posters, 1))
