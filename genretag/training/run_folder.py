"""The folder of a run's checkpoints: whose run it is, and whether it can go on.

    CHECKPOINTS/training-run.json   settings and posters of the run; there from its start until its bundle is written
    CHECKPOINTS/run/                what Ray Train keeps of it

A run that is interrupted, at whatever moment, leaves both, and `--resume` goes on from its last epoch.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any
from uuid import uuid4

from genretag.errors import UsageError
from genretag.label_csv.settings import LabelSettings
from genretag.storage import Storage, StorageError, join
from genretag.training.labelled_posters import LabelledPosters
from genretag.training.settings import TrainSettings

NOTE, RUN = "training-run.json", "run"
# where and how fast, not what comes of it; and how the CSV is read, as the posters' fingerprints tell what came of that
FREE_TO_CHANGE = {"workers", "cpus_per_worker", "gpu", "mixed_precision", "cache", "max_failures", "summary"} | {
    setting.name for setting in fields(LabelSettings)
}

logger = logging.getLogger(__name__)


@contextmanager
def opened_run(
    checkpoints: str,
    settings: TrainSettings,
    splits: dict[str, LabelledPosters],
    storage: Storage,
    *,
    teachers: Sequence[str] = (),
    resume: bool,
) -> Iterator[None]:
    """Takes the folder for a new run, or for the one in it that is to go on, and clears it when that ends well.

    A run that could not begin to train, for which a `UsageError` says why, leaves nothing either.
    Raises `UsageError` where the folder is taken, or is not of the run that is to go on.
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
    uri = join(checkpoints, NOTE)
    try:
        if resume:
            _require_same(json.loads(bytes(storage.get(uri).data)), note, checkpoints)
        else:
            storage.create(uri, json.dumps({**note, "run": uuid4().hex}, indent=1).encode())  # no two are equal
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
    try:
        return any(storage.list(join(checkpoints, RUN)))
    except StorageError as error:
        return error.reason != "not_found"


def _clear(checkpoints: str, storage: Storage) -> None:
    try:
        storage.delete_below(join(checkpoints, RUN))
        storage.delete(join(checkpoints, NOTE))
    except StorageError as error:  # no reason to fail after all that was done
        logger.warning("%s has checkpoints that nobody needs, and cannot be cleared: %s", checkpoints, error)


def _note(settings: TrainSettings, splits: dict[str, LabelledPosters], teachers: Sequence[str]) -> dict[str, Any]:
    decisive = {name: value for name, value in asdict(settings).items() if name not in FREE_TO_CHANGE}
    decisive["teachers"] = list(teachers)
    posters = {name: part.fingerprint for name, part in splits.items()}
    return json.loads(json.dumps({"settings": decisive, "posters": posters}))  # as it comes back


def _require_same(began: dict[str, Any], goes_on: dict[str, Any], checkpoints: str) -> None:
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
