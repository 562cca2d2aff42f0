"""From which probability on a label is predicted: a balance between rare labels and common ones.

One threshold for all labels gives the best micro F1 and hardly ever predicts a rare label; each label's own F1
threshold predicts rare ones but too many of them. The balanced thresholds stand half way between the two.
A label's own is computed from calibrated probabilities alone, not from its few positives, so it is not noisy
(the F1 that the probabilities themselves expect; Lipton, Elkan and Naryanaswamy 2014, arXiv:1402.1892).
"""

import numpy as np


def balanced_thresholds(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Each label's expected-F1 threshold, half way to the global one: uint8 (N, L), float (N, L) -> float32 (L,)."""
    common = global_threshold(truth, probabilities)
    own = np.array([expected_f1_threshold(column) for column in probabilities.T])
    return ((own + common) / 2).astype(np.float32)


def global_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The one threshold with the best micro F1: uint8 (N, L), float (N, L) -> float."""
    order = np.argsort(-probabilities, axis=None, kind="stable")
    return _best_f1(probabilities.ravel()[order], truth.ravel()[order])


def expected_f1_threshold(probabilities: np.ndarray) -> float:
    """The threshold with the best F1 that calibrated probabilities of one label, float (N,), expect of themselves."""
    scores = -np.sort(-probabilities)
    return _best_f1(scores, scores)


def _best_f1(scores: np.ndarray, positives: np.ndarray) -> float:
    """The threshold half way between the two of the falling `scores` that the best F1 parts.

    `positives` says how much of a positive each one is, from 0 to 1.
    """
    hits = np.cumsum(positives, dtype=np.float64)
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + hits[-1])
    f1[:-1][scores[:-1] == scores[1:]] = -1.0  # equal scores cannot be parted
    best = int(np.argmax(f1))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + below) / 2)
