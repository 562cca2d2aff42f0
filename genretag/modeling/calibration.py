"""One temperature for all logits, fitted on validation data (Guo et al. 2017, arXiv:1706.04599)."""

import numpy as np


def fit_temperature(truth: np.ndarray, logits: np.ndarray) -> float:
    """Returns the temperature T that minimises the cross-entropy of sigmoid(logits / T).

    `truth` is uint8 (N, L), `logits` float (N, L). Above 1 the network was too sure of itself.
    """
    from scipy.optimize import minimize_scalar

    signs = np.where(truth.astype(bool), -1.0, 1.0)
    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, signs * scores / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x))
