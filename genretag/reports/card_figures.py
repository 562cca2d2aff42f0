"""Compute the charts of the model card from the true labels and the probabilities of the evaluated posters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genretag.evaluation.measure import LabelFigures
from genretag.evaluation.results import Answers
from genretag.model.bundle import Bundle
from genretag.model.calibration import logits_of, sigmoid, slope_and_offset
from genretag.model.metrics import calibration_gaps, cross_entropies
from genretag.reports.page import UNIT, UNIT_UP, Axis, polyline, thinned
from genretag.reports.tagged_posters import Picture

CURVE_POINTS = 64
BINS = 10  # of the reliability diagram
MOST_TOGETHER = 24  # labels whose pairs are drawn
CASES = 6  # posters that the model does best on, and the same number that it does worst on


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision against recall of one label, on a canvas of 100 x 100 units with precision upwards.

    `points` is the curve, as `points` of an SVG polyline. `chosen` is the place (x, y) of the label's threshold, or
    None if precision or recall has no value there. `null` is the y of the line of the null model, which gives every
    poster the same probabilities.
    """

    points: str
    chosen: tuple[float, float] | None
    null: float


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: predicted probability (x) against the share of true pairs of poster and label (y).

    The canvas is `size` x `size` units. A pair is true if the poster has the label. `after` has the dots with
    calibration; a larger radius means more pairs. `before` has the dots without calibration. If the probabilities
    without calibration are unknown, `before` is empty and `before_line` is None. `after_line` and `before_line` are
    `points` of SVG polylines.
    """

    after: list[tuple[float, float, float]]  # x, y, radius
    after_line: str
    before_line: str | None
    before: list[tuple[float, float]]
    ticks: list[tuple[float, str]]
    size: float


@dataclass(frozen=True)
class Pair:
    """Two labels, and the share of posters that have both: by the CSV of labels (`true`) and by the predictions."""

    names: tuple[str, str]
    true: float
    predicted: float


@dataclass(frozen=True)
class Together:
    """Matrix with the share of posters that have both labels, for each two labels.

    The shares above the diagonal are those in the CSV of labels. The shares below the diagonal are those in the
    predictions. `furthest` has the pairs of labels whose true and predicted shares differ most, at most 5 pairs.
    """

    labels: list[str]
    cells: list[tuple[int, int, float, bool]]  # column, row, opacity, True if the share is that of the CSV
    most: float  # the share that has the darkest cell
    furthest: list[Pair]


@dataclass(frozen=True)
class Case:
    """A poster that the model does well or badly on, with its labels and their probabilities.

    `thumbnail` is WebP in base64, or None if there is no picture. `mask` is the evidence mask of the most probable
    label, or None if there is none.
    """

    id: str
    picture: Picture
    cross_entropy: float
    found: list[tuple[str, float]]  # true, and predicted
    missed: list[tuple[str, float]]  # true, not predicted
    extra: list[tuple[str, float]]  # predicted, not in the CSV
    thumbnail: str | None = None
    mask: str | None = None

    @property
    def most_probable(self) -> str | None:
        """The most probable of the labels that are named here, or None if none is named."""
        return max([*self.found, *self.missed, *self.extra], key=lambda pair: pair[1], default=(None, 0))[0]


def precision_recall(answers: Answers, rows: Sequence[LabelFigures]) -> dict[str, PrecisionRecall]:
    """Return the precision-recall curve of each label in `rows` that has positives, by label."""
    from sklearn.metrics import precision_recall_curve

    curves = {}
    for column, row in enumerate(rows):
        if not row.support:
            continue
        precision, recall, _ = precision_recall_curve(
            answers.said.truth[:, column], answers.said.probabilities[:, column]
        )
        some = recall > 0  # from the first true positive on; scikit-learn's last point is not from the data
        recall, precision = thinned(recall[some], precision[some], CURVE_POINTS)
        places = [(UNIT.place(x), UNIT_UP.place(y)) for x, y in zip(recall, precision, strict=True)]
        known = row.precision == row.precision and row.recall == row.recall
        chosen = (UNIT.place(row.recall), UNIT_UP.place(row.precision)) if known else None
        curves[row.label] = PrecisionRecall(polyline(places), chosen, UNIT_UP.place(row.prevalence))
    return curves


def uncalibrated(bundle: Bundle, labels: Sequence[str], probabilities: np.ndarray) -> np.ndarray | None:
    """Return the probabilities before calibration, float64 (N, L).

    `probabilities` are calibrated, float (N, L), with a column for each of `labels`. Return None if the bundle does not
    record its calibration.
    """
    facts = bundle.facts.get("calibration", {})
    if "temperature" not in facts:
        return None
    columns = [bundle.labels.index(label) for label in labels]
    slope, offset = (values[columns] for values in slope_and_offset(facts, len(bundle.labels)))
    return sigmoid((logits_of(probabilities) - offset) / slope)


def reliability(truth: np.ndarray, after: np.ndarray, before: np.ndarray | None, size: float = 240.0) -> Reliability:
    """Return the reliability diagram of all pairs of poster and label.

    `truth` is uint8 (N, L). `after` and `before` are probabilities, float (N, L), with and without calibration. If
    `before` is None, only `after` is drawn. `size` is the side of the canvas.
    """
    said, true, share = _binned(truth, after)
    most = max(float(np.max(said)), float(np.max(true)), 0.1) if len(said) else 1.0
    across, up = Axis(0.0, min(1.0, most * 1.05), size), Axis(0.0, min(1.0, most * 1.05), size, up=True)

    def places(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
        return [(across.place(a), up.place(b)) for a, b in zip(x, y, strict=True)]

    radius = 3 + 7 * np.sqrt(share)
    dots = [(x, y, round(float(r), 1)) for (x, y), r in zip(places(said, true), radius, strict=True)]
    earlier = places(*_binned(truth, before)[:2]) if before is not None else []
    line = polyline(earlier) if earlier else None
    return Reliability(dots, polyline(places(said, true)), line, earlier, across.ticks(5), size)


def _binned(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort all pairs of poster and label into `BINS` equal bins of probability.

    Return for each non-empty bin the mean probability, the share of true pairs, and the bin's share of all pairs. A
    pair is true if the poster has the label. Each result is float64 (bins,).
    """
    p, t = probabilities.ravel().astype(np.float64), truth.ravel().astype(np.float64)
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    some = counts > 0
    said, true = (np.bincount(bins, weights=w, minlength=BINS)[some] / counts[some] for w in (p, t))
    return said, true, counts[some] / max(len(p), 1)


def calibration_of_labels(truth: np.ndarray, probabilities: np.ndarray) -> list[tuple[float, float]]:
    """Return for each label its mean probability, and its expected calibration error over 15 equal bins.

    `truth` is uint8 (N, L), `probabilities` float (N, L).
    """
    return [
        (
            float(probabilities[:, label].mean()),
            float(np.abs(calibration_gaps(truth[:, [label]], probabilities[:, [label]]).sum(axis=0)).sum())
            / max(len(truth), 1),
        )
        for label in range(truth.shape[1])
    ]


def together(labels: Sequence[str], truth: np.ndarray, predicted: np.ndarray) -> Together:
    """Return how often two labels occur together in the CSV and in the predictions.

    `truth` is uint8 (N, L), and `predicted` is bool (N, L). Only the `MOST_TOGETHER` labels with the most positives are
    included.
    """
    kept = np.sort(np.argsort(-truth.sum(axis=0), kind="stable")[:MOST_TOGETHER])
    true, said = (np.asarray(m[:, kept], dtype=np.float64) for m in (truth, predicted))
    shares_true, shares_said = (m.T @ m / max(len(m), 1) for m in (true, said))
    names = [labels[i] for i in kept]
    upper = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
    pairs = [Pair((names[a], names[b]), float(shares_true[a, b]), float(shares_said[a, b])) for a, b in upper]
    most = max([max(p.true, p.predicted) for p in pairs] + [1e-9])
    cells = []
    for (a, b), pair in zip(upper, pairs, strict=True):
        if pair.true:
            cells.append((b, a, round((pair.true / most) ** 0.5, 3), True))
        if pair.predicted:
            cells.append((a, b, round((pair.predicted / most) ** 0.5, 3), False))
    furthest = sorted(pairs, key=lambda p: -abs(p.predicted - p.true))[:5]
    return Together(names, cells, most, furthest)


def cases(answers: Answers, predicted: np.ndarray) -> tuple[list[Case], list[Case]]:
    """Return the posters with the lowest cross-entropy, and the posters with the highest, at most `CASES` of each.

    The most extreme poster comes first, and no poster is in both lists. `predicted`, bool (N, L), says which labels are
    predicted.
    """
    entropies = cross_entropies(answers.said.truth, answers.said.probabilities)
    order = np.argsort(entropies, kind="stable")
    few = min(CASES, len(order) // 2)
    return [_case(answers, predicted, i, entropies[i]) for i in order[:few]], [
        _case(answers, predicted, i, entropies[i]) for i in order[::-1][:few]
    ]


def _case(answers: Answers, predicted: np.ndarray, poster: int, entropy: float) -> Case:
    """Return the `Case` of the poster with index `poster` and the cross-entropy `entropy`, without a thumbnail."""
    posters, said = answers.posters, answers.said
    true = said.truth[poster].astype(bool)

    def named(mask: np.ndarray) -> list[tuple[str, float]]:
        found = [(posters.labelled.labels[i], float(said.probabilities[poster, i])) for i in np.flatnonzero(mask)]
        return sorted(found, key=lambda pair: -pair[1])

    return Case(
        posters.labelled.ids[poster],
        Picture(posters.uris[poster], posters.etags[poster]),
        float(entropy),
        named(true & predicted[poster]),
        named(true & ~predicted[poster]),
        named(~true & predicted[poster]),
    )
