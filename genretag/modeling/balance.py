"""Rare labels given more weight: in the loss, or by showing their posters more often.

Both by the square root of a label's inverse frequency; the full inverse made models worse on the posters that the
defaults were chosen on.
"""

import numpy as np

WEIGHTINGS = ("none", "sqrt")


def label_weights(prevalence: np.ndarray, posters: int) -> np.ndarray:
    """The weight of each label in the loss, float (L,) with mean 1.

    `prevalence` is each label's share of the training posters, float (L,); a label that none of the `posters` has
    counts as if one had it.
    """
    weights = _inverse_root(prevalence, posters)
    return weights / weights.mean()


def balanced_rows(multi_hot: np.ndarray, seed: int) -> np.ndarray:
    """As many rows as there are, drawn with replacement so that posters of rare labels come more often.

    `multi_hot` is uint8 (N, L); each row must have a label. A poster's chance is the inverse root of its rarest
    label's frequency. Returns int (N,). Draw after the split, from training posters alone: a copy on the other side
    of a split would be an answer given away.
    """
    weights = _inverse_root(multi_hot.mean(axis=0), len(multi_hot))
    chances = (multi_hot * weights).max(axis=1)
    return np.random.default_rng(seed).choice(len(multi_hot), size=len(multi_hot), p=chances / chances.sum())


def _inverse_root(prevalence: np.ndarray, posters: int) -> np.ndarray:
    return 1 / np.sqrt(np.maximum(prevalence, 1 / posters))
