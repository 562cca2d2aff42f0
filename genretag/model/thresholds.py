"""Threshold profiles: the probability from which each label is predicted.

The thresholds balance rare labels and common ones. One threshold for all labels gives the best micro F1, and hardly
ever predicts a rare label. Each label's own F1 threshold predicts rare labels, but too many of them. The shrunk
thresholds are halfway between the two. A label's own threshold is computed from calibrated probabilities alone, not
from the label's few positives, so it is not noisy. It gives the best F1 that the probabilities themselves expect
(Lipton, Elkan and Naryanaswamy 2014, arXiv:1402.1892).

Each profile is best at another F-beta, in which recall counts beta times as much as precision (van Rijsbergen 1979). A
larger beta never predicts fewer labels. So `precise` predicts no more than `balanced`, and `balanced` no more than
`generous`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genretag.errors import UsageError

DEFAULT_PROFILE = "balanced"
TOP = "top-3"  # an example of the `top-K` profiles that every model has
TOP_K = re.compile(r"top-([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Profile:
    """A threshold for each label.

    With `at_most`, only that number of a poster's most probable labels can be predicted.
    """

    thresholds: tuple[float, ...]  # in the order of the labels
    at_most: int | None = None

    def predicted(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which labels are predicted: float (N, L) -> bool (N, L).

        A label is predicted if its probability reaches its threshold. With `at_most`, equally probable labels keep the
        order of the labels, as in `genres`.
        """
        reached: np.ndarray = probabilities >= np.array(self.thresholds, dtype=np.float32)
        if self.at_most is None:
            return reached
        among = np.zeros_like(reached)
        np.put_along_axis(among, most_probable(self.at_most, probabilities), True, axis=1)
        return reached & among

    def among(self, labels: Sequence[int]) -> "Profile":
        """Return the profile for some of the labels, given by their indices. `at_most` stays."""
        return Profile(tuple(self.thresholds[label] for label in labels), self.at_most)


def most_probable(count: int, probabilities: np.ndarray) -> np.ndarray:
    """Return the indices of the `count` most probable labels, best first: float (N, L) -> int64 (N, min(count, L)).

    Equally probable labels keep the order of the labels.
    """
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def profile_named(name: str, thresholds: Mapping[str, Sequence[float]], labels: int) -> Profile:
    """Return the profile `name` of `thresholds`, or `top-K`: the K most probable labels, with no threshold.

    `thresholds` has a threshold per label, by profile, and `labels` is the number of labels. Raises `UsageError` for
    any other name.
    """
    if name in thresholds:
        return Profile(tuple(thresholds[name]))
    if top := TOP_K.fullmatch(name):
        return Profile((0.0,) * labels, int(top[1]))
    raise UsageError(f"the bundle has no threshold profile {name!r}: it has {', '.join([*thresholds, TOP])}")


BETAS: Mapping[str, float] = {"balanced": 1.0, "precise": 0.5, "generous": 2.0}  # by profile
DECIMALS = 4  # of a threshold in a bundle


def threshold_profiles(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, tuple[float, ...]]:
    """Return the thresholds of each profile in `BETAS`, in the order of the labels, by the profile's name.

    `truth` is uint8 (N, L), `probabilities` calibrated float (N, L).
    """
    return {
        name: tuple(round(float(value), DECIMALS) for value in shrunk_thresholds(truth, probabilities, beta))
        for name, beta in BETAS.items()
    }


def shrunk_thresholds(truth: np.ndarray, probabilities: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """Return thresholds halfway between each label's own and the global one: truth and probabilities (N, L) -> (L,).

    `truth` is uint8 and `probabilities` are float; the result is float32. `expected_threshold` gives a label's own
    threshold, and `global_threshold` the global one.
    """
    common = global_threshold(truth, probabilities, beta)
    own = np.array([expected_threshold(column, beta) for column in probabilities.T])
    return ((own + common) / 2).astype(np.float32)


def global_threshold(truth: np.ndarray, probabilities: np.ndarray, beta: float = 1.0) -> float:
    """Return the threshold for all labels with the best micro F-beta: uint8 (N, L), float (N, L) -> float."""
    order = np.argsort(-probabilities, axis=None, kind="stable")
    return _best(probabilities.ravel()[order], truth.ravel()[order], beta)


def expected_threshold(probabilities: np.ndarray, beta: float = 1.0) -> float:
    """Return the threshold with the best expected F-beta for one label: calibrated probabilities, float (N,) -> float.

    The expectation uses the probabilities in place of the truth.
    """
    scores = -np.sort(-probabilities)
    return _best(scores, scores, beta)


def _best(scores: np.ndarray, positives: np.ndarray, beta: float) -> float:
    """Return the midpoint between the two of the falling `scores` around the cut with the best F-beta.

    `positives` says how much of a positive each score is, from 0 to 1. Below the last score, the next score is 0.
    """
    hits = np.cumsum(positives, dtype=np.float64)
    f = (1 + beta**2) * hits / (np.arange(1, len(scores) + 1) + beta**2 * hits[-1])
    f[:-1][scores[:-1] == scores[1:]] = -1.0  # no threshold can separate equal scores
    best = int(np.argmax(f))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + below) / 2)
