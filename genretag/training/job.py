"""One training run, from the labels to the written bundle."""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from genretag.bundle import MANIFEST, Bundle, write_bundle
from genretag.display import Display
from genretag.errors import UsageError
from genretag.ray_session import ray_session
from genretag.reports.training_card import card_of_training
from genretag.reports.writing import draw_if_possible
from genretag.session import Session
from genretag.stopping import going_on
from genretag.storage import Storage, StorageError, join, resolve
from genretag.training.finishing import finish_bundle
from genretag.training.fitting import fit
from genretag.training.labelled_posters import LabelledPosters, read_labelled_posters
from genretag.training.run_folder import opened_run
from genretag.training.settings import TrainSettings
from genretag.training.teaching import load_teachers, with_targets
from genretag.training.training_ids import TRAINING_IDS, training_ids_file

RUN_NOTE = "training.json"  # settings and epochs, for people; no part of what decides a prediction

logger = logging.getLogger(__name__)


def train(
    labels: str,
    images: str,
    output: str,
    settings: TrainSettings,
    session: Session,
    *,
    teachers: Sequence[str] = (),
    checkpoints: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Trains on the labelled posters, and on what `teachers`, other bundles, say of them; writes it to `output`.

    `checkpoints` is where workers leave theirs: shared by all nodes, local and temporary when not given. A run that
    was interrupted goes on from there with `resume`; one that ends well leaves nothing there.
    Raises `UsageError` where a person must act, `JobError` where the workers failed too often.
    """
    if resume and not checkpoints:
        raise UsageError("--resume needs --checkpoints: the folder of the run that is to go on")
    output, storage = resolve(output), session.storage
    with tempfile.TemporaryDirectory() as folder, Display(session) as display:
        display.phase("reading")
        splits = read_labelled_posters(labels, images, settings, storage)
        asked = load_teachers(teachers, splits, storage)
        _claim(output, settings, splits, storage, overwrite)
        display.phase("starting Ray")
        run_folder = resolve(checkpoints or folder)
        versions = [teacher.bundle.model_version for teacher in asked]
        with (
            opened_run(run_folder, settings, splits, storage, teachers=versions, resume=resume),
            going_on(_how_to_go_on(checkpoints)),
            ray_session(session) as cluster,
        ):
            if asked:
                share = settings.teacher_share
                splits["train"] = with_targets(splits["train"], asked, share, cluster, storage, display)
            fitted = fit(splits, settings, session, cluster, run_folder, display)
            finished = finish_bundle(fitted.weights, splits, settings, cluster, storage, display, teachers=versions)
            display.phase("writing")
            storage.put(join(output, RUN_NOTE), _json({"settings": asdict(settings), "epochs": fitted.history}))
            storage.put(join(output, TRAINING_IDS), training_ids_file(splits["train"].labelled.ids))
            write_bundle(finished.bundle, output, storage)
        draw_if_possible("the model card", lambda: card_of_training(finished, output, storage))
    return finished.bundle


def _how_to_go_on(checkpoints: str | None) -> str:
    if checkpoints:
        return "finished epochs are kept, the same command with --resume goes on from there"
    return "its epochs were not kept: with --checkpoints FOLDER a run that is stopped can go on with --resume"


def _claim(
    output: str,
    settings: TrainSettings,
    splits: dict[str, LabelledPosters],
    storage: Storage,
    overwrite: bool,
) -> None:
    """Finds out before the hours of training whether the bundle can be written."""
    require_free(output, storage, overwrite)
    try:
        posters = {name: len(part) for name, part in splits.items()}
        storage.put(join(output, RUN_NOTE), _json({"settings": asdict(settings), "posters": posters}))
    except StorageError as error:
        raise UsageError(f"cannot write the bundle to {output}: {error}") from error


def require_free(output: str, storage: Storage, overwrite: bool) -> None:
    """Raises `UsageError` where a bundle is there that may not be replaced, or the place cannot be read."""
    try:
        if not overwrite and _exists(join(output, MANIFEST), storage):
            raise UsageError(f"there is a bundle at {output}: name another place, or pass --overwrite")
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


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()
