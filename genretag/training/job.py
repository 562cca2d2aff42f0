"""One training run, from the labels to the written bundle."""

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from genretag.bundle import MANIFEST, Bundle, write_bundle
from genretag.errors import JobError, UsageError, one_line
from genretag.images import ImageRule
from genretag.noise import stderr_muted
from genretag.progress import open_board, watch
from genretag.ray_session import ray_session
from genretag.session import Session
from genretag.storage import Storage, StorageError, join, resolve
from genretag.training.finishing import finish_bundle
from genretag.training.labelled_posters import LabelledPosters, read_labelled_posters
from genretag.training.posters import labelled_dataset
from genretag.training.settings import TrainSettings
from genretag.training.training_ids import TRAINING_IDS, training_ids_file
from genretag.training.worker import read_checkpoint, train_worker

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
    overwrite: bool = False,
) -> Bundle:
    """Trains on the labelled posters and writes the bundle to `output`.

    `checkpoints` is where workers leave theirs: shared by all nodes, local and temporary when not given.
    Raises `UsageError` where a person must act, `JobError` where the workers failed too often.
    """
    output, storage = resolve(output), session.storage
    splits = read_labelled_posters(labels, images, settings, storage)
    _claim(output, settings, splits, storage, overwrite)
    with ray_session(session) as cluster, tempfile.TemporaryDirectory() as folder:
        weights, history = _fit(splits, settings, session, checkpoints or folder)
        bundle = finish_bundle(weights, splits, settings, cluster, storage)
    storage.put(join(output, RUN_NOTE), _json({"settings": asdict(settings), "epochs": history}))
    storage.put(join(output, TRAINING_IDS), training_ids_file(splits["train"].labelled.ids))
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


def _fit(
    splits: dict[str, LabelledPosters],
    settings: TrainSettings,
    session: Session,
    checkpoints: str,
) -> tuple[list[np.ndarray], list[dict[str, float]]]:
    """Runs the data-parallel workers; returns the weights of the best epoch and the history of all."""
    with stderr_muted(not session.verbose):  # TensorFlow is imported here for the first time
        import ray.train
        from ray.train.tensorflow import TensorflowTrainer

    rule = ImageRule(settings.height, settings.width)
    board = open_board()
    trainer = TensorflowTrainer(
        train_worker,
        train_loop_config={
            "settings": settings,
            "prevalence": splits["train"].labelled.multi_hot.mean(axis=0),
            "posters": len(splits["train"]),
            "board": board,
        },
        datasets={
            name: labelled_dataset(
                splits[name].uris, splits[name].labelled.multi_hot, rule, session.storage, settings.seed
            )
            for name in ("train", "validation")
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpu,
            resources_per_worker={"CPU": settings.cpus_per_worker, "GPU": int(settings.gpu)},
        ),
        run_config=_run_config(settings, checkpoints, session.storage),
    )
    with watch(board, _describer(settings, len(splits["train"])), quiet=session.quiet):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise JobError(f"training failed: {one_line(error, 1000)}") from error
    best = max(result.best_checkpoints or [], key=lambda pair: pair[1]["macro_map"])[0]
    _, history = read_checkpoint(result.checkpoint)
    weights, _ = read_checkpoint(best)
    return weights, history


def _run_config(settings: TrainSettings, checkpoints: str, storage: Storage) -> Any:
    import pyarrow.fs
    import ray.train

    filesystem, path = storage.filesystem(resolve(checkpoints))
    return ray.train.RunConfig(
        name=f"train-{datetime.now(UTC):%Y%m%dT%H%M%SZ}",
        storage_path=path,
        storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
        failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
        checkpoint_config=ray.train.CheckpointConfig(
            num_to_keep=2, checkpoint_score_attribute="macro_map", checkpoint_score_order="max"
        ),
    )


def _describer(settings: TrainSettings, posters: int) -> Callable[[dict[str, Any]], str]:
    epochs = settings.head_epochs + settings.epochs

    def describe(values: dict[str, Any]) -> str:
        if "epoch" not in values:
            return f"training on {posters:,} posters: starting {settings.workers} workers"
        return f"training: epoch {values['epoch']}/{epochs}, {values['posters']:,} of {posters:,} posters"

    return describe


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()
