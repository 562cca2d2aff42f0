"""From which probability on a label is predicted: a balance between rare labels and common ones.

One threshold for all labels gives the best micro F1 and hardly ever predicts a rare label; each label's own F1
threshold predicts rare ones but too many of them. The shrunk thresholds stand half way between the two.
A label's own is computed from calibrated probabilities alone, not from its few positives, so it is not noisy
(the F1 that the probabilities themselves expect; Lipton, Elkan and Naryanaswamy 2014, arXiv:1402.1892).

The profiles differ in what F they are best at: F-beta, in which recall counts beta times as much as precision
(van Rijsbergen 1979). A larger beta never predicts fewer labels, so `precise` says no more than `balanced`, and that
no more than `generous`.
"""

from collections.abc import Mapping

import numpy as np

BETAS: Mapping[str, float] = {"balanced": 1.0, "precise": 0.5, "generous": 2.0}  # by profile
DECIMALS = 4  # of a threshold in a bundle


def threshold_profiles(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, tuple[float, ...]]:
    """The thresholds of each of the `BETAS`, by profile: uint8 (N, L), calibrated float (N, L)."""
    return {
        name: tuple(round(float(value), DECIMALS) for value in shrunk_thresholds(truth, probabilities, beta))
        for name, beta in BETAS.items()
    }


def shrunk_thresholds(truth: np.ndarray, probabilities: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """Each label's expected-F threshold, half way to the global one: uint8 (N, L), float (N, L) -> float32 (L,)."""
    common = global_threshold(truth, probabilities, beta)
    own = np.array([expected_threshold(column, beta) for column in probabilities.T])
    return ((own + common) / 2).astype(np.float32)


def global_threshold(truth: np.ndarray, probabilities: np.ndarray, beta: float = 1.0) -> float:
    """The one threshold with the best micro F-beta: uint8 (N, L), float (N, L) -> float."""
    order = np.argsort(-probabilities, axis=None, kind="stable")
    return _best(probabilities.ravel()[order], truth.ravel()[order], beta)


def expected_threshold(probabilities: np.ndarray, beta: float = 1.0) -> float:
    """The threshold with the best F-beta that calibrated probabilities, float (N,), expect of themselves."""
    scores = -np.sort(-probabilities)
    return _best(scores, scores, beta)


def _best(scores: np.ndarray, positives: np.ndarray, beta: float) -> float:
    """The threshold half way between the two of the falling `scores` that the best F-beta parts.

    `positives` says how much of a positive each one is, from 0 to 1.
    """
    hits = np.cumsum(positives, dtype=np.float64)
    f = (1 + beta**2) * hits / (np.arange(1, len(scores) + 1) + beta**2 * hits[-1])
    f[:-1][scores[:-1] == scores[1:]] = -1.0  # equal scores cannot be parted
    best = int(np.argmax(f))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + below) / 2)
