"""Estimate the figures of all posters of a kind from a few hundred of them, without small-sample bias.

Average precision and calibration error are too large on a small sample. `docs/evaluation.md` has the derivation, the
sources and a simulation that compares these estimates with others.
"""

import numpy as np


def population_average_precisions(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Estimate each label's average precision: uint8 (N, L), float (N, L) -> float64 (L,), NaN without positives."""
    return np.array([population_average_precision(truth[:, i], scores[:, i]) for i in range(truth.shape[1])])


def population_average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Estimate the average precision over all posters of the kind, from 0 to 1: uint8 (N,), float (N,) -> float.

    Average precision is the mean, over the positives, of the share of positives among the posters at that score or
    above. Two biases are removed. A positive counts itself in its own share, which is then too large: here each share
    is that of the *other* posters, whose expectation is the population's precision (leave one out, as in a
    U-statistic; Hoeffding 1948). And samples that happen to hold more positives have more precision but the same
    weight, as in every mean over a random number of things: the first-order bias of a ratio is added back
    (Cochran 1977, chapter 6). Returns NaN where there are no positives, and 1 where there is only one poster.
    """
    order = np.argsort(-scores, kind="stable")
    true, ordered = truth[order].astype(np.float64), scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # equal scores share a place
    place = np.searchsorted(ends, np.flatnonzero(true))  # of each positive
    positives = len(place)
    if positives == 0:
        return float("nan")
    if len(true) == 1:
        return 1.0
    seen, hits = (ends + 1.0), np.cumsum(true)[ends]
    alone = seen[place] == 1  # nobody is above the first one: the next place says how precise the top is
    place = place + alone
    shares = (hits[place] - 1) / (seen[place] - 1)
    ratio = (shares * (1 - shares)).mean() * (1 - positives / len(true)) / positives
    return float(min(shares.mean() + ratio, 1.0))


def without_folding(gaps: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Return |gap| less the bias that the absolute value gives to a noisy gap; the result may be below 0.

    `gaps` are mean differences of probability and truth, their standard errors are `deviations`; both float64 of
    shapes that broadcast. The mean of a folded normal distribution says what |gap| is expected to be
    (Leone, Nelson and Nottingham 1961; as a correction of calibration errors: Bröcker 2012, Roelofs et al. 2022).
    """
    from scipy.special import ndtr

    size, noise = np.abs(gaps), np.maximum(deviations, 1e-300)
    ratio = np.minimum(size / noise, 40.0)  # beyond, nothing is folded
    folded = noise * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + size * (1 - 2 * ndtr(-ratio))
    return np.asarray(2 * size - folded)
