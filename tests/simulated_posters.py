"""Simulated posters whose true figures are known. Labels are as rare, and models as good, as on real test posters.

A poster has one to three labels: those with the highest of 23 correlated utilities. A model's score for a label is
normal, with a higher mean if the poster has the label (the binormal model). Scores are correlated between labels. Real
scores have that shape. Probabilities follow from the scores, with a small shift for each label, so calibration is not
perfect. Prevalences and areas under the ROC curve are those of the default model's test posters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from genretag.evaluation.measure import Difference, Figure, LabelFigures, ScoredPosters, compare, label_figures, measure
from genretag.model.bootstrap import LABEL_APS, Ranking, Resampler
from genretag.model.metrics import FREQUENT
from genretag.model.thresholds import Profile, threshold_profiles

PREVALENCES = np.concatenate(
    (
        [0.186, 0.121, 0.034, 0.062, 0.403, 0.167, 0.088, 0.501, 0.058, 0.063, 0.031, 0.068],
        [0.042, 0.014, 0.059, 0.003, 0.185, 0.053, 0.006, 0.030, 0.128, 0.019, 0.007],
    )
)
AREAS = np.concatenate(
    (
        [0.828, 0.817, 0.953, 0.680, 0.860, 0.715, 0.794, 0.713, 0.821, 0.667, 0.793, 0.858],
        [0.660, 0.789, 0.789, 0.886, 0.773, 0.804, 0.776, 0.726, 0.791, 0.737, 0.796],
    )
)
LABELS = len(PREVALENCES)
LABELS_OF_A_POSTER = (0.187, 0.305, 0.508)  # shares of posters with one, two and three labels
# From the largest eigenvalues of the real scores' correlation matrix.
FACTORS = np.sqrt(np.array([6.3, 5.2, 2.6]) / LABELS)
SHARED = 0.7  # correlation between the errors of the two models
WORSE = 0.01  # difference between the areas under the ROC curve of the two models
MISCALIBRATED = 0.15  # standard deviation of the labels' shifts, in logits
POSTERS = 765  # in a test set
VALIDATION = 720  # number of posters that thresholds are chosen on


@dataclass(frozen=True)
class Population:
    """All simulated posters, with their labels (`truth`) and the probabilities of two models."""

    truth: np.ndarray  # uint8 (N, L)
    model: np.ndarray  # float32 (N, L)
    other: np.ndarray  # float32 (N, L)
    profiles: Mapping[str, Profile]

    def said(self, posters: np.ndarray) -> tuple[ScoredPosters, ScoredPosters]:
        """Return the truth and each model's probabilities for some posters. `posters` are indices, int64 (n,)."""
        one, other = (ScoredPosters(self.truth[posters], p[posters], self.profiles) for p in (self.model, self.other))
        return one, other


def population(posters: int, seed: int = 1) -> Population:
    """Draw a population of this number of posters."""
    generator = np.random.default_rng(seed)
    loadings = generator.normal(size=(LABELS, len(FACTORS))) * FACTORS
    loadings *= np.minimum(1, 0.9 / np.linalg.norm(loadings, axis=1))[:, np.newaxis]
    truth = _labels(generator, _correlated(generator, posters, 0.6 * loadings))
    noise, own = (_correlated(generator, posters, loadings) for _ in range(2))
    model = _probabilities(generator, truth, noise, AREAS)
    other = _probabilities(generator, truth, SHARED * noise + np.sqrt(1 - SHARED**2) * own, AREAS - WORSE)
    chosen = generator.integers(0, posters, VALIDATION)
    thresholds = threshold_profiles(truth[chosen], model[chosen])["balanced"]
    return Population(truth, model, other, {"balanced": Profile(thresholds)})


def _correlated(generator: np.random.Generator, posters: int, loadings: np.ndarray) -> np.ndarray:
    """Draw standard normal values, float64 (N, L).

    They are correlated between labels through the factors in `loadings`, float64 (L, factors).
    """
    shared = generator.normal(size=(posters, loadings.shape[1])) @ loadings.T
    return shared + np.sqrt(1 - (loadings**2).sum(axis=1)) * generator.normal(size=(posters, LABELS))


def _labels(generator: np.random.Generator, utilities: np.ndarray) -> np.ndarray:
    """Return the labels of each poster, uint8 (N, L): the one to three labels with the highest utilities.

    The utilities are shifted, so that each label has its prevalence.
    """
    counts = generator.choice(3, len(utilities), p=LABELS_OF_A_POSTER)
    share = PREVALENCES / PREVALENCES.sum() * (counts.mean() + 1)
    level = np.array([NormalDist().inv_cdf(p) for p in share]) * 1.3
    some = slice(0, 20_000)  # enough posters to find the shift of each label
    for _ in range(40):
        got = _highest(utilities[some] + level, counts[some]).mean(axis=0)
        level += 0.4 * np.log(share / np.maximum(got, 1e-5))
    return _highest(utilities + level, counts).astype(np.uint8)


def _highest(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    cuts = -np.sort(np.partition(-values, 2, axis=1)[:, :3], axis=1)
    return values >= cuts[np.arange(len(values)), counts][:, np.newaxis]


def _probabilities(
    generator: np.random.Generator, truth: np.ndarray, noise: np.ndarray, areas: np.ndarray
) -> np.ndarray:
    """Return the probabilities that follow from the scores, float32 (N, L).

    They are calibrated, except for one shift for each label.
    """
    apart = np.array([NormalDist().inv_cdf(area) for area in areas]) * np.sqrt(2)
    prevalence = truth.mean(axis=0)
    logits = np.log(prevalence / (1 - prevalence)) + apart * (noise + apart * truth) - apart**2 / 2
    return (1 / (1 + np.exp(-logits - generator.normal(size=LABELS) * MISCALIBRATED))).astype(np.float32)


@dataclass(frozen=True)
class Truths:
    """A model's figures on the whole population, and each label's average precision and ROC area, float64 (L,)."""

    figures: dict[str, float]
    precisions: np.ndarray
    areas: np.ndarray

    def on(self, support: np.ndarray) -> dict[str, float]:
        """Return the population figures that a test set estimates.

        Means over labels include only labels with positives in the test set. `support` is their number by label, int64
        (L,).
        """
        return self.figures | {
            "macro_map": float(self.precisions[support > 0].mean()),
            "macro_map_frequent": float(self.precisions[support >= FREQUENT].mean()),
            "macro_roc_auc": float(self.areas[support > 0].mean()),
        }


def truths(said: ScoredPosters) -> Truths:
    """Measure a model on the whole population."""
    weights = np.ones((len(said.truth), 1))
    everybody = Resampler(said.truth, said.probabilities, said.profiles)
    areas = [
        Ranking(said.truth[:, i], said.probabilities[:, i]).precision_and_area(weights)[1][0] for i in range(LABELS)
    ]
    found = everybody.of_all()
    figures = {name: float(values[0]) for name, values in found.items() if name != LABEL_APS}
    return Truths(figures | {"ece": everybody.calibration_error}, found[LABEL_APS][0], np.array(areas))


@dataclass(frozen=True)
class TestSet:
    """A test set: the measured figures, and the population figures (`true`) that they estimate."""

    __test__ = False  # pytest must not collect the class

    said: ScoredPosters
    figures: Mapping[str, Figure]
    labels: Sequence[LabelFigures]
    differences: Mapping[str, Difference]
    measured_difference: float  # of the macro mAP of the two models
    draws: Mapping[str, np.ndarray]
    draws_of_other: Mapping[str, np.ndarray]
    true: Mapping[str, float]
    true_differences: Mapping[str, float]


def test_sets(everybody: Population, of: tuple[Truths, Truths], sets: int, resamples: int, seed: int = 0):
    """Yield `TestSet`s, each drawn anew from the population and measured as `genretag evaluate --against` does."""
    generator = np.random.default_rng(seed)
    names = [str(label) for label in range(LABELS)]
    for number in range(sets):
        said = everybody.said(generator.integers(0, len(everybody.truth), POSTERS))
        one, other = (measure(each, PREVALENCES, resamples, number) for each in said)
        true, true_of_other = (each.on(said[0].truth.sum(axis=0)) for each in of)
        rows = label_figures(names, said[0], everybody.profiles["balanced"], one)
        apart = {name: true[name] - true_of_other[name] for name in true}
        measured = one.figures["macro_map"].value - other.figures["macro_map"].value
        yield TestSet(said[0], one.figures, rows, compare(one, other), measured, one.draws, other.draws, true, apart)


test_sets.__test__ = False
