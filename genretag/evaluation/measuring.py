"""Figures with intervals beside the null model's, and the difference of two bundles on the same draws of posters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genretag.evaluation.resampling import Resampler
from genretag.modeling.metrics import LOWER_IS_BETTER, average_precisions, figures, null_probabilities
from genretag.modeling.thresholds import BETAS, expected_threshold
from genretag.profiles import Profile

INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Said:
    """What a bundle says of N posters with its L labels, and how it decides."""

    truth: np.ndarray  # uint8 (N, L)
    probabilities: np.ndarray  # float32 (N, L)
    profiles: Mapping[str, Profile]

    def where(self, mask: np.ndarray) -> "Said":
        """The posters for which `mask`, bool (N,), is true."""
        return Said(self.truth[mask], self.probabilities[mask], self.profiles)


@dataclass(frozen=True)
class Figure:
    """A figure, the ends of its 95 % percentile bootstrap interval over posters, and what the null model gets."""

    value: float
    low: float
    high: float
    null: float


@dataclass(frozen=True)
class Difference:
    """A figure less another bundle's, with its interval over paired draws, and the share of them where it is better.

    `better_in` is none for what has no better side. A draw where both are equal is not better.
    """

    value: float
    low: float
    high: float
    better_in: float | None


@dataclass(frozen=True)
class LabelFigures:
    """One label: its positives, and how it is found. The null's average precision is the prevalence."""

    label: str
    support: int
    prevalence: float
    average_precision: float
    low: float
    high: float
    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Measured:
    """What was found of one set of posters; `draws` has each figure in each draw."""

    figures: dict[str, Figure]
    draws: dict[str, np.ndarray]


def measure(
    said: Said,
    prevalence: np.ndarray,
    resamples: int,
    seed: int,
    progress: Callable[[int], None] = lambda _draws: None,
) -> Measured:
    """Every figure of `genretag.modeling.metrics.figures`; `prevalence`, float (L,), is what the null model says."""
    points = figures(said.truth, said.probabilities, said.profiles)
    null = figures(
        said.truth, null_probabilities(prevalence, len(said.truth)), null_profiles(said.profiles, prevalence)
    )
    drawn = Resampler(said.truth, said.probabilities, said.profiles).bootstrap(resamples, seed, progress)
    found = {name: Figure(value, *interval(drawn[name]), null[name]) for name, value in points.items()}
    return Measured(found, drawn)


def null_profiles(profiles: Mapping[str, Profile], prevalence: np.ndarray) -> dict[str, Profile]:
    """The same profiles for the null model: as many labels at most, and the threshold with the best F that the
    prevalence, float (L,), expects of itself (F1 for a profile that is none of ours)."""
    return {
        name: Profile((expected_threshold(prevalence, BETAS.get(name, 1.0)),) * len(prevalence))
        if profile.at_most is None
        else profile
        for name, profile in profiles.items()
    }


def compare(one: Measured, other: Measured) -> dict[str, Difference]:
    """`one` less `other`, both measured on the same posters with the same seed; figures that both have."""
    return {name: _difference(name, one, other) for name in one.figures if name in other.figures}


def _difference(name: str, one: Measured, other: Measured) -> Difference:
    differences = one.draws[name] - other.draws[name]
    better: float | None = None
    if not name.startswith("labels:"):
        gains = -differences if name in LOWER_IS_BETTER else differences
        better = float(np.mean(gains > 0))
    return Difference(one.figures[name].value - other.figures[name].value, *interval(differences), better)


def label_figures(labels: Sequence[str], said: Said, profile: Profile, drawn: np.ndarray) -> list[LabelFigures]:
    """A row for each label; `drawn` are the labels' average precisions in each draw, float64 (resamples, L)."""
    predicted, true = profile.predicted(said.probabilities), said.truth.astype(bool)
    hits, said_so, support = ((what).sum(axis=0) for what in (predicted & true, predicted, true))
    precisions = average_precisions(said.truth, said.probabilities)
    return [
        LabelFigures(
            label=label,
            support=int(support[i]),
            prevalence=float(support[i] / len(true)),
            average_precision=float(precisions[i]),
            low=interval(drawn[:, i])[0],
            high=interval(drawn[:, i])[1],
            threshold=profile.thresholds[i],
            precision=float(hits[i] / said_so[i]) if said_so[i] else float("nan"),
            recall=float(hits[i] / support[i]) if support[i] else float("nan"),
            f1=float(2 * hits[i] / max(said_so[i] + support[i], 1)),
        )
        for i, label in enumerate(labels)
    ]


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of a figure's draws, float64 (resamples,), of those that have a value."""
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, INTERVAL)
    return float(low), float(high)
