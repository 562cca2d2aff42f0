"""Trained weights -> a whole bundle: calibrated, quantized, with thresholds, and measured beside the null model.

Everything is chosen on validation posters; test posters are only measured.
"""

import logging
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from genretag.bundle import INT8_FILES, Bundle
from genretag.display import QUIET, Display
from genretag.engines.saturation import saturating_layers_of
from genretag.errors import one_line
from genretag.fetching import Poster, PosterReader
from genretag.modeling.calibration import Calibration, choose_calibration, logits_of
from genretag.modeling.metrics import expected_calibration_error, macro_map, null_probabilities, summary
from genretag.modeling.thresholds import expected_threshold, threshold_profiles
from genretag.profiles import DEFAULT_PROFILE, Profile
from genretag.ray_session import Cluster
from genretag.storage import Storage
from genretag.training.evaluation import score_labelled, score_posters
from genretag.training.export import bundle_files
from genretag.training.instruction_sets import answers_under_each, changes
from genretag.training.labelled_posters import LabelledPosters, split_rule
from genretag.training.quantization import CALIBRATION_POSTERS, MAP_IT_MAY_COST, int8_files
from genretag.training.settings import TrainSettings
from genretag.training.training_ids import training_ids_facts, training_ids_file

CALIBRATION_THREADS = 4

Scored = dict[str, tuple[np.ndarray, np.ndarray]]  # by split: truth and probabilities


@dataclass(frozen=True)
class Finished:
    """The bundle, and what it says of the test posters that could be scored."""

    bundle: Bundle
    test_posters: LabelledPosters
    test_probabilities: np.ndarray  # float32 (N, L)


logger = logging.getLogger(__name__)


def finish_bundle(
    weights: list[np.ndarray],
    splits: dict[str, LabelledPosters],
    settings: TrainSettings,
    cluster: Cluster,
    storage: Storage,
    display: Display = QUIET,
    *,
    teachers: Sequence[str] = (),
) -> Finished:
    """Calibrates, quantizes and chooses thresholds on validation posters, then measures on validation and test."""
    raw = Bundle(
        labels=splits["train"].labelled.labels,
        thresholds={},
        rule=settings.rule,
        backbone=settings.backbone,
        files=bundle_files(weights, settings),
    )
    display.phase("calibrating", len(splits["validation"]))
    truth, uncalibrated = score_labelled(splits["validation"], raw, cluster, storage, display)
    calibration = choose_calibration(truth, logits_of(uncalibrated))
    calibrated = replace(
        raw,
        files=bundle_files(weights, settings, calibration.slope, calibration.offset),
        facts=_facts(splits, settings, teachers),
    )
    native_map = macro_map(truth, uncalibrated)  # no slope or offset changes the order of a label's posters
    return _quantized_and_measured(calibrated, calibration, native_map, splits, cluster, storage, display)


def requantize(
    bundle: Bundle,
    splits: dict[str, LabelledPosters],
    cluster: Cluster,
    storage: Storage,
    display: Display = QUIET,
) -> Finished:
    """The same network with its int8 form made anew, and what follows from that: thresholds and figures.

    `splits` must be those of the bundle's training.
    """
    native = replace(bundle, files={name: data for name, data in bundle.files.items() if name not in INT8_FILES})
    display.phase("scoring", len(splits["validation"]))
    native_map = macro_map(*score_labelled(splits["validation"], native, cluster, storage, display))
    calibration = Calibration.from_facts(bundle.facts["calibration"], len(bundle.labels))
    return _quantized_and_measured(native, calibration, native_map, splits, cluster, storage, display)


def _quantized_and_measured(
    calibrated: Bundle,
    calibration: Calibration,
    native_map: float,
    splits: dict[str, LabelledPosters],
    cluster: Cluster,
    storage: Storage,
    display: Display,
) -> Finished:
    """The bundle with its int8 network, thresholds and figures; `native_map` is its validation macro mAP without."""
    display.phase("quantizing", len(splits["validation"]))
    chosen, validated, int8 = _with_int8_if_as_good(calibrated, native_map, splits, cluster, storage, display)
    display.phase("measuring", len(splits["test"]))
    readable, probabilities = score_posters(splits["test"], chosen, cluster, storage, display)
    test = Finished(chosen, splits["test"].where(readable), probabilities[readable])
    scored = {"validation": validated, "test": (test.test_posters.labelled.multi_hot, test.test_probabilities)}
    facts = {**calibrated.facts, "calibration": _calibration_facts(calibration, scored), "int8": int8}
    return replace(test, bundle=_with_thresholds(replace(chosen, facts=facts), scored))


def _facts(splits: dict[str, LabelledPosters], settings: TrainSettings, teachers: Sequence[str]) -> dict[str, Any]:
    """What the bundle says of where it comes from, and what `genretag evaluate` needs to know."""
    train = splits["train"].labelled
    return {
        "data": {name: {"posters": len(part), "fingerprint": part.fingerprint} for name, part in splits.items()},
        "split": asdict(split_rule(settings)),
        "null": {"prevalence": np.round(train.multi_hot.mean(axis=0), 6).tolist()},
        "training_ids": training_ids_facts(training_ids_file(train.ids)),
        "training": {"trained_at": datetime.now(UTC).isoformat(timespec="seconds")}
        | asdict(settings)
        | {"teachers": list(teachers)},
    }


def _calibration_facts(calibration: Calibration, scored: Scored) -> dict[str, Any]:
    """The choice, and the calibration error with and without it, of the network that the bundle scores with."""
    errors = {
        name: {
            "before": round(expected_calibration_error(truth, calibration.undone(probabilities)), 4),
            "after": round(expected_calibration_error(truth, probabilities), 4),
        }
        for name, (truth, probabilities) in scored.items()
    }
    logger.info(
        "calibration by %s: expected calibration error %.4f -> %.4f on validation posters, %.4f -> %.4f on test ones",
        calibration.method,
        *(errors[name][when] for name in ("validation", "test") for when in ("before", "after")),
    )
    return calibration.facts() | {"ece": errors}


def _with_thresholds(bundle: Bundle, scored: Scored) -> Bundle:
    """The bundle with thresholds that were chosen on validation posters, and its figures beside the null model's."""
    bundle = replace(bundle, thresholds=threshold_profiles(*scored["validation"]))
    prevalence = np.array(bundle.facts["null"]["prevalence"])
    null_profile = Profile((expected_threshold(prevalence),) * len(bundle.labels))
    metrics = {
        name: {
            "model": summary(truth, probabilities, bundle.profile(DEFAULT_PROFILE)),
            "null": summary(truth, null_probabilities(prevalence, len(truth)), null_profile),
        }
        for name, (truth, probabilities) in scored.items()
    }
    return replace(bundle, facts={**bundle.facts, "metrics": metrics})


def _with_int8_if_as_good(
    bundle: Bundle,
    native: float,
    splits: dict[str, LabelledPosters],
    cluster: Cluster,
    storage: Storage,
    display: Display,
) -> tuple[Bundle, tuple[np.ndarray, np.ndarray], dict[str, Any]]:
    """The bundle with its int8 network too, or as it is where that would be worse; what it says of the validation
    posters (truth and probabilities), and what both networks were worth. `native` is the validation macro mAP without.
    """
    posters = splits["train"].uris[:: max(1, len(splits["train"]) // CALIBRATION_POSTERS)][:CALIBRATION_POSTERS]
    read = PosterReader(storage, bundle.rule, CALIBRATION_THREADS).read_many(posters)
    images = np.stack([poster.image.pixels for poster in read if isinstance(poster, Poster)])
    quantized = replace(bundle, files={**bundle.files, **int8_files(bundle.files, images)})
    validated = score_labelled(splits["validation"], quantized, cluster, storage, display)
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
    display.phase("measuring", len(splits["validation"]) + len(splits["test"]))
    return bundle, score_labelled(splits["validation"], bundle, cluster, storage, display), facts


def _says_the_same_everywhere(
    quantized: Bundle, profile: Profile, images: np.ndarray
) -> tuple[bool, dict[str, dict[str, float]]]:
    """Whether the int8 network keeps to the bound on CPUs of every kind; and what was found under each that is here."""
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
