"""Figures with intervals next to the null model's, and the difference of two bundles on the same draws of posters.

An estimate is the figure that the bundle would have on all posters like the measured ones. An interval belongs to the
estimate, and its width is the spread of the bootstrap draws. Draws with replacement add the bias of the sample once
more. So for the figures in `MOVED` the draws are shifted until their mean is the estimate. `docs/evaluation.md` has the
method, its sources and the coverage of the intervals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genretag.model.bootstrap import CALIBRATED, IMAGINED, LABEL_APS, Resampler
from genretag.model.metrics import (
    FREQUENT,
    LOWER_IS_BETTER,
    average_precisions,
    null_probabilities,
    population_average_precisions,
)
from genretag.model.thresholds import BETAS, Profile, expected_threshold

INTERVAL = (2.5, 97.5)  # percentiles
MOVED = ("macro_map", "macro_map_frequent", "ece", "macro_f1")  # figures whose draws are moved to the estimate


@dataclass(frozen=True)
class ScoredPosters:
    """A bundle's probabilities for N posters and L labels, the truth, and its threshold profiles by name."""

    truth: np.ndarray  # uint8 (N, L)
    probabilities: np.ndarray  # float32 (N, L)
    profiles: Mapping[str, Profile]

    def where(self, mask: np.ndarray) -> "ScoredPosters":
        """Return only the posters for which `mask`, bool (N,), is True."""
        return ScoredPosters(self.truth[mask], self.probabilities[mask], self.profiles)


@dataclass(frozen=True)
class Figure:
    """One figure on the measured posters, and its estimate for all posters like them.

    `value` is the figure by its usual formula on the measured posters. `null` is the null model's value on them.
    `estimate` leaves out the bias of a small sample, so it differs from `value` for mean average precisions and the
    calibration error. `low` and `high` are the ends of the estimate's 95 % interval.
    """

    value: float
    estimate: float
    low: float
    high: float
    null: float


@dataclass(frozen=True)
class Difference:
    """The first bundle's estimate of a figure minus the second bundle's, with its 95 % interval over paired draws.

    `better_in` is the share of draws in which the first bundle is better; equal draws count as not better. If it is at
    least .975, the interval does not contain 0, apart from equal draws. For `labels:PROFILE`, the labels per poster, no
    direction is better, and `better_in` is None.
    """

    value: float
    low: float
    high: float
    better_in: float | None


@dataclass(frozen=True)
class LabelFigures:
    """Figures of one label. Its prevalence is also the average precision of the null model.

    `support` is the number of positives. `average_precision` is measured on these posters. `estimate`, with its 95 %
    interval from `low` to `high`, is the average precision on all posters like these. If the label has no positives,
    these four and `recall` are NaN. If the label is never predicted, `precision` is NaN.
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
    """All figures of one bundle on one set of posters.

    `figures` are by name. `label_estimates`, float64 (L,), are the estimated average precisions of the labels. `draws`
    has each figure's value in each bootstrap draw, as `Resampler.bootstrap` returns them.
    """

    figures: dict[str, Figure]
    label_estimates: np.ndarray
    draws: dict[str, np.ndarray]


def measure(
    said: ScoredPosters,
    prevalence: np.ndarray,
    resamples: int,
    seed: int,
    progress: Callable[[int], None] = lambda _draws: None,
) -> Measured:
    """Return all figures of `genretag.model.metrics.figures`, with intervals from `resamples` bootstrap draws.

    `said` are the bundle's probabilities with the truth. `prevalence`, float (L,), is the prediction of the null model.
    The same `seed` gives the same draws. `progress` gets the number of draws done since its last call.
    """
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
            low = 0.0  # chance alone explains this calibration error
        found[name] = Figure(value, estimates[name], low, high, null[name])
    return Measured(found, precisions, drawn)


def _figures(resampler: Resampler) -> tuple[dict[str, float], float]:
    """Return the figures of all posters as scikit-learn defines them, and the calibration error without its bias."""
    found = {name: float(values[0]) for name, values in resampler.of_all().items() if name != LABEL_APS}
    return found | {"ece": resampler.calibration_error}, found["ece"]


def _mean(values: np.ndarray, none: float) -> float:
    """Return the mean of the finite values, or `none` if there is no finite value."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else none


def _interval_of(name: str, estimate: float, drawn: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Return the 95 % interval of a figure from its draws, moved to the estimate for the figures in `MOVED`."""
    is_moved = name.partition(":")[0] in MOVED
    low, high = interval(drawn.get(IMAGINED + name, drawn[name]), estimate if is_moved else None)
    if is_moved or IMAGINED + name in drawn:  # the figure is a share, and its draws may leave 0 to 1
        low, high = float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))
    return low, high


def null_profiles(profiles: Mapping[str, Profile], prevalence: np.ndarray) -> dict[str, Profile]:
    """Return threshold profiles for the null model, with the names of `profiles`.

    The null model predicts `prevalence`, float (L,), for each poster. A `top-K` profile stays as it is. Each other
    profile gets one threshold for all labels: the one with the best expected F-beta. Beta is the profile's, or 1 for an
    unknown name.
    """
    return {
        name: Profile((expected_threshold(prevalence, BETAS.get(name, 1.0)),) * len(prevalence))
        if profile.at_most is None
        else profile
        for name, profile in profiles.items()
    }


def compare(one: Measured, other: Measured) -> dict[str, Difference]:
    """Return the differences `one` minus `other`, by figure, for each figure that both have.

    Both must be measured on the same posters with the same seed.
    """
    return {name: _difference(name, one, other) for name in one.figures if name in other.figures}


def _difference(name: str, one: Measured, other: Measured) -> Difference:
    """Return the difference of the figure `name`, with its interval, from two bundles' draws."""
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
    """Return the factor by which unseen (imagined) posters widen the draws of the figure `name`. It is at least 1.

    If all draws are equal, return 1.
    """
    plain, wide = (float(np.std(measured.draws[what])) for what in (name, IMAGINED + name))
    return max(wide / plain, 1.0) if plain > 0 else 1.0


def label_figures(
    labels: Sequence[str], said: ScoredPosters, profile: Profile, measured: Measured
) -> list[LabelFigures]:
    """Return the figures of each label, in the order of `labels`, with precision, recall and F1 under `profile`.

    `measured` must be the result of `measure` for `said`.
    """
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
    """Return the ends of the 95 % interval of a figure: percentiles of its draws, float64 (resamples,).

    If `middle` is given, the draws are first shifted so that their mean is `middle`. Draws without a value (NaN) do not
    count. If no draw has a value, both ends are NaN.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known if middle is None else moved(known, middle), INTERVAL)
    return float(low), float(high)


def moved(values: np.ndarray, middle: float) -> np.ndarray:
    """Return the draws `values`, shifted so that the mean of the finite ones is `middle`. NaN stays NaN."""
    known = values[np.isfinite(values)]
    return np.asarray(values - known.mean() + middle) if len(known) else values
