"""`genretag train`: one training run, from the labels to the written bundle."""

import json
import tempfile
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from genretag.data.splits import Splits
from genretag.errors import JobError, UsageError
from genretag.model.backbones import backbone_named
from genretag.model.bundle import MANIFEST, Bundle, write_bundle
from genretag.model.networks import Start, pretrained_weights
from genretag.reports.model_card import card_of_training
from genretag.reports.page import draw_if_possible
from genretag.runtime.display import Display
from genretag.runtime.ray_session import Cluster, ray_session
from genretag.runtime.session import Session
from genretag.runtime.stopping import going_on
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.training_ids import TRAINING_IDS, training_ids_file
from genretag.storage import Storage, StorageError, join, resolve
from genretag.training.checkpoints import opened_run
from genretag.training.distillation import load_teachers, with_targets
from genretag.training.fit import TrainedWeights, fit
from genretag.training.linear_probe import Probe, probe
from genretag.training.make_bundle import MeasuredBundle, make_bundle
from genretag.training.out_of_fold import OUT_OF_FOLD, out_of_fold_facts, out_of_fold_file
from genretag.training.settings import ONE_RUN, TrainRunSettings, TrainSettings
from genretag.training.splits import read_labelled_posters

RUN_NOTE = "training.json"  # settings and epochs, for people; it does not affect any prediction


def train(
    labels: str,
    images: str,
    output: str,
    settings: TrainSettings,
    session: Session,
    run: TrainRunSettings = ONE_RUN,
) -> Bundle:
    """Train on labelled posters, and write the bundle to `output`. Return the bundle.

    `labels` is the location of a CSV, and `images` is the folder or prefix of the images. With `run.teacher`, the
    network also learns from the probabilities of other bundles.

    Raises `UsageError` if an input or `output` cannot be used, or if there are too few posters, CPUs or GPUs. Raises
    `JobError` if the workers failed too often, or if the bundle cannot be written after the training.
    """
    output, session = resolve(output), session.owning(output, run.checkpoints, *run.teacher)
    storage = session.storage
    with tempfile.TemporaryDirectory() as folder, Display(session) as display:
        display.phase("reading")
        splits = read_labelled_posters(labels, images, settings, storage)
        asked = load_teachers(run.teacher, splits, storage)
        features = _pretrained(settings)
        _claim(output, settings, splits, storage, run.overwrite)
        display.phase("starting Ray")
        run_folder = resolve(run.checkpoints or folder)
        versions = [teacher.bundle.model_version for teacher in asked]
        with (
            opened_run(run_folder, settings, splits, storage, teachers=versions, resume=run.resume),
            going_on(_how_to_go_on(run.checkpoints)),
            ray_session(session) as cluster,
        ):
            if asked:
                share = settings.teacher_share
                taught = with_targets(splits.train, asked, share, cluster, storage, display)
                splits = replace(splits, train=taught)
            fitted, probed = _trained(features, splits, settings, session, cluster, run_folder, display)
            finished = make_bundle(fitted.weights, splits, settings, cluster, storage, display, teachers=versions)
            display.phase("writing")
            try:
                storage.put(join(output, RUN_NOTE), _json({"settings": asdict(settings), "epochs": fitted.history}))
                storage.put(join(output, TRAINING_IDS), training_ids_file(splits.train.labelled.ids))
                if probed and not settings.epochs:
                    finished = _with_out_of_fold(finished, probed, output, storage)
                write_bundle(finished.bundle, output, storage)
            except StorageError as error:
                how = _how_to_go_on(run.checkpoints)
                raise JobError(f"cannot write the bundle to {output} any more: {error}; {how}") from error
        draw_if_possible("the model card", lambda: card_of_training(finished, output, storage))
    return finished.bundle


def _pretrained(settings: TrainSettings) -> list[np.ndarray] | None:
    """Return the weights of the backbone, or None if the workers load them or if they are random.

    Raises `UsageError` if the weights cannot be had, or if there are none for a linear probe.
    """
    if backbone_named(settings.backbone).loads_in_workers and not settings.linear_probe:
        return None
    features = pretrained_weights(settings.backbone, settings.height, settings.width, settings.weights)
    if settings.linear_probe and features is None:
        raise UsageError(f"a linear probe needs a backbone with pretrained weights, not {settings.backbone}")
    return features


def _trained(
    features: list[np.ndarray] | None,
    splits: Splits[LabelledPosters],
    settings: TrainSettings,
    session: Session,
    cluster: Cluster,
    checkpoints: str,
    display: Display,
) -> tuple[TrainedWeights, Probe | None]:
    """Return the trained weights and, with `settings.linear_probe`, the linear probe that gave the head.

    `features` is what `_pretrained` returned.
    """
    if features is None or not settings.linear_probe:
        return fit(splits, settings, session, cluster, checkpoints, display, Start(features)), None
    probed = probe(features, splits, settings, cluster, session.storage, display)
    head = [probed.head.kernel, probed.head.bias]
    if settings.epochs:
        return fit(splits, settings, session, cluster, checkpoints, display, Start(features, head)), probed
    return TrainedWeights([*features, *head], [], 0), probed


def _with_out_of_fold(finished: MeasuredBundle, probed: Probe, output: str, storage: Storage) -> MeasuredBundle:
    """Write `out_of_fold.parquet` to `output`. Return the bundle with a record of it.

    Raises `StorageError` if the file cannot be written.
    """
    content = out_of_fold_file(probed, finished.bundle)
    storage.put(join(output, OUT_OF_FOLD), content)
    facts = {**finished.bundle.facts, "out_of_fold": out_of_fold_facts(content)}
    return replace(finished, bundle=replace(finished.bundle, facts=facts))


def _how_to_go_on(checkpoints: str | None) -> str:
    """Return a message for an interrupted run: whether its finished epochs are kept, and how to resume.

    `checkpoints` is the location of the checkpoints. None means that none are kept.
    """
    if checkpoints:
        return "finished epochs are kept, the same command with --resume goes on from there"
    return "its epochs were not kept: with --checkpoints FOLDER a run that is stopped can go on with --resume"


def _claim(
    output: str,
    settings: TrainSettings,
    splits: Splits[LabelledPosters],
    storage: Storage,
    overwrite: bool,
) -> None:
    """Check that a bundle can be written to `output`, before the hours of training.

    Write a first version of `training.json`, the record of the training, to `output`. Raises `UsageError` if `output`
    cannot be written, or if it has a bundle and `overwrite` is False.
    """
    require_free(output, storage, overwrite)
    try:
        posters = {name: len(part) for name, part in splits.parts().items()}
        storage.put(join(output, RUN_NOTE), _json({"settings": asdict(settings), "posters": posters}))
    except StorageError as error:
        raise UsageError(f"cannot write the bundle to {output}: {error}") from error


def require_free(output: str, storage: Storage, overwrite: bool) -> None:
    """Raise `UsageError` if `output` has a bundle and `overwrite` is False, or if `output` cannot be read."""
    try:
        if not overwrite and _exists(join(output, MANIFEST), storage):
            raise UsageError(f"there is a bundle at {output}: name another place, or pass --overwrite")
    except StorageError as error:
        raise UsageError(f"cannot write the bundle to {output}: {error}") from error


def _exists(uri: str, storage: Storage) -> bool:
    """Return True if the object at `uri` exists. Raises `StorageError` if the store fails or refuses."""
    try:
        storage.stat(uri)
    except StorageError as error:
        if error.reason == "not_found":
            return False
        raise
    return True


def _json(value: dict[str, Any]) -> bytes:
    """Return the value as JSON in UTF-8."""
    return json.dumps(value, indent=1).encode()
