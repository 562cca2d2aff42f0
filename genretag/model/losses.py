"""Losses for training, and two ways to give rare labels more weight.

The losses are cross-entropy, and its focal and asymmetric forms, which reduce the weight of easy cases.

Rare labels get a larger factor in the loss, or their posters are drawn more often. Both use the square root of a
label's inverse frequency. In experiments, the full inverse frequency made models worse.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

WEIGHTINGS = ("none", "sqrt")


def label_weights(prevalence: np.ndarray, posters: int) -> np.ndarray:
    """Return the factor of each label in the loss, float (L,) with mean 1. Rare labels get larger factors.

    `prevalence` is each label's share of the training posters, float (L,). `posters` is the number of training posters.
    A label without posters counts as if one poster had it.
    """
    weights = _inverse_root(prevalence, posters)
    return weights / weights.mean()


def balanced_rows(multi_hot: np.ndarray, seed: int) -> np.ndarray:
    """Draw N row indices with replacement, so that posters with rare labels come more often. Return int (N,).

    `multi_hot` is uint8 (N, L). The chance of a row is proportional to 1 / sqrt(frequency) of its rarest label, and 0
    for a row without labels. The same seed gives the same rows. Call this only with the training part of a split.
    Otherwise copies of a poster could be in training and test.
    """
    weights = _inverse_root(multi_hot.mean(axis=0), len(multi_hot))
    chances = (multi_hot * weights).max(axis=1)
    return np.random.default_rng(seed).choice(len(multi_hot), size=len(multi_hot), p=chances / chances.sum())


def _inverse_root(prevalence: np.ndarray, posters: int) -> np.ndarray:
    """Return 1 / sqrt(prevalence) of each label, float (L,).

    `prevalence` is the share of the `posters` posters that have the label. A label without posters counts as if one
    poster had it.
    """
    return 1 / np.sqrt(np.maximum(prevalence, 1 / posters))


LOSSES = ("bce", "asymmetric", "focal")
FOCAL_GAMMA = 2.0  # the value of Lin et al. 2017, arXiv:1708.02002

LabelLoss = Callable[[Any, Any], Any]  # targets (N, L), logits (N, L) -> loss of each poster and label (N, L)


def build_loss(
    name: str,
    *,
    label_weights: np.ndarray | None = None,
    label_smoothing: float = 0.0,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
) -> LabelLoss:
    """Return a loss function for Keras's `compile`: targets float (N, L), logits float (N, L) -> float (N,).

    The result is the mean over labels. `name` is one of `LOSSES`. `label_weights` has a factor for each label, float
    (L,); None means 1 for all. As in Keras, `label_smoothing` s turns targets y into y * (1 - s) + s / 2; 0 changes
    nothing. Only the loss `asymmetric` uses the gammas and the margin. Raises `KeyError` if `name` is not in `LOSSES`.
    """
    import keras

    label_loss = {
        "bce": _cross_entropy,
        "focal": _focal,
        "asymmetric": _asymmetric(gamma_positive, gamma_negative, margin),
    }[name]
    weights = None if label_weights is None else np.asarray(label_weights, dtype=np.float32)

    def loss(targets: Any, logits: Any) -> Any:
        targets = keras.ops.cast(targets, logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        losses = label_loss(targets, logits)
        return keras.ops.mean(losses if weights is None else losses * weights, axis=-1)

    return loss


def _cross_entropy(targets: Any, logits: Any) -> Any:
    """Return the binary cross-entropy of each poster and label: targets (N, L), logits (N, L) -> (N, L)."""
    import keras

    return keras.losses.binary_crossentropy(targets[..., None], logits[..., None], from_logits=True)


def _focal(targets: Any, logits: Any) -> Any:
    """Return the focal loss, with `FOCAL_GAMMA`, of each poster and label: targets (N, L), logits (N, L) -> (N, L)."""
    import keras

    return keras.losses.binary_focal_crossentropy(
        targets[..., None], logits[..., None], gamma=FOCAL_GAMMA, from_logits=True
    )


def _asymmetric(gamma_positive: float, gamma_negative: float, margin: float) -> LabelLoss:
    """Return the asymmetric loss (Ben-Baruch et al. 2020, arXiv:2009.14119). Absent labels that are easy hardly count.

    L = -y (1 - p)^gamma_positive log(p) - (1 - y) q^gamma_negative log(1 - q), with q = max(p - margin, 0). A network
    trained with this loss gives probabilities that are too high, most of all for rare labels.
    """

    def loss(targets: Any, logits: Any) -> Any:
        import keras

        ops = keras.ops
        p = ops.sigmoid(logits)
        q = ops.maximum(p - margin, 0.0)
        present = ops.softplus(-logits)  # -log(p)
        absent = -ops.log(ops.maximum(1 - q, 1e-8))
        if gamma_positive:  # x ** 0 has no gradient at x = 0
            present = present * ops.power(1 - p, gamma_positive)
        if gamma_negative:
            absent = absent * ops.power(q, gamma_negative)
        return targets * present + (1 - targets) * absent

    return loss
