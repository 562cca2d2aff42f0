"""Threshold profiles. A profile has a name and, for each label, the least probability at which the label is predicted.

The thresholds are a compromise for rare and common labels. One global threshold for all labels gives the best micro F1,
but hardly ever predicts a rare label. A threshold for each label, with the best F1 of that label, predicts too many
rare labels. Profiles use thresholds halfway between these two.

A label's own threshold has the best expected F1, computed from the calibrated probabilities (Lipton, Elkan and
Naryanaswamy 2014, arXiv:1402.1892). The truth is not used, so a rare label's few positives add no noise.

The profiles `precise`, `balanced` and `generous` use F-beta instead of F1, with beta 0.5, 1 and 2. In F-beta, recall
counts beta times as much as precision (van Rijsbergen 1979). A profile with a larger beta never predicts fewer labels.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genretag.errors import UsageError

DEFAULT_PROFILE = "balanced"
TOP = "top-3"  # an example of `top-K`, for messages: every model has these profiles
TOP_K = re.compile(r"top-([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Profile:
    """A threshold for each label.

    If `at_most` is not None, only the `at_most` most probable labels of a poster can be predicted.
    """

    thresholds: tuple[float, ...]  # in the order of the labels
    at_most: int | None = None

    def predicted(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which labels are predicted: float (N, L) -> bool (N, L).

        A label is predicted if its probability is at least its threshold. If the profile's `at_most` is not None, the
        label must also be among the poster's `at_most` most probable labels. Of equally probable labels, the first in
        the order of the labels wins.
        """
        reached: np.ndarray = probabilities >= np.array(self.thresholds, dtype=np.float32)
        if self.at_most is None:
            return reached
        among = np.zeros_like(reached)
        np.put_along_axis(among, most_probable(self.at_most, probabilities), True, axis=1)
        return reached & among

    def among(self, labels: Sequence[int]) -> "Profile":
        """Return this profile for the labels at the indices `labels` only. `at_most` stays the same."""
        return Profile(tuple(self.thresholds[label] for label in labels), self.at_most)


def most_probable(count: int, probabilities: np.ndarray) -> np.ndarray:
    """Return the indices of the `count` most probable labels, best first: float (N, L) -> int64 (N, min(count, L)).

    Equally probable labels keep the order of the labels.
    """
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def profile_named(name: str, thresholds: Mapping[str, Sequence[float]], labels: int) -> Profile:
    """Return the profile called `name`: one of `thresholds`, or `top-K`, which predicts the K most probable labels.

    `thresholds` maps each profile's name to a threshold per label. `labels` is the number of labels. Raises
    `UsageError` for any other name.
    """
    if name in thresholds:
        return Profile(tuple(thresholds[name]))
    if top := TOP_K.fullmatch(name):
        return Profile((0.0,) * labels, int(top[1]))
    raise UsageError(f"the bundle has no threshold profile {name!r}: it has {', '.join([*thresholds, TOP])}")


BETAS: Mapping[str, float] = {"balanced": 1.0, "precise": 0.5, "generous": 2.0}  # by profile
DECIMALS = 4  # thresholds in a bundle are rounded to this number of decimals


def threshold_profiles(
    truth: np.ndarray, probabilities: np.ndarray, covered: np.ndarray | None = None
) -> dict[str, tuple[float, ...]]:
    """Choose the thresholds of all profiles. Return profile name -> thresholds in the order of the labels.

    `BETAS` has the name of each profile, and the beta of the F-beta that its thresholds aim at. `probabilities` is
    float (N, L) and calibrated. `truth` is uint8 (N, C), of the labels at the indices `covered`, int (C,). If `covered`
    is None, `truth` is of all labels.
    """
    return {
        name: tuple(round(float(value), DECIMALS) for value in shrunk_thresholds(truth, probabilities, beta, covered))
        for name, beta in BETAS.items()
    }


def shrunk_thresholds(
    truth: np.ndarray, probabilities: np.ndarray, beta: float = 1.0, covered: np.ndarray | None = None
) -> np.ndarray:
    """Return thresholds halfway between each label's own threshold and the global threshold: float32 (L,).

    `truth`, `probabilities` and `covered` are those of `threshold_profiles`. `expected_threshold` gives a label's own
    threshold, without the truth. `global_threshold` gives the threshold for all labels, from the labels that `truth` is
    of. A `beta` above 1 prefers recall, and below 1 precision.
    """
    common = global_threshold(truth, probabilities if covered is None else probabilities[:, covered], beta)
    own = np.array([expected_threshold(column, beta) for column in probabilities.T])
    return ((own + common) / 2).astype(np.float32)


def global_threshold(truth: np.ndarray, probabilities: np.ndarray, beta: float = 1.0) -> float:
    """Return the single threshold for all labels with the best micro F-beta: uint8 (N, L), float (N, L) -> float."""
    order = np.argsort(-probabilities, axis=None, kind="stable")
    return _best(probabilities.ravel()[order], truth.ravel()[order], beta)


def expected_threshold(probabilities: np.ndarray, beta: float = 1.0) -> float:
    """Return the threshold with the best expected F-beta of one label: calibrated probabilities, float (N,) -> float.

    The truth is not needed: each probability counts as that fraction of a positive.
    """
    scores = -np.sort(-probabilities)
    return _best(scores, scores, beta)


def _best(scores: np.ndarray, positives: np.ndarray, beta: float) -> float:
    """Return the threshold with the best F-beta: the midpoint between the scores above and below the best cut.

    `scores` fall from first to last. `positives` has a value from 0 to 1 for each score: the truth, or the probability
    of a positive. If the best cut is after the last score, the score below is 0.
    """
    hits = np.cumsum(positives, dtype=np.float64)
    f = (1 + beta**2) * hits / (np.arange(1, len(scores) + 1) + beta**2 * hits[-1])
    f[:-1][scores[:-1] == scores[1:]] = -1.0  # no threshold can separate equal scores
    best = int(np.argmax(f))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + below) / 2)
