"""Figures with intervals beside the null model's, and the difference of two bundles on the same draws of posters.

An interval is for the figure of all posters of the same kind. It has the spread of the draws, moved so that their mean
is the estimate of that figure: draws with replacement have the sample's bias once more, so their place says nothing.
`docs/evaluation.md` has the method, its sources and how often its intervals hold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genretag.evaluation.estimates import population_average_precisions
from genretag.evaluation.resampling import CALIBRATED, IMAGINED, LABEL_APS, Resampler
from genretag.modeling.metrics import FREQUENT, LOWER_IS_BETTER, average_precisions, null_probabilities
from genretag.modeling.thresholds import BETAS, expected_threshold
from genretag.profiles import Profile

INTERVAL = (2.5, 97.5)  # percentiles
MOVED = ("macro_map", "macro_map_frequent", "ece", "macro_f1")  # figures whose draws are moved to the estimate


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
    """A figure of these posters, and what it says of all posters of the kind.

    `value` is what everybody computes on these posters, `null` what the null model gets on them. `estimate` is the
    figure of all posters of the kind, without the bias of a small sample; it differs from `value` for mean average
    precisions and the calibration error. `low` and `high` are the ends of the estimate's 95 % interval.
    """

    value: float
    estimate: float
    low: float
    high: float
    null: float


@dataclass(frozen=True)
class Difference:
    """An estimate less another bundle's, with its interval over paired draws, and the share of them where it is better.

    The draws are moved as those of a figure are. `better_in` is none for what has no better side. A draw where both
    are equal is not better. At least .975 means that the interval does not hold 0, apart from such draws.
    """

    value: float
    low: float
    high: float
    better_in: float | None


@dataclass(frozen=True)
class LabelFigures:
    """One label: its positives, and how it is found. The null's average precision is the prevalence.

    `average_precision` is that of these posters, `estimate` that of all posters of the kind with its interval.
    """

    label: str
    support: int
    prevalence: float
    average_precision: float
    estimate: float
    low: float
    high: float
    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Measured:
    """What was found of one set of posters: figures, the labels' average precisions as estimated, float64 (L,).

    `draws` has each figure in each draw.
    """

    figures: dict[str, Figure]
    label_estimates: np.ndarray
    draws: dict[str, np.ndarray]


def measure(
    said: Said,
    prevalence: np.ndarray,
    resamples: int,
    seed: int,
    progress: Callable[[int], None] = lambda _draws: None,
) -> Measured:
    """Every figure of `genretag.modeling.metrics.figures`; `prevalence`, float (L,), is what the null model says."""
    null_says = null_probabilities(prevalence, len(said.truth))
    null, _ = _figures(Resampler(said.truth, null_says, null_profiles(said.profiles, prevalence)))
    resampler = Resampler(said.truth, said.probabilities, said.profiles)
    points, corrected_ece = _figures(resampler)
    precisions = population_average_precisions(said.truth, said.probabilities)
    frequent = precisions[said.truth.sum(axis=0) >= FREQUENT]
    estimates = points | {
        "macro_map": _mean(precisions, none=0.0),
        "macro_map_frequent": _mean(frequent, none=float("nan")),
        "ece": max(corrected_ece, 0.0),
    }
    drawn = resampler.bootstrap(resamples, seed, progress)
    found = {}
    for name, value in points.items():
        low, high = _interval_of(name, estimates[name], drawn)
        if name == "ece" and value <= np.percentile(drawn[CALIBRATED], INTERVAL[1]):
            low = 0.0  # chance alone gives as much
        found[name] = Figure(value, estimates[name], low, high, null[name])
    return Measured(found, precisions, drawn)


def _figures(resampler: Resampler) -> tuple[dict[str, float], float]:
    """The figures of all posters, as `genretag.modeling.metrics` has them, and the calibration error corrected."""
    found = {name: float(values[0]) for name, values in resampler.of_all().items() if name != LABEL_APS}
    return found | {"ece": resampler.calibration_error}, found["ece"]


def _mean(values: np.ndarray, none: float) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else none


def _interval_of(name: str, estimate: float, drawn: Mapping[str, np.ndarray]) -> tuple[float, float]:
    is_moved = name.partition(":")[0] in MOVED
    low, high = interval(drawn.get(IMAGINED + name, drawn[name]), estimate if is_moved else None)
    if is_moved or IMAGINED + name in drawn:  # a share that may leave its bounds
        low, high = float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))
    return low, high


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
    value = one.figures[name].estimate - other.figures[name].estimate
    if name.partition(":")[0] in MOVED:
        differences = moved(differences, value)
    if IMAGINED + name in one.draws:
        differences = value + (differences - value) * max(_widened(name, one), _widened(name, other))
    better: float | None = None
    if not name.startswith("labels:"):
        gains = -differences if name in LOWER_IS_BETTER else differences
        better = float(np.mean(gains > 0))
    return Difference(value, *interval(differences), better)


def _widened(name: str, measured: Measured) -> float:
    """By how much posters that were not seen widen the draws of a figure; 1 where the draws are all alike."""
    plain, wide = (float(np.std(measured.draws[what])) for what in (name, IMAGINED + name))
    return max(wide / plain, 1.0) if plain > 0 else 1.0


def label_figures(labels: Sequence[str], said: Said, profile: Profile, measured: Measured) -> list[LabelFigures]:
    """A row for each label; `measured` are the same posters."""
    predicted, true = profile.predicted(said.probabilities), said.truth.astype(bool)
    hits, said_so, support = ((what).sum(axis=0) for what in (predicted & true, predicted, true))
    precisions, drawn = average_precisions(said.truth, said.probabilities), measured.draws[LABEL_APS]
    ends = [interval(drawn[:, i], estimate) for i, estimate in enumerate(measured.label_estimates)]
    return [
        LabelFigures(
            label=label,
            support=int(support[i]),
            prevalence=float(support[i] / len(true)),
            average_precision=float(precisions[i]),
            estimate=float(measured.label_estimates[i]),
            low=max(ends[i][0], 0.0),
            high=min(ends[i][1], 1.0),
            threshold=profile.thresholds[i],
            precision=float(hits[i] / said_so[i]) if said_so[i] else float("nan"),
            recall=float(hits[i] / support[i]) if support[i] else float("nan"),
            f1=float(2 * hits[i] / max(said_so[i] + support[i], 1)),
        )
        for i, label in enumerate(labels)
    ]


def interval(values: np.ndarray, middle: float | None = None) -> tuple[float, float]:
    """The 95 % percentile interval of a figure's draws, float64 (resamples,), of those that have a value.

    With `middle` the draws are moved so that it is their mean. NaN where no draw has a value.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known if middle is None else moved(known, middle), INTERVAL)
    return float(low), float(high)


def moved(values: np.ndarray, middle: float) -> np.ndarray:
    """The draws, moved so that `middle` is the mean of those that have a value."""
    known = values[np.isfinite(values)]
    return np.asarray(values - known.mean() + middle) if len(known) else values
