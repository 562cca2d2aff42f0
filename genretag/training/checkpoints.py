"""Checkpoints of a training run: written after each epoch, and read to resume.

A checkpoint holds the weights, their moving average, the optimiser's state and the history. In the folder of
`--checkpoints` there are:

    training-run.json   settings and fingerprints of the posters; it exists until the bundle is written
    run/                the checkpoints that Ray Train keeps

If a run is interrupted, `training-run.json` and the checkpoints stay. `--resume` then goes on after the last finished
epoch. If no epoch had finished, the resumed run starts at the first epoch.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from genretag.data.splits import Splits
from genretag.errors import UsageError
from genretag.model.losses import LabelLoss
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.settings import LabelSettings
from genretag.storage import Storage, StorageError, join
from genretag.training.settings import TrainSettings

logger = logging.getLogger(__name__)

WEIGHTS, STATE, OPTIMIZER = "weights.npz", "state.json", "optimizer.npz"


def report(replica: "Replica", metrics: dict[str, Any], phase_starts: int) -> None:
    """Report the metrics of an epoch to Ray Train. Worker 0 also writes and reports the checkpoint of the epoch.

    All workers must call this once per epoch. `replica` holds this worker's networks and history. `phase_starts` is the
    epoch, from 0, in which the current phase (head or fine-tuning) began.
    """
    import ray.train

    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder) / WEIGHTS, replica.average.weights)
        _save(Path(folder) / OPTIMIZER, [*replica.learner.weights, *replica.learner.optimizer.variables])
        state = {"history": replica.history, "phase_starts": phase_starts}
        (Path(folder) / STATE).write_text(json.dumps(state))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def restore_weights(replica: "Replica") -> None:
    """Load the last checkpoint into `replica`: the weights, their moving average and the history.

    `replica` holds this worker's networks. If Ray Train has no checkpoint of the run, leave `replica` unchanged.
    """
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        _load(Path(folder) / WEIGHTS, replica.average.weights)
        _load(Path(folder) / OPTIMIZER, replica.learner.weights)
        replica.history = json.loads((Path(folder) / STATE).read_text())["history"]


def restore_optimizer(replica: "Replica", phase_starts: int) -> None:
    """Load the optimiser's state of the last checkpoint into `replica`, if the checkpoint is of the current phase.

    The phases are head and fine-tuning. `replica` holds this worker's networks. `phase_starts` is the epoch, from 0, in
    which the current phase began. If the checkpoint is of an earlier phase, or if there is no checkpoint, leave the
    optimiser unchanged.
    """
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        if json.loads((Path(folder) / STATE).read_text())["phase_starts"] == phase_starts:
            _load(Path(folder) / OPTIMIZER, [*replica.learner.weights, *replica.learner.optimizer.variables])


def read_checkpoint(checkpoint: Any) -> tuple[list[np.ndarray], list[dict[str, float]]]:
    """Return the moving average of the weights in a Ray Train checkpoint, and the history up to its epoch.

    The weights are in the network's order. The history has one dictionary of metrics per epoch.
    """
    with checkpoint.as_directory() as folder:
        with np.load(Path(folder) / WEIGHTS) as arrays:
            weights = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
        return weights, json.loads((Path(folder) / STATE).read_text())["history"]


def _save(file: Path, variables: list[Any]) -> None:
    """Write the values of `variables` to the .npz file `file`, in order."""
    np.savez(file, *[np.asarray(variable) for variable in variables])


def _load(file: Path, variables: list[Any]) -> None:
    """Assign the arrays of the .npz file `file` to `variables`, in order."""
    with np.load(file) as arrays:
        for index, variable in enumerate(variables):
            variable.assign(arrays[f"arr_{index}"])


NOTE, RUN = "training-run.json", "run"
# Settings that may differ when a run is resumed. Most of them decide where and how fast to train, not what to learn.
# The others are for reading the CSV: the fingerprints of the posters show if the CSV gave other posters or labels.
FREE_TO_CHANGE = {"workers", "cpus_per_worker", "gpu", "mixed_precision", "cache", "max_failures", "summary"} | {
    setting.name for setting in fields(LabelSettings)
}


@contextmanager
def opened_run(
    checkpoints: str,
    settings: TrainSettings,
    splits: Splits[LabelledPosters],
    storage: Storage,
    *,
    teachers: Sequence[str] = (),
    resume: bool,
) -> Iterator[None]:
    """Reserve the folder `checkpoints` for one run during the `with` block. After a success, delete the checkpoints.

    With `resume`, the folder must belong to an interrupted run with the same settings, posters and `teachers`. Settings
    in `FREE_TO_CHANGE` may differ. Without `resume`, the folder must not hold an unfinished run. `teachers` are the
    model versions of the bundles whose probabilities the network also learns.

    Raises `UsageError` if the folder does not meet these conditions, or cannot be read or written. If the block raises
    a `UsageError` before Ray Train has written anything, the note of the run in the folder, `training-run.json`, is
    deleted too. After any other exception, the checkpoints and `training-run.json` stay, so that the run can be
    resumed.
    """
    _take(checkpoints, _note(settings, splits, teachers), storage, resume=resume)
    try:
        yield
    except UsageError:
        if not _has_trained(checkpoints, storage):
            _clear(checkpoints, storage)
        raise
    _clear(checkpoints, storage)


def _take(checkpoints: str, note: dict[str, Any], storage: Storage, *, resume: bool) -> None:
    """Write `note` to `training-run.json` in the folder. With `resume`, compare `note` with that file instead.

    `note` has the settings of the run and fingerprints of its posters (see `_note`). With `resume`, the file must exist
    and must not differ from `note`. Without `resume`, the file must not exist yet. Raises `UsageError` if the file does
    not meet these conditions, or cannot be read or written.
    """
    uri = join(checkpoints, NOTE)
    try:
        if resume:
            _require_same(json.loads(bytes(storage.get(uri).data)), note, checkpoints)
        else:
            storage.create(uri, json.dumps({**note, "run": uuid4().hex}, indent=1).encode())  # a random id
    except ValueError as error:
        raise UsageError(f"{uri} is damaged: remove the folder and start again without --resume") from error
    except StorageError as error:
        if error.reason == "not_found" and resume:
            raise UsageError(
                f"there is nothing to resume in {checkpoints}: no run began there, or it ended well; "
                "start one without --resume"
            ) from error
        if error.reason == "exists":
            raise UsageError(
                f"{checkpoints} has the checkpoints of a run that did not end: go on with --resume, "
                "or name another folder"
            ) from error
        raise UsageError(f"cannot keep checkpoints in {checkpoints}: {error}") from error


def _has_trained(checkpoints: str, storage: Storage) -> bool:
    """Return True if the folder holds checkpoints, or if an error prevents listing. A missing folder gives False."""
    try:
        return any(storage.list(join(checkpoints, RUN)))
    except StorageError as error:
        return error.reason != "not_found"


def _clear(checkpoints: str, storage: Storage) -> None:
    """Delete the checkpoints and `training-run.json`. If that fails, only log a warning."""
    try:
        storage.delete_below(join(checkpoints, RUN))
        storage.delete(join(checkpoints, NOTE))
    except StorageError as error:  # the run itself succeeded, so it must not fail here
        logger.warning("%s has checkpoints that nobody needs, and cannot be cleared: %s", checkpoints, error)


def _note(settings: TrainSettings, splits: Splits[LabelledPosters], teachers: Sequence[str]) -> dict[str, Any]:
    """Return the content of `training-run.json`: the settings that decide the result, and each split's fingerprint.

    A fingerprint is a hash of the posters' ids and labels. `teachers` are the model versions of the bundles whose
    probabilities the network also learns.
    """
    decisive = {name: value for name, value in asdict(settings).items() if name not in FREE_TO_CHANGE}
    decisive["teachers"] = list(teachers)
    posters = {name: part.fingerprint for name, part in splits.parts().items()}
    return json.loads(json.dumps({"settings": decisive, "posters": posters}))  # as read back: tuples are lists


def _require_same(began: dict[str, Any], goes_on: dict[str, Any], checkpoints: str) -> None:
    """Raise `UsageError` if two contents of `training-run.json` differ in the settings or the posters.

    `began` is the content of that file in the folder `checkpoints`. `goes_on` is the content that the resumed run would
    write.
    """
    for name, value in goes_on["settings"].items():
        before = began["settings"].get(name)
        if before != value:
            raise UsageError(
                f"the run in {checkpoints} began with {name} {before}, not {value}: "
                "resume it with the same settings, or start another in another folder"
            )
    if began["posters"] != goes_on["posters"]:
        raise UsageError(
            f"the run in {checkpoints} began with other posters or labels: start another in another folder"
        )


@dataclass
class Replica:
    """The networks, loss, settings and history of one worker.

    `learner` is the network that trains. `strategy` keeps its weights equal on all workers. `average` is a second
    network with the moving average of these weights. The bundle gets the weights of `average`.
    """

    strategy: Any
    learner: Any
    average: Any
    loss: LabelLoss
    settings: TrainSettings
    history: list[dict[str, float]] = field(default_factory=list)  # one entry per epoch
