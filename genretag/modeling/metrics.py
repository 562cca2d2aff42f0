"""Figures of multi-label predictions, and of the null model that predicts the prior for every poster."""

from typing import Any

import numpy as np

CLIP = 1e-7  # keeps the logarithm of a probability of exactly 0 or 1 finite, as Keras does


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


def binary_cross_entropy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over posters and labels, in nats."""
    p = np.clip(probabilities.astype(np.float64), CLIP, 1 - CLIP)
    return float(-np.mean(np.where(truth.astype(bool), np.log(p), np.log(1 - p))))


def hit_at(k: int, truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of posters with at least one true label among the k most probable."""
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(truth, top, axis=1).any(axis=1).mean())


def f1_scores(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Micro and macro F1 of a multi-hot prediction, uint8 or bool (N, L); a label never hit counts as 0."""
    from sklearn.metrics import f1_score

    micro, macro = (f1_score(truth, predicted, average=how, zero_division=0) for how in ("micro", "macro"))
    return float(micro), float(macro)


def summary(truth: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> dict[str, Any]:
    """The figures that stand in a bundle. `thresholds` is float (L,) and decides the F1 scores."""
    from sklearn.metrics import average_precision_score

    micro_f1, macro_f1 = f1_scores(truth, probabilities >= thresholds)
    figures = {
        "macro_map": macro_map(truth, probabilities),
        "micro_ap": float(average_precision_score(truth.ravel(), probabilities.ravel())),
        "micro_f1": micro_f1,
        "macro_f1": macro_f1,
        "hit_at_1": hit_at(1, truth, probabilities),
        "hit_at_3": hit_at(3, truth, probabilities),
        "bce": binary_cross_entropy(truth, probabilities),
    }
    return {"posters": len(truth)} | {name: round(value, 4) for name, value in figures.items()}


def null_probabilities(train_truth: np.ndarray, posters: int) -> np.ndarray:
    """What a model says that never looks at a poster: the training set's prevalence, float32 (posters, L)."""
    return np.tile(train_truth.mean(axis=0, dtype=np.float64).astype(np.float32), (posters, 1))
