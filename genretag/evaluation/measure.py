"""Figures of a bundle with intervals, next to those of the null model, and the difference of two bundles.

The measured posters are a sample. An estimate is the figure that the bundle would have on all posters of their kind.
A bootstrap draw is a random sample of the measured posters. The spread of the draws gives the width of the estimate's
interval. As a sample of a sample, a draw has the bias of a small sample twice. So for the figures in `MOVED`, all draws
are shifted until their mean is the estimate.

The null model predicts the same probabilities for every poster: each label's prevalence. `docs/evaluation.md` has the
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
MOVED = ("macro_map", "macro_map_frequent", "ece", "macro_f1")  # figures whose draws are shifted to the estimate


@dataclass(frozen=True)
class ScoredPosters:
    """A bundle's probabilities for N posters and L labels, the truth, and its threshold profiles by name."""

    truth: np.ndarray  # uint8 (N, L)
    probabilities: np.ndarray  # float32 (N, L)
    profiles: Mapping[str, Profile]

    def where(self, mask: np.ndarray) -> "ScoredPosters":
        """Return a copy with only the posters for which `mask`, bool (N,), is True."""
        return ScoredPosters(self.truth[mask], self.probabilities[mask], self.profiles)


@dataclass(frozen=True)
class Figure:
    """One figure on the measured posters, and its estimate for all posters of the same kind.

    `value` is the figure by its usual formula on the measured posters. `null` is the null model's value on the same
    posters. `estimate` leaves out the bias of a small sample. So it differs from `value` for mean average precisions
    and the calibration error. `low` and `high` are the ends of the estimate's 95 % interval.
    """

    value: float
    estimate: float
    low: float
    high: float
    null: float


@dataclass(frozen=True)
class Difference:
    """Difference of two bundles in one figure: the first bundle's estimate minus the second's (`value`).

    `low` and `high` are the ends of the 95 % interval, from draws of the same posters for both bundles. `better_in` is
    the share of draws in which the first bundle is better. A draw in which both are equal does not count as better. If
    `better_in` is at least .975, the interval does not contain 0. `better_in` is None for figures `labels:PROFILE` (the
    number of predicted labels per poster), where neither direction is better.
    """

    value: float
    low: float
    high: float
    better_in: float | None


@dataclass(frozen=True)
class LabelFigures:
    """Figures of one label. Its `prevalence` is also the average precision of the null model.

    `support` is the number of positives. `average_precision` is the label's average precision on the measured posters.
    `estimate` is the estimated average precision on all posters of their kind, and `low` and `high` are the ends of the
    estimate's 95 % interval. `precision`, `recall` and `f1` are those of the predictions with a threshold profile (a
    threshold for each label). `threshold` is the label's threshold in that profile.

    If the label has no positives, `average_precision`, `estimate`, `low`, `high` and `recall` are NaN. If the label is
    never predicted, `precision` is NaN. In both cases, `f1` is 0.
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

    `figures` has the figures by name. `label_estimates`, float64 (L,), are the estimated average precisions of the
    labels. `draws` has the values of each figure in the bootstrap draws, as `Resampler.bootstrap` returns them.
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

    `said` has the bundle's probabilities and the truth. `prevalence`, float (L,), is what the null model predicts for
    every poster. The same `seed` gives the same draws. `progress` is called with the number of draws done since its
    last call.
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
    """Return the figures on all posters, without resampling, and the calibration error without its bias.

    The figures are defined as in scikit-learn.
    """
    found = {name: float(values[0]) for name, values in resampler.of_all().items() if name != LABEL_APS}
    return found | {"ece": resampler.calibration_error}, found["ece"]


def _mean(values: np.ndarray, none: float) -> float:
    """Return the mean of the finite values, or `none` if there is no finite value."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else none


def _interval_of(name: str, estimate: float, drawn: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Return the 95 % interval of the figure `name` from its bootstrap draws.

    If `drawn` has draws of this figure with added spread (`IMAGINED`), use these draws. The added spread stands for
    posters that the sample cannot show. If the figure is in `MOVED`, shift the draws to `estimate`. After either step,
    limit the interval to 0 to 1.
    """
    is_moved = name.partition(":")[0] in MOVED
    low, high = interval(drawn.get(IMAGINED + name, drawn[name]), estimate if is_moved else None)
    if is_moved or IMAGINED + name in drawn:  # the figure is a share, and its draws may leave 0 to 1
        low, high = float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))
    return low, high


def null_profiles(profiles: Mapping[str, Profile], prevalence: np.ndarray) -> dict[str, Profile]:
    """Return threshold profiles for the null model, with the names of `profiles`.

    The null model predicts `prevalence`, float (L,), for each poster. A `top-K` profile (the K most probable labels)
    stays as it is. Any other profile gets one threshold for all labels: the one with the best expected F-beta. `BETAS`
    has the beta of a profile by its name. If the name is not there, beta is 1.
    """
    return {
        name: Profile((expected_threshold(prevalence, BETAS.get(name, 1.0)),) * len(prevalence))
        if profile.at_most is None
        else profile
        for name, profile in profiles.items()
    }


def compare(one: Measured, other: Measured) -> dict[str, Difference]:
    """Return the differences `one` minus `other`, by the figure's name, for each figure that both have.

    `one` and `other` must be measured on the same posters with the same seed.
    """
    return {name: _difference(name, one, other) for name in one.figures if name in other.figures}


def _difference(name: str, one: Measured, other: Measured) -> Difference:
    """Return the difference `one` minus `other` in the figure `name`, with its interval."""
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
    """Return the factor by which imagined posters (`IMAGINED`) increase the spread of a figure's draws.

    Imagined posters stand for posters that the sample cannot show. The spread is the standard deviation. The factor
    is at least 1. If all draws are equal, it is 1.
    """
    plain, wide = (float(np.std(measured.draws[what])) for what in (name, IMAGINED + name))
    return max(wide / plain, 1.0) if plain > 0 else 1.0


def label_figures(
    labels: Sequence[str], said: ScoredPosters, profile: Profile, measured: Measured
) -> list[LabelFigures]:
    """Return the figures of each label, in the order of `labels`.

    Precision, recall and F1 are those of the predictions with the threshold profile `profile`. `measured` must be the
    result of `measure` for `said`.
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
