"""Count how often the 95 % intervals of `genretag evaluate` contain the population's figure, on simulated posters.

    python tests/benchmarks/coverage.py [--sets 400] [--draws 300] [--methods]

Draws test sets of 765 posters with 23 labels from a population of 100,000 (tests/simulated_posters.py). Measures each
set as `genretag evaluate --against` does, and counts how often an interval contains the population's figure. Means over
labels are compared with the population's mean over the labels that the test set has. `--methods` compares other ways to
get an interval from the same draws, and takes three times as long.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulated_posters import TestSet, population, test_sets, truths

from genretag.model.bootstrap import Resampler, draws
from genretag.model.metrics import FREQUENT, calibration_gaps
from genretag.reports.evaluation_table import figure_name

PEOPLE = 100_000
COMPARED = ("macro_map", "macro_map_frequent", "ece", "macro_f1:balanced")
LABELS_COLUMN, DIFFERENCE_COLUMN = "labels with at least 10 positives", "difference in macro mAP"
OURS = "recentred at the estimate (ours)"
Z = norm.ppf(0.975)
Ends = tuple[float, float]


class Tally:
    """Counts how often intervals contained the true value, and records their widths, by name."""

    def __init__(self) -> None:
        self.held: dict[object, list[bool]] = defaultdict(list)
        self.width: dict[object, list[float]] = defaultdict(list)
        self.kept: dict[object, list[float]] = defaultdict(list)

    def add(self, name: object, ends: Ends, true: float) -> None:
        self.held[name].append(ends[0] <= true <= ends[1])
        self.width[name].append(ends[1] - ends[0])

    def keep(self, name: object, value: float) -> None:
        self.kept[name].append(value)

    def row(self, name: object) -> str:
        held = self.held[name]
        return f"{np.mean(held):.1%} | {np.mean(self.width[name]):.4f}" if held else " | "


def main() -> None:
    """Simulate test sets, count, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", action="store_true", help="compare other methods")
    options = parser.parse_args()
    everybody = population(PEOPLE)
    both = everybody.said(np.arange(PEOPLE))
    of = truths(both[0]), truths(both[1])
    tally = Tally()
    for number, found in enumerate(test_sets(everybody, of, options.sets, options.draws, options.seed), 1):
        _count(tally, found, of[0].precisions)
        if options.methods:
            _count_methods(tally, found, of[0].precisions, options.draws, number - 1)
        if number % 50 == 0:
            print(f"{number} test sets", file=sys.stderr, flush=True)
    _print_figures(tally, list(found.figures))
    _print_labels(tally)
    if options.methods:
        _print_methods(tally)


def _count(tally: Tally, found: TestSet, precisions: np.ndarray) -> None:
    for name, figure in found.figures.items():
        tally.add(name, (figure.low, figure.high), found.true[name])
        for what, value in (("true", found.true[name]), ("measured", figure.value), ("estimate", figure.estimate)):
            tally.keep((name, what), value)
        difference = found.differences[name]
        tally.add((name, "difference"), (difference.low, difference.high), found.true_differences[name])
    for row, true in zip(found.labels, precisions, strict=True):
        if row.support:
            tally.add(("label", _group(row.support)), (row.low, row.high), true)
            tally.keep(("label", _group(row.support), "measured"), row.average_precision - true)
            tally.keep(("label", _group(row.support), "estimate"), row.estimate - true)
        if row.support >= FREQUENT:
            tally.add(("one label", row.label), (row.low, row.high), true)


def _group(support: int) -> str:
    bounds = ((1, 9), (10, 19), (20, 49), (50, 765))
    return next(f"{low} to {high}" for low, high in bounds if support <= high)


def _count_methods(tally: Tally, found: TestSet, precisions: np.ndarray, resamples: int, seed: int) -> None:
    said = found.said
    weights = next(draws(len(said.truth), resamples, seed, resamples))
    gaps = calibration_gaps(said.truth, said.probabilities)
    plain_ece = np.abs(gaps.T @ weights).sum(axis=0) / said.truth.size
    left_out = Resampler(said.truth, said.probabilities, said.profiles).figures(1 - np.eye(len(said.truth)))
    left_out["ece"] = np.abs(gaps.sum(axis=0)[:, np.newaxis] - gaps.T).sum(axis=0) / said.truth[1:].size
    for name in COMPARED:
        drawn = plain_ece if name == "ece" else found.draws[name]
        figure, true = found.figures[name], found.true[name]
        for method, ends in _methods(figure.value, drawn, left_out[name]).items():
            tally.add((name, method), ends, true)
        tally.add((name, OURS), (figure.low, figure.high), true)
    apart, true = found.differences["macro_map"], found.true_differences["macro_map"]
    differences = found.draws["macro_map"] - found.draws_of_other["macro_map"]
    for method, ends in _methods(found.measured_difference, differences, None).items():
        tally.add((DIFFERENCE_COLUMN, method), ends, true)
    tally.add((DIFFERENCE_COLUMN, OURS), (apart.low, apart.high), true)
    for name, least in (("macro_map", 1), ("macro_map_frequent", FREQUENT)):
        errors = _errors(said.truth, said.probabilities, weights, least)
        ends = _studentised(found.figures[name].value, found.draws[name], errors)
        tally.add((name, "studentised"), ends, found.true[name])
    for i, (row, true) in enumerate(zip(found.labels, precisions, strict=True)):
        if row.support >= FREQUENT:
            for method, ends in _methods(row.average_precision, found.draws["label_aps"][:, i], None).items():
                tally.add((LABELS_COLUMN, method), ends, true)
            tally.add((LABELS_COLUMN, OURS), (row.low, row.high), true)


def _methods(value: float, drawn: np.ndarray, left_out: np.ndarray | None) -> Mapping[str, Ends]:
    """Return intervals by several methods from the same draws, float64 (B,).

    `left_out` has the figure without each poster, float64 (N,).
    """
    drawn = drawn[np.isfinite(drawn)]
    (low, high), bias, sd = np.percentile(drawn, (2.5, 97.5)), drawn.mean() - value, drawn.std()
    middle = norm.ppf(np.clip(np.mean(drawn < value), 0.002, 0.998))
    found = {
        "percentile (before)": (low, high),
        "reversed (basic)": (2 * value - high, 2 * value - low),
        "percentile less twice the bootstrap's bias": (low - 2 * bias, high - 2 * bias),
        "normal, less the bootstrap's bias": (value - bias - Z * sd, value - bias + Z * sd),
        "bias-corrected (BC)": tuple(np.quantile(drawn, norm.cdf([2 * middle - Z, 2 * middle + Z]))),
    }
    if left_out is not None:
        from_mean = left_out.mean() - left_out
        curve = (from_mean**3).sum() / max(6 * (from_mean**2).sum() ** 1.5, 1e-300)
        ends = [middle + (middle + z) / (1 - curve * (middle + z)) for z in (-Z, Z)]
        found["bias-corrected and accelerated (BCa)"] = tuple(np.quantile(drawn, norm.cdf(ends)))
    return found


def _errors(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray, least: int) -> np.ndarray:
    """Return standard errors of a mean of average precisions, by the infinitesimal jackknife.

    The first is that of all posters; the others are those of each draw.
    """
    weights = np.concatenate([np.ones((len(truth), 1)), weights], axis=1)
    columns = np.flatnonzero(truth.sum(axis=0) >= least)
    influence = sum(_influence(truth[:, i], scores[:, i], weights) for i in columns) / len(columns)
    return np.sqrt((weights * influence**2).sum(axis=0))


def _studentised(value: float, drawn: np.ndarray, errors: np.ndarray) -> Ends:
    """Return the bootstrap-t interval. `errors` has the error of all posters first, and then one for each draw."""
    low, high = np.percentile((drawn - value) / np.maximum(errors[1:], 1e-9), (2.5, 97.5))
    return value - high * errors[0], value - low * errors[0]


def _influence(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the derivative of a label's average precision by the weight of each poster: float64 (N, B)."""
    order = np.argsort(-scores, kind="stable")
    true, weight = truth[order].astype(np.float64)[:, np.newaxis], weights[order]
    seen, hits = np.maximum(np.cumsum(weight, axis=0), 1), np.cumsum(weight * true, axis=0)
    precision, positives = hits / seen, np.maximum(hits[-1], 1)
    mean = (weight * true * precision).sum(axis=0) / positives
    below, below_by_precision = (
        np.cumsum((weight * true * what / seen)[::-1], axis=0)[::-1] for what in (1.0, precision)
    )
    changes = np.empty_like(weight)
    changes[order] = (true * (precision - mean + below) - below_by_precision) / positives
    return changes


def _print_figures(tally: Tally, names: list[str]) -> None:
    print("| figure | population | measured, mean | estimate, mean | interval holds | width | of differences | width |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        means = " | ".join(f"{np.mean(tally.kept[name, what]):.4f}" for what in ("true", "measured", "estimate"))
        print(f"| {figure_name(name)} | {means} | {tally.row(name)} | {tally.row((name, 'difference'))} |")


def _print_labels(tally: Tally) -> None:
    print("\n| average precision of labels by posters | measured, bias | estimate, bias | interval holds | width |")
    print("|---|---|---|---|---|")
    for group in ("1 to 9", "10 to 19", "20 to 49", "50 to 765"):
        if tally.held["label", group]:
            bias = " | ".join(f"{np.mean(tally.kept['label', group, w]):+.4f}" for w in ("measured", "estimate"))
            print(f"| {group} | {bias} | {tally.row(('label', group))} |")
    single = {key[1]: held for key, held in tally.held.items() if isinstance(key, tuple) and key[0] == "one label"}
    least = min((held for held in single.values() if len(held) >= 50), key=np.mean, default=None)
    everything = [held for each in single.values() for held in each]
    print(f"\nlabels with at least {FREQUENT} positives: {np.mean(everything):.1%} of their intervals hold", end="")
    print(f", {np.mean(least):.1%} of the label that is worst off" if least else "")


def _print_methods(tally: Tally) -> None:
    columns = (*COMPARED, LABELS_COLUMN, DIFFERENCE_COLUMN)
    print(f"\n| interval | {' | '.join([*map(figure_name, COMPARED), LABELS_COLUMN, DIFFERENCE_COLUMN])} |")
    print(f"|---|{'---|' * len(columns)}")
    methods = dict.fromkeys(key[1] for key in tally.held if isinstance(key, tuple) and key[0] in COMPARED)
    for method in [one for one in methods if one != "difference"]:
        cells = [f"{np.mean(held):.1%}" if (held := tally.held.get((name, method))) else "" for name in columns]
        print(f"| {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
