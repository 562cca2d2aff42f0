"""Threshold profiles: which labels a poster's probabilities come to."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genretag.errors import UsageError

DEFAULT_PROFILE = "balanced"
TOP = "top-3"  # the best known of the profiles that any model has
TOP_K = re.compile(r"top-([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Profile:
    """A label is predicted from its threshold on, and where `at_most` is given, only the most probable so many."""

    thresholds: tuple[float, ...]  # in the order of the labels
    at_most: int | None = None

    def predicted(self, probabilities: np.ndarray) -> np.ndarray:
        """float (N, L) -> bool (N, L). Of equally probable labels the first ones come first, as in `genres`."""
        reached: np.ndarray = probabilities >= np.array(self.thresholds, dtype=np.float32)
        if self.at_most is None:
            return reached
        among = np.zeros_like(reached)
        np.put_along_axis(among, most_probable(self.at_most, probabilities), True, axis=1)
        return reached & among

    def among(self, labels: Sequence[int]) -> "Profile":
        """The same profile for some of the labels, by their numbers."""
        return Profile(tuple(self.thresholds[label] for label in labels), self.at_most)


def most_probable(count: int, probabilities: np.ndarray) -> np.ndarray:
    """The numbers of the most probable labels, best first: float (N, L) -> int64 (N, min(count, L))."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def profile_named(name: str, thresholds: Mapping[str, Sequence[float]], labels: int) -> Profile:
    """One of the profiles in `thresholds`, or `top-K`: the K most probable labels, no threshold.

    Raises `UsageError` for any other name.
    """
    if name in thresholds:
        return Profile(tuple(thresholds[name]))
    if top := TOP_K.fullmatch(name):
        return Profile((0.0,) * labels, int(top[1]))
    raise UsageError(f"the bundle has no threshold profile {name!r}: it has {', '.join([*thresholds, TOP])}")
