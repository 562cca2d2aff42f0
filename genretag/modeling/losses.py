"""What training minimises: cross-entropy, or one of its forms for labels of which most are absent."""

from collections.abc import Callable
from typing import Any

import numpy as np

LOSSES = ("bce", "asymmetric", "focal")
FOCAL_GAMMA = 2.0  # of Lin et al. 2017, arXiv:1708.02002

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
    """Returns a loss for `compile`: targets, logits, both float (N, L) -> float (N,), the mean over labels.

    `label_weights` is float (L,), one factor per label. `label_smoothing` moves targets that much towards one half,
    as Keras does. The gammas and the margin are those of `asymmetric`. Raises `KeyError` for another name.
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
    import keras

    return keras.losses.binary_crossentropy(targets[..., None], logits[..., None], from_logits=True)


def _focal(targets: Any, logits: Any) -> Any:
    import keras

    return keras.losses.binary_focal_crossentropy(
        targets[..., None], logits[..., None], gamma=FOCAL_GAMMA, from_logits=True
    )


def _asymmetric(gamma_positive: float, gamma_negative: float, margin: float) -> LabelLoss:
    """Asymmetric loss (Ben-Baruch et al. 2020, arXiv:2009.14119): absent labels that are easy stop counting.

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
        if gamma_positive:  # a power of zero has no gradient at zero
            present = present * ops.power(1 - p, gamma_positive)
        if gamma_negative:
            absent = absent * ops.power(q, gamma_negative)
        return targets * present + (1 - targets) * absent

    return loss
