"""Runs the data-parallel workers under Ray Train, from labelled posters to the weights of the best epoch."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from genretag.cluster_checks import Ask, RoomWatch, require_room, require_seen
from genretag.display import QUIET, Display
from genretag.errors import JobError, UsageError, one_line
from genretag.noise import stderr_muted
from genretag.progress import last_words, open_board
from genretag.ray_session import Cluster
from genretag.session import Session
from genretag.stopping import keeping_ctrl_c
from genretag.storage import Storage
from genretag.training.checkpoints import read_checkpoint
from genretag.training.decoding import DecodedPosters, decode_posters
from genretag.training.labelled_posters import LabelledPosters
from genretag.training.run_folder import RUN
from genretag.training.sampling import shown_posters
from genretag.training.settings import TrainSettings
from genretag.training.worker import train_worker

DECODING = Ask("a task that decodes", 1.0)
STARTS_AT_MOST = 30  # of workers for whom there is no room: Ray Train tries each for a minute

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """What came of the workers."""

    weights: list[np.ndarray]  # of the epoch that was best on validation posters
    history: list[dict[str, float]]  # of each epoch
    worker_bytes: int  # the most memory that a worker has had resident


def fit(
    splits: dict[str, LabelledPosters],
    settings: TrainSettings,
    session: Session,
    cluster: Cluster,
    checkpoints: str,
    display: Display = QUIET,
) -> Fitted:
    """Trains from the last checkpoint in `checkpoints`, or from the start where there is none.

    Raises `UsageError` where too few posters can be read, `JobError` where workers failed too often.
    """
    with stderr_muted(not session.verbose):  # TensorFlow is imported here for the first time
        import ray.train
        from ray.train.tensorflow import TensorflowTrainer
    _require_a_fit_cluster(splits, settings, session, cluster, checkpoints)
    board = open_board()
    learned = {"train": shown_posters(splits["train"], settings), "validation": splits["validation"]}
    try:
        decoded = _decode(learned, settings, session, cluster, display)
        config = {
            "settings": settings,
            "prevalence": learned["train"].labelled.multi_hot.mean(axis=0),
            "board": board,
            **decoded,
        }
        display.phase("starting")
        require_room([_workers(settings, cluster)], session.wait_for_nodes_s)  # as decoding may have taken long
        with display.following(board, _showing(display, settings, len(decoded["train"]))):
            trainer = TensorflowTrainer(
                train_worker,
                train_loop_config=config,
                scaling_config=_scaling_config(settings, cluster),
                run_config=_run_config(settings, checkpoints, session.storage),
            )
            with keeping_ctrl_c():
                result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise JobError(f"training failed: {one_line(error, 1000)}") from error
    except ray.exceptions.RayError as error:
        raise JobError(f"training failed under Ray: {one_line(error, 1000)}") from error
    worker_bytes = int(last_words(board).get("worker_bytes", 0))
    logger.info("training took at most %.2f GiB of memory in a worker", worker_bytes / 2**30)
    best = max(result.best_checkpoints or [], key=lambda pair: pair[1]["macro_map"])[0]
    _, history = read_checkpoint(result.checkpoint)
    weights, _ = read_checkpoint(best)
    return Fitted(weights, history, worker_bytes)


def _decode(
    splits: dict[str, LabelledPosters], settings: TrainSettings, session: Session, cluster: Cluster, display: Display
) -> dict[str, DecodedPosters]:
    """The splits that workers need, decoded. Raises `UsageError` where no batch can be read."""
    decoded, done = {}, 0
    watch = RoomWatch([DECODING], session.wait_for_nodes_s)
    display.phase("decoding", sum(map(len, splits.values())))

    def progress(posters: int) -> None:
        nonlocal done
        done += posters
        display.advance(posters)

    for name in ("train", "validation"):
        at_once = max(2, int(cluster.cpus))  # on one CPU two, of which one may wait for the store
        split = decode_posters(
            splits[name],
            settings.rule,
            settings.cache,
            session.storage,
            at_once=at_once,
            progress=progress,
            waiting=lambda: watch.look(lambda: done > 0),
        )
        for reason, count in split.failures.items():
            logger.warning("%d %s posters cannot be read and are left out: %s", count, name, reason)
        decoded[name] = split
    if len(decoded["train"]) < settings.batch_size or not len(decoded["validation"]):
        raise UsageError(
            f"only {len(decoded['train'])} training and {len(decoded['validation'])} validation posters can be read, "
            f"less than a batch of {settings.batch_size} and one: {decoded['train'].failures}"
        )
    return decoded


def _require_a_fit_cluster(
    splits: dict[str, LabelledPosters], settings: TrainSettings, session: Session, cluster: Cluster, checkpoints: str
) -> None:
    """Raises `UsageError` where the workers could never start, or would lose their checkpoints."""
    require_room([DECODING, _workers(settings, cluster)], session.wait_for_nodes_s)
    folders = {os.path.dirname(uri) for split in splits.values() for uri in split.uris[:1]}  # noqa: PTH120 - URIs
    require_seen([*sorted(folders), checkpoints], "training (its posters, and --checkpoints)")


def _workers(settings: TrainSettings, cluster: Cluster) -> Ask:
    fewest, _ = settings.worker_range
    return Ask("training workers", _cpus_of_a_worker(settings, cluster), float(settings.gpu), fewest)


def _cpus_of_a_worker(settings: TrainSettings, cluster: Cluster) -> float:
    """What it asks Ray for: of a range of workers real CPUs, not logical ones, so that there is not room for more."""
    import ray

    (fewest, most), cpus = settings.worker_range, float(settings.cpus_per_worker)
    declared = ray.cluster_resources().get("CPU", 0.0)
    return cpus * max(1.0, declared / cluster.cpus) if fewest < most else cpus


def _scaling_config(settings: TrainSettings, cluster: Cluster) -> Any:
    """As many workers as the settings say; of a range, as many as there is room for (real CPUs, not logical ones)."""
    import ray.train

    (fewest, most), cpus = settings.worker_range, _cpus_of_a_worker(settings, cluster)
    workers: Any = most if fewest == most else (fewest, most)  # a range makes the run elastic
    return ray.train.ScalingConfig(
        num_workers=workers,
        use_gpu=settings.gpu,
        resources_per_worker={"CPU": cpus, "GPU": int(settings.gpu)},
    )


def _run_config(settings: TrainSettings, checkpoints: str, storage: Storage) -> Any:
    """The run always has the same name in its folder: by that Ray Train finds the checkpoints to go on from."""
    import pyarrow.fs
    import ray.train

    filesystem, path = storage.filesystem(checkpoints)
    failures: dict[str, Any] = {"max_failures": settings.max_failures, "controller_failure_limit": STARTS_AT_MOST}
    return ray.train.RunConfig(
        name=RUN,
        storage_path=path,
        storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
        failure_config=ray.train.FailureConfig(**failures),
        checkpoint_config=ray.train.CheckpointConfig(
            num_to_keep=2, checkpoint_score_attribute="macro_map", checkpoint_score_order="max"
        ),
    )


def _showing(display: Display, settings: TrainSettings, posters: int) -> Callable[[dict[str, Any]], None]:
    """Shows what the board says; training begins with the first step that is done."""
    epochs, each = settings.head_epochs + settings.epochs, posters // settings.batch_size * settings.batch_size

    def show(values: dict[str, Any]) -> None:
        if "epoch" in values:
            epoch, done = values["epoch"], values["posters"]
            unreadable = f"{values['unreadable']:,} unreadable" if "unreadable" in values else ""
            display.phase("training", epochs * each)
            display.count((epoch - 1) * each + done, unreadable, step=(f"epoch {epoch}/{epochs}", done, each))

    return show
