"""Calibrate a finished bundle on labelled posters, by the rules of training: calibration, int8, thresholds, figures.

The posters are divided in two. The first part decides the calibration, the int8 network and the thresholds. The second
part, `test`, only measures. The labelled posters need not cover all labels of the bundle. A label that they do not
cover gets the temperature of the others, and a threshold from its own probabilities and the global threshold.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genretag.data.splits import Splits
from genretag.errors import UsageError
from genretag.model.append_calibration import with_calibration
from genretag.model.bundle import INT8_FILES, Bundle
from genretag.model.calibration import Calibration, choose_calibration, logits_of
from genretag.model.metrics import macro_map
from genretag.model.thresholds import DEFAULT_PROFILE, threshold_profiles
from genretag.runtime.display import Display
from genretag.runtime.ray_session import Cluster
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.pipeline import score_posters
from genretag.storage import Storage
from genretag.training.make_bundle import calibration_errors, figures_next_to_null, quantized_if_as_good

logger = logging.getLogger(__name__)

LEAST_POSTERS = 20  # in each part


@dataclass(frozen=True)
class Parts:
    """The posters that decide, and the posters that measure. Both have the labels of the bundle, in its order.

    `covered`, int (C,), are the indices of the labels that the CSV has.
    """

    deciding: LabelledPosters
    test: LabelledPosters
    covered: np.ndarray


def calibrated_bundle(
    bundle: Bundle, parts: Parts, cluster: Cluster, storage: Storage, display: Display, *, int8: bool
) -> Bundle:
    """Return the bundle with a calibration, an int8 network (if it is good enough), thresholds and figures.

    If `int8` is false, the bundle gets no int8 network. The probabilities of the bundle may be calibrated already: the
    new calibration comes on top. Raises `UsageError` if too few posters can be read.
    """
    native = replace(bundle, files={name: data for name, data in bundle.files.items() if name not in INT8_FILES})
    display.phase("scoring", len(parts.deciding))
    readable, probabilities = _scored(parts.deciding, native, cluster, storage, display)
    deciding, covered = parts.deciding.where(readable), parts.covered
    truth = deciding.labelled.multi_hot[:, covered]
    calibration = choose_calibration(truth, logits_of(probabilities[:, covered]))
    slope, offset = _for_all_labels(calibration, covered, len(bundle.labels))
    quantized, facts8 = native, None
    if int8:
        display.phase("quantizing", len(deciding))
        splits = Splits(deciding, deciding, parts.test)
        of_native = macro_map(truth, probabilities[:, covered])
        quantized, _, facts8 = quantized_if_as_good(native, of_native, splits, cluster, storage, display)
    finished = replace(quantized, files=with_calibration(quantized.files, slope, offset))
    display.phase("measuring", len(deciding) + len(parts.test))
    scored = {}
    for name, posters in (("validation", deciding), ("test", parts.test)):
        kept, answers = _scored(posters, finished, cluster, storage, display)
        scored[name] = posters.labelled.multi_hot[kept][:, covered], answers[kept]
    finished = replace(finished, thresholds=threshold_profiles(*scored["validation"], covered))
    said = _facts(finished, calibration, covered, scored, deciding)
    return replace(finished, facts={**bundle.facts, **said} | ({"int8": facts8} if facts8 else {}))


def _scored(
    posters: LabelledPosters, bundle: Bundle, cluster: Cluster, storage: Storage, display: Display
) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of the posters that can be read, bool (N,), and probabilities, float32 (N, labels).

    Raises `UsageError` if fewer than `LEAST_POSTERS` can be read.
    """
    readable, probabilities = score_posters(posters, bundle, cluster, storage, display)
    if readable.sum() < LEAST_POSTERS:
        raise UsageError(
            f"only {readable.sum()} of {len(posters)} posters of a part can be read, and {LEAST_POSTERS} are needed"
        )
    return readable, np.nan_to_num(probabilities)


def _for_all_labels(calibration: Calibration, covered: np.ndarray, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and offset of every label, float64 (labels,) each. Labels that are not covered get the temperature.

    `covered` are the indices of the labels that `calibration` is of.
    """
    slope, offset = np.full(labels, 1 / calibration.temperature), np.zeros(labels)
    slope[covered], offset[covered] = calibration.slope, calibration.offset
    return slope, offset


def _facts(
    bundle: Bundle,
    calibration: Calibration,
    covered: np.ndarray,
    scored: dict[str, tuple[np.ndarray, np.ndarray]],
    deciding: LabelledPosters,
) -> dict[str, Any]:
    """Return the entries of `bundle.json` about the calibration and the figures, over the covered labels."""
    prevalence = deciding.labelled.multi_hot.mean(axis=0)
    of_covered = {name: (truth, answers[:, covered]) for name, (truth, answers) in scored.items()}
    errors = calibration_errors(calibration, of_covered)
    profile = bundle.profile(DEFAULT_PROFILE).among(covered.tolist())
    metrics = figures_next_to_null(of_covered, profile, prevalence[covered])
    logger.info(
        "calibration by %s: expected calibration error %.4f -> %.4f on the test posters",
        calibration.method,
        errors["test"]["before"],
        errors["test"]["after"],
    )
    facts: dict[str, Any] = {"metrics": metrics, "null": {"prevalence": np.round(prevalence, 6).tolist()}}
    if len(covered) == len(bundle.labels):
        return facts | {"calibration": calibration.facts() | {"ece": errors}}
    return facts | {"calibrated_labels": [bundle.labels[label] for label in covered], "ece": errors}
