"""Make a bundle from trained weights: calibrate, quantize, choose thresholds, and measure next to the null model.

A bundle holds the Keras model and the same network for OpenVINO. It also holds the int8 network, if that is nearly as
good. For every poster, the null model predicts the same probabilities: each label's share of the training posters.

Validation posters decide every choice. Test posters decide nothing: the finished bundle is measured on them.
"""

import logging
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from genretag.data.splits import Splits
from genretag.errors import one_line
from genretag.model.bundle import INT8_FILES, KERAS_FILE, OPENVINO_FILES, Bundle
from genretag.model.calibration import Calibration, choose_calibration, logits_of
from genretag.model.engines.openvino_engine import saturating_layers_of
from genretag.model.metrics import expected_calibration_error, macro_map, null_probabilities, summary
from genretag.model.networks import build_network, scoring_network
from genretag.model.openvino_graphs import convert_keras, graph_files
from genretag.model.thresholds import DEFAULT_PROFILE, Profile, expected_threshold, threshold_profiles
from genretag.runtime.display import QUIET, Display
from genretag.runtime.ray_session import Cluster
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.pipeline import score_labelled, score_posters
from genretag.scoring.training_ids import training_ids_facts, training_ids_file
from genretag.storage import Storage
from genretag.training.int8 import MAP_IT_MAY_COST, answers_under_each, calibration_images, changes, int8_files
from genretag.training.settings import TrainSettings
from genretag.training.splits import split_rule

logger = logging.getLogger(__name__)


def bundle_files(
    weights: list[np.ndarray],
    settings: TrainSettings,
    slope: np.ndarray | None = None,
    offset: np.ndarray | None = None,
) -> dict[str, bytes]:
    """Return a bundle's Keras and OpenVINO files, by name. The network returns sigmoid(slope * logits + offset).

    `weights` are in the order of `build_network`; the last one is the head's bias. `slope` and `offset` are float
    (labels,). None means 1 for each slope and 0 for each offset.
    """
    labels = len(weights[-1])
    network = build_network(settings.backbone, labels, settings.height, settings.width)
    network.set_weights(weights)
    slope = np.ones(labels) if slope is None else slope
    offset = np.zeros(labels) if offset is None else offset
    return network_files(scoring_network(network, slope, offset))


def network_files(scoring: Any) -> dict[str, bytes]:
    """Return the Keras and OpenVINO files of `scoring`, by name. `scoring` is a Keras model that gives probabilities.

    This function changes `scoring`: it rounds the weights to float16, because OpenVINO's file stores float16. So all
    engines compute with the same numbers.
    """
    scoring.set_weights([weights.astype(np.float16).astype(np.float32) for weights in scoring.get_weights()])
    with tempfile.TemporaryDirectory() as folder:
        scoring.save(Path(folder) / KERAS_FILE)
        keras_file = (Path(folder) / KERAS_FILE).read_bytes()
    return {KERAS_FILE: keras_file, **graph_files(convert_keras(scoring), OPENVINO_FILES, half=True)}


Scored = dict[str, tuple[np.ndarray, np.ndarray]]  # by split: truth uint8 (N, L), probabilities float32 (N, L)


@dataclass(frozen=True)
class MeasuredBundle:
    """A bundle with its figures, and its probabilities for the test posters that could be scored."""

    bundle: Bundle
    test_posters: LabelledPosters
    test_probabilities: np.ndarray  # float32 (N, L)


def make_bundle(
    weights: list[np.ndarray],
    splits: Splits[LabelledPosters],
    settings: TrainSettings,
    cluster: Cluster,
    storage: Storage,
    display: Display = QUIET,
    *,
    teachers: Sequence[str] = (),
) -> MeasuredBundle:
    """Make a bundle from trained weights, and measure it on the validation and test posters.

    Validation posters decide the calibration, the thresholds, and whether the bundle gets the int8 network. Training
    posters give the ranges for the quantization. `weights` are in the order of `build_network`. `teachers` are the
    model versions of the bundles whose probabilities the network also learned. The new bundle records them.
    """
    raw = Bundle(
        labels=splits.train.labelled.labels,
        thresholds={},
        rule=settings.rule,
        backbone=settings.backbone,
        files=bundle_files(weights, settings),
    )
    display.phase("calibrating", len(splits.validation))
    truth, uncalibrated = score_labelled(splits.validation, raw, cluster, storage, display)
    calibration = choose_calibration(truth, logits_of(uncalibrated))
    calibrated = replace(
        raw,
        files=bundle_files(weights, settings, calibration.slope, calibration.offset),
        facts=_facts(splits, settings, teachers),
    )
    native_map = macro_map(truth, uncalibrated)  # slope and offset do not change the order of a label's posters
    return _quantized_and_measured(calibrated, calibration, native_map, splits, cluster, storage, display)


def requantize(
    bundle: Bundle,
    splits: Splits[LabelledPosters],
    cluster: Cluster,
    storage: Storage,
    display: Display = QUIET,
) -> MeasuredBundle:
    """Make a bundle's int8 network again, choose the thresholds again, and measure.

    The native (not quantized) network stays as it is. `splits` must be the posters that the bundle was trained with.
    Raises `KeyError` if `bundle.facts` lacks the entry `calibration` or the entry `null`.
    """
    native = replace(bundle, files={name: data for name, data in bundle.files.items() if name not in INT8_FILES})
    display.phase("scoring", len(splits.validation))
    native_map = macro_map(*score_labelled(splits.validation, native, cluster, storage, display))
    calibration = Calibration.from_facts(bundle.facts["calibration"], len(bundle.labels))
    return _quantized_and_measured(native, calibration, native_map, splits, cluster, storage, display)


def _quantized_and_measured(
    calibrated: Bundle,
    calibration: Calibration,
    native_map: float,
    splits: Splits[LabelledPosters],
    cluster: Cluster,
    storage: Storage,
    display: Display,
) -> MeasuredBundle:
    """Add the int8 network (if it is good enough), the thresholds and the figures to a calibrated bundle.

    `calibrated` has only the native (not quantized) network, and `native_map` is that network's macro mAP on the
    validation posters.
    """
    display.phase("quantizing", len(splits.validation))
    chosen, validated, int8 = quantized_if_as_good(calibrated, native_map, splits, cluster, storage, display)
    display.phase("measuring", len(splits.test))
    readable, probabilities = score_posters(splits.test, chosen, cluster, storage, display)
    test = MeasuredBundle(chosen, splits.test.where(readable), probabilities[readable])
    scored = {"validation": validated, "test": (test.test_posters.labelled.multi_hot, test.test_probabilities)}
    facts = {**calibrated.facts, "calibration": _calibration_facts(calibration, scored), "int8": int8}
    return replace(test, bundle=_with_thresholds(replace(chosen, facts=facts), scored))


def _facts(splits: Splits[LabelledPosters], settings: TrainSettings, teachers: Sequence[str]) -> dict[str, Any]:
    """Return the entries of `bundle.json` about the posters, the split and the training.

    `genretag evaluate` needs some of these entries. `teachers` are the model versions of the bundles whose
    probabilities the network also learned.
    """
    train = splits.train.labelled
    return {
        "data": {
            name: {"posters": len(part), "fingerprint": part.fingerprint} for name, part in splits.parts().items()
        },
        "split": asdict(split_rule(settings)),
        "null": {"prevalence": np.round(train.multi_hot.mean(axis=0), 6).tolist()},
        "training_ids": training_ids_facts(training_ids_file(train.ids)),
        "training": {"trained_at": datetime.now(UTC).isoformat(timespec="seconds")}
        | asdict(settings)
        | {"teachers": list(teachers)},
    }


def _calibration_facts(calibration: Calibration, scored: Scored) -> dict[str, Any]:
    """Return the entry of `bundle.json` about the calibration, with calibration errors by split.

    The entry has the expected calibration error before and after calibration. `scored` has the truth and the calibrated
    probabilities of the network that the bundle uses for scoring.
    """
    errors = calibration_errors(calibration, scored)
    logger.info(
        "calibration by %s: expected calibration error %.4f -> %.4f on validation posters, %.4f -> %.4f on test ones",
        calibration.method,
        *(errors[name][when] for name in ("validation", "test") for when in ("before", "after")),
    )
    return calibration.facts() | {"ece": errors}


def calibration_errors(calibration: Calibration, scored: Scored) -> dict[str, dict[str, float]]:
    """Return the expected calibration error of each split in `scored`, before and after the calibration."""
    return {
        name: {
            "before": round(expected_calibration_error(truth, calibration.undone(probabilities)), 4),
            "after": round(expected_calibration_error(truth, probabilities), 4),
        }
        for name, (truth, probabilities) in scored.items()
    }


def figures_next_to_null(scored: Scored, profile: Profile, prevalence: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the figures of each split in `scored`, next to those of the null model.

    `profile` decides the labels of the model. The null model predicts `prevalence`, float (L,), for every poster.
    """
    null_profile = Profile((expected_threshold(prevalence),) * len(prevalence))
    return {
        name: {
            "model": summary(truth, probabilities, profile),
            "null": summary(truth, null_probabilities(prevalence, len(truth)), null_profile),
        }
        for name, (truth, probabilities) in scored.items()
    }


def _with_thresholds(bundle: Bundle, scored: Scored) -> Bundle:
    """Return the bundle with threshold profiles (named sets of thresholds) and with figures for each split in `scored`.

    The validation posters decide the thresholds. Each split also gets the figures of the null model, which predicts
    each label's share of the training posters.
    """
    bundle = replace(bundle, thresholds=threshold_profiles(*scored["validation"]))
    prevalence = np.array(bundle.facts["null"]["prevalence"])
    metrics = figures_next_to_null(scored, bundle.profile(DEFAULT_PROFILE), prevalence)
    return replace(bundle, facts={**bundle.facts, "metrics": metrics})


def quantized_if_as_good(
    bundle: Bundle,
    native: float,
    splits: Splits[LabelledPosters],
    cluster: Cluster,
    storage: Storage,
    display: Display,
) -> tuple[Bundle, tuple[np.ndarray, np.ndarray], dict[str, Any]]:
    """Quantize a bundle's network. Return the bundle with the int8 network if that is good enough.

    The int8 network is good enough if it loses less than `MAP_IT_MAY_COST` of validation macro mAP. It must also give
    nearly the same predictions under all instruction sets. `native` is the validation macro mAP of the native (not
    quantized) network.

    Also return the truth and the probabilities of the validation posters, and the entry of `bundle.json` that compares
    the two networks. The probabilities are those of the network that the returned bundle uses.
    """
    images = calibration_images(splits.train, bundle.rule, storage)
    quantized = replace(bundle, files={**bundle.files, **int8_files(bundle.files, images)})
    validated = score_labelled(splits.validation, quantized, cluster, storage, display)
    int8 = macro_map(*validated)
    profile = Profile(threshold_profiles(*validated)[DEFAULT_PROFILE])
    same, by_instruction_set = _says_the_same_everywhere(quantized, profile, images)
    kept = native - int8 < MAP_IT_MAY_COST and same
    logger.info("validation macro mAP %.4f, in int8 %.4f: int8 is %s", native, int8, "kept" if kept else "left out")
    facts = {
        "kept": kept,
        "validation_macro_map": {"native": round(native, 4), "int8": round(int8, 4)},
        "instruction_sets": by_instruction_set,
    }
    if kept:
        return quantized, validated, facts
    display.phase("measuring", len(splits.validation) + len(splits.test))
    return bundle, score_labelled(splits.validation, bundle, cluster, storage, display), facts


def _says_the_same_everywhere(
    quantized: Bundle, profile: Profile, images: np.ndarray
) -> tuple[bool, dict[str, dict[str, float]]]:
    """Return True if the int8 network of `quantized` predicts nearly the same under all instruction sets.

    Also return the differences by instruction set. `profile` decides the genres that are compared, and `images` are
    posters, uint8 (N, height, width, 3). The first value is False if a difference is too large, or if a layer's sums
    would overflow on CPUs without VNNI. If the network does not run under an instruction set, return False and an empty
    dictionary.
    """
    layers = saturating_layers_of(quantized.files)
    if layers:
        logger.warning("%d layers of the int8 network saturate on CPUs without VNNI", len(layers))
    try:
        found = changes(answers_under_each(quantized, images), profile)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        logger.warning("the int8 network cannot be tried on CPUs of every kind: %s", one_line("".join(said) or error))
        return False, {}
    for name, change in found.items():
        logger.info(
            "int8 under %s: probabilities move by at most %.4f, %.1f %% of the posters get other genres",
            name,
            change.largest_difference,
            100 * change.other_genres,
        )
    same = not layers and all(change.is_small for change in found.values())
    return same, {name: change.facts() for name, change in found.items()}
