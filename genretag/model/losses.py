"""Losses for training, and more weight for rare labels: in the loss, or by showing their posters more often.

Training minimises cross-entropy, or one of its forms for labels of which most are absent.

Both kinds of weight use the square root of a label's inverse frequency. The full inverse made models worse on the
posters that the defaults were chosen on.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

WEIGHTINGS = ("none", "sqrt")


def label_weights(prevalence: np.ndarray, posters: int) -> np.ndarray:
    """Return the weight of each label in the loss, float (L,) with mean 1: rare labels weigh more.

    `prevalence` is each label's share of the training posters, float (L,), and `posters` is their number. A label that
    no poster has counts as if one poster had it.
    """
    weights = _inverse_root(prevalence, posters)
    return weights / weights.mean()


def balanced_rows(multi_hot: np.ndarray, seed: int) -> np.ndarray:
    """Draw N row numbers with replacement so that posters of rare labels come more often; return int (N,).

    `multi_hot` is uint8 (N, L); each row must have a label. A poster's chance is proportional to the inverse root of
    its rarest label's frequency. Draw after the split, and from training posters only. A copy on the other side of the
    split would give away the answer.
    """
    weights = _inverse_root(multi_hot.mean(axis=0), len(multi_hot))
    chances = (multi_hot * weights).max(axis=1)
    return np.random.default_rng(seed).choice(len(multi_hot), size=len(multi_hot), p=chances / chances.sum())


def _inverse_root(prevalence: np.ndarray, posters: int) -> np.ndarray:
    """Return 1 / sqrt(frequency) of each label, float (L,).

    `prevalence` is the share of the `posters` that have the label; a smaller share than one poster counts as one
    poster.
    """
    return 1 / np.sqrt(np.maximum(prevalence, 1 / posters))


LOSSES = ("bce", "asymmetric", "focal")
FOCAL_GAMMA = 2.0  # the value of Lin et al. 2017, arXiv:1708.02002

LabelLoss = Callable[[Any, Any], Any]  # targets, logits (N, L) -> the loss of each label of each poster, (N, L)


def build_loss(
    name: str,
    *,
    label_weights: np.ndarray | None = None,
    label_smoothing: float = 0.0,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
) -> LabelLoss:
    """Return a loss for `compile`: targets, logits, both float (N, L) -> float (N,), the mean over labels.

    `name` is one of `LOSSES`. `label_weights` is float (L,), one factor per label; None means 1 for all.
    `label_smoothing` moves targets that much towards one half, as Keras does; 0 moves nothing. The gammas and the
    margin are those of `asymmetric`. Raises `KeyError` for another name.
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
    """Return the binary cross-entropy of each label of each poster: targets, logits (N, L) -> (N, L)."""
    import keras

    return keras.losses.binary_crossentropy(targets[..., None], logits[..., None], from_logits=True)


def _focal(targets: Any, logits: Any) -> Any:
    """Return the focal loss of each label of each poster, with `FOCAL_GAMMA`: targets, logits (N, L) -> (N, L)."""
    import keras

    return keras.losses.binary_focal_crossentropy(
        targets[..., None], logits[..., None], gamma=FOCAL_GAMMA, from_logits=True
    )


def _asymmetric(gamma_positive: float, gamma_negative: float, margin: float) -> LabelLoss:
    """Return the asymmetric loss (Ben-Baruch et al. 2020, arXiv:2009.14119), in which easy absent labels hardly count.

    L = -y (1 - p)^gamma_positive log(p) - (1 - y) q^gamma_negative log(1 - q), with q = max(p - margin, 0). Its
    probabilities are not calibrated: they come out too high, and for rare labels more so.
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
