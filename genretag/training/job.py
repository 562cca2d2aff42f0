"""One training run, from the labels to the written bundle."""

import json
import logging
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from genretag.bundle import DEFAULT_PROFILE, MANIFEST, Bundle, write_bundle
from genretag.errors import UsageError
from genretag.fetching import Poster, PosterReader
from genretag.modeling.calibration import fit_temperature
from genretag.modeling.metrics import macro_map, null_probabilities, summary
from genretag.modeling.thresholds import balanced_thresholds, global_threshold
from genretag.ray_session import Cluster, ray_session
from genretag.session import Session
from genretag.storage import Storage, StorageError, join, resolve
from genretag.training.evaluation import score_labelled
from genretag.training.export import bundle_files
from genretag.training.fitting import fit
from genretag.training.labelled_posters import LabelledPosters, read_labelled_posters
from genretag.training.quantization import CALIBRATION_POSTERS, MAP_IT_MAY_COST, int8_files
from genretag.training.run_folder import opened_run
from genretag.training.settings import TrainSettings

CALIBRATION_THREADS = 4
RUN_NOTE = "training.json"  # settings and epochs, for people; no part of what decides a prediction

logger = logging.getLogger(__name__)


def train(
    labels: str,
    images: str,
    output: str,
    settings: TrainSettings,
    session: Session,
    *,
    checkpoints: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Trains on the labelled posters and writes the bundle to `output`.

    `checkpoints` is where workers leave theirs: shared by all nodes, local and temporary when not given. A run that
    was interrupted goes on from there with `resume`; one that ends well leaves nothing there.
    Raises `UsageError` where a person must act, `JobError` where the workers failed too often.
    """
    if resume and not checkpoints:
        raise UsageError("--resume needs --checkpoints: the folder of the run that is to go on")
    output, storage = resolve(output), session.storage
    splits = read_labelled_posters(labels, images, settings, storage)
    _claim(output, settings, splits, storage, overwrite)
    with tempfile.TemporaryDirectory() as folder:
        run_folder = resolve(checkpoints or folder)
        with opened_run(run_folder, settings, splits, storage, resume=resume), ray_session(session) as cluster:
            fitted = fit(splits, settings, session, cluster, run_folder)
            bundle = _finish(fitted.weights, splits, settings, cluster, storage)
            storage.put(join(output, RUN_NOTE), _json({"settings": asdict(settings), "epochs": fitted.history}))
            write_bundle(bundle, output, storage)
    return bundle


def _claim(
    output: str,
    settings: TrainSettings,
    splits: dict[str, LabelledPosters],
    storage: Storage,
    overwrite: bool,
) -> None:
    """Finds out before the hours of training whether the bundle can be written."""
    try:
        if not overwrite and _exists(join(output, MANIFEST), storage):
            raise UsageError(f"there is a bundle at {output}: name another place, or pass --overwrite")
        posters = {name: len(part) for name, part in splits.items()}
        storage.put(join(output, RUN_NOTE), _json({"settings": asdict(settings), "posters": posters}))
    except StorageError as error:
        raise UsageError(f"cannot write the bundle to {output}: {error}") from error


def _exists(uri: str, storage: Storage) -> bool:
    try:
        storage.stat(uri)
    except StorageError as error:
        if error.reason == "not_found":
            return False
        raise
    return True


def _finish(
    weights: list[np.ndarray],
    splits: dict[str, LabelledPosters],
    settings: TrainSettings,
    cluster: Cluster,
    storage: Storage,
) -> Bundle:
    """Calibrates, quantizes and chooses thresholds on validation posters, then measures on validation and test."""
    raw = Bundle(
        labels=splits["train"].labelled.labels,
        thresholds={},
        rule=settings.rule,
        backbone=settings.backbone,
        files=bundle_files(weights, settings),
    )
    truth, uncalibrated = score_labelled(splits["validation"], raw, cluster, storage)
    p = np.clip(uncalibrated.astype(np.float64), 1e-7, 1 - 1e-7)
    temperature = fit_temperature(truth, np.log(p / (1 - p)))
    calibrated = replace(raw, files=bundle_files(weights, settings, temperature))
    chosen, int8 = _with_int8_if_as_good(calibrated, splits, cluster, storage)
    facts = {
        "calibration": {"temperature": round(temperature, 4)},
        "int8": int8,
        "data": {name: {"posters": len(p), "fingerprint": p.fingerprint} for name, p in splits.items()},
        "training": {"trained_at": datetime.now(UTC).isoformat(timespec="seconds")} | asdict(settings),
    }
    return _measured(replace(chosen, facts=facts), splits, cluster, storage)


def _measured(bundle: Bundle, splits: dict[str, LabelledPosters], cluster: Cluster, storage: Storage) -> Bundle:
    """The bundle with thresholds that were chosen on validation posters, and its figures beside the null model's."""
    scored = {name: score_labelled(splits[name], bundle, cluster, storage) for name in ("validation", "test")}
    thresholds = balanced_thresholds(*scored["validation"])
    null = {name: null_probabilities(splits["train"].labelled.multi_hot, len(scored[name][0])) for name in scored}
    null_thresholds = np.full(len(bundle.labels), global_threshold(scored["validation"][0], null["validation"]))
    metrics = {
        name: {
            "model": summary(truth, probabilities, thresholds),
            "null": summary(truth, null[name], null_thresholds),
        }
        for name, (truth, probabilities) in scored.items()
    }
    return replace(
        bundle,
        thresholds={DEFAULT_PROFILE: tuple(round(float(value), 4) for value in thresholds)},
        facts={**bundle.facts, "metrics": metrics},
    )


def _with_int8_if_as_good(
    bundle: Bundle, splits: dict[str, LabelledPosters], cluster: Cluster, storage: Storage
) -> tuple[Bundle, dict[str, Any]]:
    """The bundle with its int8 network too, or as it is where that would be worse; and what both were worth."""
    posters = splits["train"].uris[:: max(1, len(splits["train"]) // CALIBRATION_POSTERS)][:CALIBRATION_POSTERS]
    read = PosterReader(storage, bundle.rule, CALIBRATION_THREADS).read_many(posters)
    images = np.stack([poster.image.pixels for poster in read if isinstance(poster, Poster)])
    quantized = replace(bundle, files={**bundle.files, **int8_files(bundle.files, images)})
    native, int8 = (macro_map(*score_labelled(splits["validation"], b, cluster, storage)) for b in (bundle, quantized))
    kept = native - int8 < MAP_IT_MAY_COST
    logger.info("validation macro mAP %.4f, in int8 %.4f: int8 is %s", native, int8, "kept" if kept else "left out")
    facts = {"kept": kept, "validation_macro_map": {"native": round(native, 4), "int8": round(int8, 4)}}
    return quantized if kept else bundle, facts


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()
