"""Probabilities that come true as often as they say: what the logits are scaled and shifted by, fitted on validation
data.

Two ways, of which cross-validation chooses: one temperature for all labels (Guo et al. 2017, arXiv:1706.04599), or a
slope and an offset per label (Platt 1999), each drawn towards the temperature as far as its few positives leave open.
Isotonic regression per label is not among them: on validation sets of this size it made the cross-entropy worse.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FOLDS = 5
PRIOR_PRECISION = 10.0  # of slope and offset around the temperature: a standard deviation of .3, before any poster
LEAST_SLOPE = 0.1  # of the temperature's: a negative one would turn a label's ranking round
CLIP = 1e-7  # keeps the logit of a probability of exactly 0 or 1 finite


@dataclass(frozen=True, eq=False)
class Calibration:
    """sigmoid(slope * logit + offset) is the calibrated probability; both are float64 (L,)."""

    method: str  # temperature or platt
    slope: np.ndarray
    offset: np.ndarray
    temperature: float
    cross_entropy: dict[str, float]  # of each method under cross-validation, in nats

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], labels: int) -> "Calibration":
        """What a bundle of so many labels says of its own, as exactly as it does; `KeyError` where it does not."""
        slope, offset = slope_and_offset(facts, labels)
        return cls(facts["method"], slope, offset, facts["temperature"], dict(facts["cross_validated_cross_entropy"]))

    def undone(self, probabilities: np.ndarray) -> np.ndarray:
        """What the network would say without it: calibrated float (N, L) -> float64 (N, L)."""
        return sigmoid((logits_of(probabilities) - self.offset) / self.slope)

    def facts(self) -> dict[str, Any]:
        """What a bundle says of it."""
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
    """Those of a bundle's calibration by what it says of it, float64 (labels,) both; `KeyError` where it does not."""
    if "slope" in facts and "offset" in facts:
        return np.array(facts["slope"], dtype=np.float64), np.array(facts["offset"], dtype=np.float64)
    return np.full(labels, 1 / float(facts["temperature"])), np.zeros(labels)


def choose_calibration(truth: np.ndarray, logits: np.ndarray) -> Calibration:
    """Platt per label where its cross-validated cross-entropy is the lower one, else one temperature.

    `truth` is uint8 (N, L), `logits` float (N, L) of a network that is not calibrated. The folds are every fifth
    poster, so the same data give the same choice.
    """
    methods: dict[str, Fit] = {"temperature": _temperature, "platt": fit_platt}
    losses = {name: _cross_validated(fit, truth, logits) for name, fit in methods.items()}
    method = "platt" if losses["platt"] < losses["temperature"] else "temperature"
    slope, offset = methods[method](truth, logits)
    return Calibration(method, slope, offset, fit_temperature(truth, logits), losses)


def fit_temperature(truth: np.ndarray, logits: np.ndarray) -> float:
    """Returns the temperature T that minimises the cross-entropy of sigmoid(logits / T).

    `truth` is uint8 (N, L), `logits` float (N, L). Above 1 the network was too sure of itself.
    """
    from scipy.optimize import minimize_scalar

    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return _cross_entropy(truth, scores / np.exp(log_temperature))

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x))


def fit_platt(truth: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A slope and an offset for each label, float64 (L,) both, with a normal prior around the temperature.

    `truth` is uint8 (N, L), `logits` float (N, L). A label with no positives keeps close to the temperature.
    """
    temperature = fit_temperature(truth, logits)
    scores = logits.astype(np.float64) / temperature
    fitted = [_platt_of_one(truth[:, label], scores[:, label]) for label in range(truth.shape[1])]
    relative, offset = np.array(fitted).T
    return relative / temperature, offset


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """float (N, L) -> float64 (N, L), finite for 0 and 1 too."""
    p = np.clip(probabilities.astype(np.float64), CLIP, 1 - CLIP)
    return np.log(p / (1 - p))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits to probabilities, in the shape that they have."""
    return 1 / (1 + np.exp(-logits))


def _temperature(truth: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = truth.shape[1]
    return np.full(labels, 1 / fit_temperature(truth, logits)), np.zeros(labels)


def _platt_of_one(truth: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """The slope and the offset of one label: uint8 (N,), float64 (N,)."""
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
    """The cross-entropy of posters whose calibration was fitted on the other folds."""
    fold = np.arange(len(truth)) % FOLDS
    calibrated = np.empty(logits.shape, dtype=np.float64)
    for held_out in range(FOLDS):
        slope, offset = fit(truth[fold != held_out], logits[fold != held_out])
        calibrated[fold == held_out] = logits[fold == held_out] * slope + offset
    return _cross_entropy(truth, calibrated)


def _cross_entropy(truth: np.ndarray, logits: np.ndarray) -> float:
    """Mean over posters and labels of the cross-entropy of sigmoid(logits), in nats."""
    return float(np.logaddexp(0.0, np.where(truth.astype(bool), -logits, logits)).mean())
