"""What the model card draws, from the truth and the probabilities of the evaluated posters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genretag.bundle import Bundle
from genretag.evaluation.job import Answers
from genretag.evaluation.measuring import LabelFigures
from genretag.modeling.calibration import logits_of, sigmoid, slope_and_offset
from genretag.modeling.metrics import calibration_gaps, cross_entropies
from genretag.reports.charts import UNIT, UNIT_UP, Axis, polyline, thinned
from genretag.reports.thumbnails import Picture

CURVE_POINTS = 64
BINS = 10  # of the reliability diagram
MOST_TOGETHER = 24  # labels whose pairs are drawn
CASES = 6  # posters that it does best on, and as many that it does worst on


@dataclass(frozen=True)
class PrecisionRecall:
    """One label's curve on a canvas of 100 x 100, the chosen point, and the height of a model that never looks."""

    points: str
    chosen: tuple[float, float] | None
    null: float


@dataclass(frozen=True)
class Reliability:
    """What is said against what comes true: places on a canvas of `size`, with the share of pairs at each."""

    after: list[tuple[float, float, float]]  # x, y, radius
    after_line: str
    before_line: str | None
    before: list[tuple[float, float]]
    ticks: list[tuple[float, str]]
    size: float


@dataclass(frozen=True)
class Pair:
    """Two labels together: in the truth and in what is predicted, as shares of the posters."""

    names: tuple[str, str]
    true: float
    predicted: float


@dataclass(frozen=True)
class Together:
    """Pairs of labels: those of the truth above the diagonal, the predicted ones below it."""

    labels: list[str]
    cells: list[tuple[int, int, float, bool]]  # column, row, opacity, whether it is of the truth
    most: float  # the share that is drawn darkest
    furthest: list[Pair]


@dataclass(frozen=True)
class Case:
    """A poster that the model does well or badly on, and why."""

    id: str
    picture: Picture
    cross_entropy: float
    found: list[tuple[str, float]]  # true, and predicted
    missed: list[tuple[str, float]]  # true, not predicted
    extra: list[tuple[str, float]]  # predicted, not in the CSV
    thumbnail: str | None = None


def precision_recall(answers: Answers, rows: Sequence[LabelFigures]) -> dict[str, PrecisionRecall]:
    """The curve of each label that some poster has."""
    from sklearn.metrics import precision_recall_curve

    curves = {}
    for column, row in enumerate(rows):
        if not row.support:
            continue
        precision, recall, _ = precision_recall_curve(
            answers.said.truth[:, column], answers.said.probabilities[:, column]
        )
        some = recall > 0  # from the first poster that is found; scikit-learn's last point is none of the data
        recall, precision = thinned(recall[some], precision[some], CURVE_POINTS)
        places = [(UNIT.place(x), UNIT_UP.place(y)) for x, y in zip(recall, precision, strict=True)]
        known = row.precision == row.precision and row.recall == row.recall
        chosen = (UNIT.place(row.recall), UNIT_UP.place(row.precision)) if known else None
        curves[row.label] = PrecisionRecall(polyline(places), chosen, UNIT_UP.place(row.prevalence))
    return curves


def uncalibrated(bundle: Bundle, labels: Sequence[str], probabilities: np.ndarray) -> np.ndarray | None:
    """What the network would say without its calibration: float (N, L); none where the bundle does not tell."""
    facts = bundle.facts.get("calibration", {})
    if "temperature" not in facts:
        return None
    columns = [bundle.labels.index(label) for label in labels]
    slope, offset = (values[columns] for values in slope_and_offset(facts, len(bundle.labels)))
    return sigmoid((logits_of(probabilities) - offset) / slope)


def reliability(truth: np.ndarray, after: np.ndarray, before: np.ndarray | None, size: float = 240.0) -> Reliability:
    """The diagram of all pairs of poster and label."""
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
    """Mean probability, share that is true and share of all pairs in each bin that holds any: float (bins,) each."""
    p, t = probabilities.ravel().astype(np.float64), truth.ravel().astype(np.float64)
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    some = counts > 0
    said, true = (np.bincount(bins, weights=w, minlength=BINS)[some] / counts[some] for w in (p, t))
    return said, true, counts[some] / max(len(p), 1)


def calibration_of_labels(truth: np.ndarray, probabilities: np.ndarray) -> list[tuple[float, float]]:
    """Of each label the mean of what is said, and the expected calibration error over 15 equal bins."""
    return [
        (
            float(probabilities[:, label].mean()),
            float(np.abs(calibration_gaps(truth[:, [label]], probabilities[:, [label]]).sum(axis=0)).sum())
            / max(len(truth), 1),
        )
        for label in range(truth.shape[1])
    ]


def together(labels: Sequence[str], truth: np.ndarray, predicted: np.ndarray) -> Together:
    """Which labels come together, true and predicted: uint8 (N, L), bool (N, L)."""
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
    """The posters with the lowest and with the highest cross-entropy; `predicted` is bool (N, L)."""
    entropies = cross_entropies(answers.said.truth, answers.said.probabilities)
    order = np.argsort(entropies, kind="stable")
    few = min(CASES, len(order) // 2)
    return [_case(answers, predicted, i, entropies[i]) for i in order[:few]], [
        _case(answers, predicted, i, entropies[i]) for i in order[::-1][:few]
    ]


def _case(answers: Answers, predicted: np.ndarray, poster: int, entropy: float) -> Case:
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
