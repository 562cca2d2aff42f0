"""Simulated posters with known figures: labels as rare and models as good as on the real test posters.

A poster has one to three labels, those with the highest of 23 correlated utilities. A model's score for a label is
normal, with another mean where the label is true (the binormal model), and correlated between labels; the real scores
have that shape. The probability that follows from a score is shifted a little per label, so calibration is not perfect.
Prevalences and areas under the ROC curve are those of the default model's posters.
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
LABELS_OF_A_POSTER = (0.187, 0.305, 0.508)  # shares of posters with one, two and three
FACTORS = np.sqrt(np.array([6.3, 5.2, 2.6]) / LABELS)  # the largest eigenvalues of the real scores' correlations
SHARED = 0.7  # correlation of what two models get wrong
WORSE = 0.01  # by how much the other model's areas are less
MISCALIBRATED = 0.15  # standard deviation of the labels' shifts, in logits
POSTERS = 765  # of a test set
VALIDATION = 720  # posters that thresholds are chosen on


@dataclass(frozen=True)
class Population:
    """All posters there are, and what two models say of them."""

    truth: np.ndarray  # uint8 (N, L)
    model: np.ndarray  # float32 (N, L)
    other: np.ndarray  # float32 (N, L)
    profiles: Mapping[str, Profile]

    def said(self, posters: np.ndarray) -> tuple[ScoredPosters, ScoredPosters]:
        """What the two models say of some posters, int64 (n,)."""
        one, other = (ScoredPosters(self.truth[posters], p[posters], self.profiles) for p in (self.model, self.other))
        return one, other


def population(posters: int, seed: int = 1) -> Population:
    """Draw a population of this many posters."""
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
    """Standard normal values, float64 (N, L), that share the factors of the loadings, (L, factors)."""
    shared = generator.normal(size=(posters, loadings.shape[1])) @ loadings.T
    return shared + np.sqrt(1 - (loadings**2).sum(axis=1)) * generator.normal(size=(posters, LABELS))


def _labels(generator: np.random.Generator, utilities: np.ndarray) -> np.ndarray:
    """The one to three labels of each poster with the highest utilities, as rare as they should be: uint8 (N, L)."""
    counts = generator.choice(3, len(utilities), p=LABELS_OF_A_POSTER)
    share = PREVALENCES / PREVALENCES.sum() * (counts.mean() + 1)
    level = np.array([NormalDist().inv_cdf(p) for p in share]) * 1.3
    some = slice(0, 20_000)  # enough to find each label's level
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
    """What the scores say, float32 (N, L): right on average for each score, but for a label's shift."""
    apart = np.array([NormalDist().inv_cdf(area) for area in areas]) * np.sqrt(2)
    prevalence = truth.mean(axis=0)
    logits = np.log(prevalence / (1 - prevalence)) + apart * (noise + apart * truth) - apart**2 / 2
    return (1 / (1 + np.exp(-logits - generator.normal(size=LABELS) * MISCALIBRATED))).astype(np.float32)


@dataclass(frozen=True)
class Truths:
    """The figures of a model on the whole population, and of each label: float64 (L,)."""

    figures: dict[str, float]
    precisions: np.ndarray
    areas: np.ndarray

    def on(self, support: np.ndarray) -> dict[str, float]:
        """What a test set estimates: means over labels are of those that it has positives of, int64 (L,)."""
        return self.figures | {
            "macro_map": float(self.precisions[support > 0].mean()),
            "macro_map_frequent": float(self.precisions[support >= FREQUENT].mean()),
            "macro_roc_auc": float(self.areas[support > 0].mean()),
        }


def truths(said: ScoredPosters) -> Truths:
    """Measure everybody."""
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
    """What was found of one test set, beside what the population has."""

    __test__ = False  # pytest

    said: ScoredPosters
    figures: Mapping[str, Figure]
    labels: Sequence[LabelFigures]
    differences: Mapping[str, Difference]
    measured_difference: float  # in macro mAP
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
