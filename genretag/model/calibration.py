"""Calibration: a scale and shift of the logits, fitted on validation data, that makes probabilities match frequencies.

Among predictions with a calibrated probability of 0.8, 80 % are true. Cross-validation chooses between two methods. The
first is a single temperature for all labels (Guo et al. 2017, arXiv:1706.04599). The second is a slope and an offset
for each label (Platt 1999). A prior pulls each slope and offset towards the temperature, most strongly for labels with
few positives.

Isotonic regression for each label was tried. On a validation set of about 700 posters, it made the cross-entropy
worse.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FOLDS = 5
PRIOR_PRECISION = 10.0  # 1 / variance of the prior on slope and offset: a standard deviation of .3
LEAST_SLOPE = 0.1  # times the temperature's slope; a negative slope would reverse a label's ranking
CLIP = 1e-7  # keeps the logit of a probability of exactly 0 or 1 finite


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fitted calibration: the probability is sigmoid(slope * logit + offset). `slope` and `offset` are float64 (L,).

    If `method` is temperature, every slope is 1 / `temperature` and every offset is 0.
    """

    method: str  # temperature or platt
    slope: np.ndarray
    offset: np.ndarray
    temperature: float
    cross_entropy: dict[str, float]  # by method: the cross-validated mean, in nats

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], labels: int) -> "Calibration":
        """Return the calibration from the dictionary that `facts()` returned, with its rounded numbers.

        `labels` is the number of labels. Raises `KeyError` if `facts` lacks a value.
        """
        slope, offset = slope_and_offset(facts, labels)
        return cls(facts["method"], slope, offset, facts["temperature"], dict(facts["cross_validated_cross_entropy"]))

    def undone(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the network's probabilities before calibration: calibrated float (N, L) -> float64 (N, L)."""
        return sigmoid((logits_of(probabilities) - self.offset) / self.slope)

    def facts(self) -> dict[str, Any]:
        """Return this calibration as a dictionary for `bundle.json`, with rounded numbers. `from_facts` reads it."""
        facts: dict[str, Any] = {
            "method": self.method,
            "temperature": round(self.temperature, 4),
            "cross_validated_cross_entropy": {name: round(loss, 6) for name, loss in self.cross_entropy.items()},
            "folds": FOLDS,
        }
        if self.method == "platt":
            facts |= {"slope": np.round(self.slope, 4).tolist(), "offset": np.round(self.offset, 4).tolist()}
        return facts


Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # truth, logits -> slope, offset


def slope_and_offset(facts: Mapping[str, Any], labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and offset of each label, float64 (labels,) each, from the `calibration` entry of a `bundle.json`.

    `facts` is this entry. If it has only a temperature T, every slope is 1 / T and every offset is 0. Raises `KeyError`
    if it has no temperature either.
    """
    if "slope" in facts and "offset" in facts:
        return np.array(facts["slope"], dtype=np.float64), np.array(facts["offset"], dtype=np.float64)
    return np.full(labels, 1 / float(facts["temperature"])), np.zeros(labels)


def choose_calibration(truth: np.ndarray, logits: np.ndarray) -> Calibration:
    """Fit two calibration methods, and return the fit with the lower cross-validated cross-entropy.

    The methods are one temperature for all labels, and Platt's slope and offset for each label. If the cross-entropies
    are equal, return the temperature. `truth` is uint8 (N, L). `logits` is float (N, L), from a network that is not
    calibrated. Each of the five folds has every fifth poster, so the same data give the same choice.
    """
    methods: dict[str, Fit] = {"temperature": _temperature, "platt": fit_platt}
    losses = {name: _cross_validated(fit, truth, logits) for name, fit in methods.items()}
    method = "platt" if losses["platt"] < losses["temperature"] else "temperature"
    slope, offset = methods[method](truth, logits)
    return Calibration(method, slope, offset, fit_temperature(truth, logits), losses)


def fit_temperature(truth: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature T that minimises the cross-entropy of sigmoid(logits / T), from exp(-2) to exp(2).

    `truth` is uint8 (N, L) and `logits` is float (N, L). If T is above 1, the network's probabilities were too close to
    0 and 1.
    """
    from scipy.optimize import minimize_scalar

    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return _cross_entropy(truth, scores / np.exp(log_temperature))

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x))


def fit_platt(truth: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a slope and an offset of the logits for each label. Return both, float64 (L,) each.

    A normal prior pulls both towards those of a single temperature for all labels. For a label without positives, the
    prior keeps the fit finite. `truth` is uint8 (N, L) and `logits` is float (N, L).
    """
    temperature = fit_temperature(truth, logits)
    scores = logits.astype(np.float64) / temperature
    fitted = [_platt_of_one(truth[:, label], scores[:, label]) for label in range(truth.shape[1])]
    relative, offset = np.array(fitted).T
    return relative / temperature, offset


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the logits of probabilities: float (N, L) -> float64 (N, L). Logits of 0 and 1 are finite too."""
    p = np.clip(probabilities.astype(np.float64), CLIP, 1 - CLIP)
    return np.log(p / (1 - p))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits, in the same shape."""
    return 1 / (1 + np.exp(-logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of labels that exclude each other: float (N, L) -> float (N, L)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _temperature(truth: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit one temperature, and return it as a slope and an offset for each label: float64 (L,) each."""
    labels = truth.shape[1]
    return np.full(labels, 1 / fit_temperature(truth, logits)), np.zeros(labels)


def _platt_of_one(truth: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the fitted slope and offset of one label.

    `truth` is uint8 (N,). `scores` are the label's logits divided by the temperature, float64 (N,).
    """
    from scipy.optimize import minimize

    positive = truth.astype(np.float64)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        slope, offset = values
        logits = slope * scores + offset
        wrong = sigmoid(logits) - positive
        entropy = np.logaddexp(0.0, logits).sum() - positive @ logits
        away = np.array([slope - 1.0, offset])
        gradient = np.array([wrong @ scores, wrong.sum()]) + PRIOR_PRECISION * away
        return float(entropy + PRIOR_PRECISION / 2 * away @ away), gradient

    bounds = [(LEAST_SLOPE, None), (None, None)]
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(found[0]), float(found[1])


def _cross_validated(fit: Fit, truth: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean cross-entropy, in nats, of the calibration method `fit` in cross-validation with `FOLDS` folds.

    Each poster is calibrated with slopes and offsets fitted on the other folds. `truth` is uint8 (N, L) and `logits` is
    float (N, L).
    """
    fold = np.arange(len(truth)) % FOLDS
    calibrated = np.empty(logits.shape, dtype=np.float64)
    for held_out in range(FOLDS):
        slope, offset = fit(truth[fold != held_out], logits[fold != held_out])
        calibrated[fold == held_out] = logits[fold == held_out] * slope + offset
    return _cross_entropy(truth, calibrated)


def _cross_entropy(truth: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean cross-entropy of sigmoid(logits) over posters and labels, in nats."""
    return float(np.logaddexp(0.0, np.where(truth.astype(bool), -logits, logits)).mean())
