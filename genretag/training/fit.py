"""Run the data-parallel workers under Ray Train, from labelled posters to the weights of the best epoch."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from genretag.data.splits import Splits
from genretag.errors import JobError, UsageError, one_line
from genretag.model.networks import PUBLISHED, Start
from genretag.runtime.cluster import Ask, RoomWatch, require_room, require_seen
from genretag.runtime.compat import without_train_helpers
from genretag.runtime.display import QUIET, Display
from genretag.runtime.logs import stderr_muted
from genretag.runtime.progress import last_words
from genretag.runtime.ray_session import Cluster
from genretag.runtime.session import Session
from genretag.runtime.stopping import keeping_ctrl_c
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.step_ledger import running_ledger
from genretag.storage import Storage
from genretag.training.checkpoints import RUN, read_checkpoint
from genretag.training.epoch_order import shown_posters
from genretag.training.pixels import DecodedPosters, Guard, decode_posters
from genretag.training.settings import TrainSettings
from genretag.training.worker import train_worker

logger = logging.getLogger(__name__)

DECODING = Ask("a task that decodes", 1.0)
STARTS_AT_MOST = 30  # attempts to start the workers if CPUs or GPUs are not free; each attempt takes a minute


@dataclass(frozen=True)
class TrainedWeights:
    """Result of training: the best weights, the history of all epochs, and the peak memory of a worker."""

    weights: list[np.ndarray]  # of the best epoch by validation macro mAP
    history: list[dict[str, float]]  # one entry per epoch
    worker_bytes: int  # the peak resident memory of any worker; 0 if unknown


def fit(
    splits: Splits[LabelledPosters],
    settings: TrainSettings,
    session: Session,
    cluster: Cluster,
    checkpoints: str,
    display: Display = QUIET,
    start: Start = PUBLISHED,
) -> TrainedWeights:
    """Train on all workers, and return the weights of the epoch with the best validation macro mAP.

    Training starts from the last checkpoint in `checkpoints`, or from the first epoch if there is none. `start` has the
    weights to start from, besides those that the workers load themselves. Raises
    `UsageError` if the cluster has too few CPUs or GPUs, or if a node cannot see a local folder of the run. Also raises
    `UsageError` if too few posters can be read, or if the cache of decoded posters cannot be used. Raises `JobError`
    if Ray fails, or if workers failed more often than `settings.max_failures`.
    """
    _require_a_fit_cluster(splits, settings, session, cluster, checkpoints)
    learned = {"train": shown_posters(splits.train, settings), "validation": splits.validation}
    with running_ledger(sys.maxsize) as board, _one_line_errors():
        guard = Guard(session.storage, board)
        config = {
            "settings": settings,
            "prevalence": learned["train"].labelled.multi_hot.mean(axis=0),
            "start": start,
            "board": board,
            **_decode(learned, settings, guard, session, cluster, display),
        }
        result = _run_workers(config, session, cluster, checkpoints, display)
        with stderr_muted(not session.verbose):  # it prints when it is first imported, here to export the network
            import tensorflow  # noqa: F401
        worker_bytes = int(last_words(board).get("worker_bytes", 0))
        logger.info("training took at most %.2f GiB of memory in a worker", worker_bytes / 2**30)
        best = max(result.best_checkpoints or [], key=lambda pair: pair[1]["macro_map"])[0]
        _, history = read_checkpoint(result.checkpoint)
        weights, _ = read_checkpoint(best)
        return TrainedWeights(weights, history, worker_bytes)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Raise `JobError` if the block raises an exception of Ray or Ray Train."""
    import ray.train

    try:
        yield
    except ray.train.TrainingFailedError as error:
        raise JobError(f"training failed: {one_line(error, 1000)}") from error
    except ray.exceptions.RayError as error:
        raise JobError(f"training failed under Ray: {one_line(error, 1000)}") from error


def _run_workers(config: dict[str, Any], session: Session, cluster: Cluster, checkpoints: str, display: Display) -> Any:
    """Run the workers, and return Ray Train's `Result`. `config` is the argument of `train_worker`."""
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from genretag.training.tensorflow_cluster import TensorflowCluster

    settings: TrainSettings = config["settings"]
    display.phase("starting")
    if not cluster.is_local:  # nodes may be lost while decoding
        require_room([_workers(settings, cluster)], session.wait_for_nodes_s)
    with (
        display.following(config["board"], _showing(display, settings, len(config["train"]))),
        without_train_helpers() if cluster.is_local else nullcontext(),
    ):
        trainer = DataParallelTrainer(
            train_worker,
            train_loop_config=config,
            backend_config=TensorflowCluster(),
            scaling_config=_scaling_config(settings, cluster),
            run_config=_run_config(settings, checkpoints, session.storage),
        )
        with keeping_ctrl_c():
            return trainer.fit()


def _decode(
    splits: Mapping[str, LabelledPosters],
    settings: TrainSettings,
    guard: Guard,
    session: Session,
    cluster: Cluster,
    display: Display,
) -> dict[str, DecodedPosters]:
    """Return the decoded training and validation posters, by the names `train` and `validation`.

    `guard` has the settings for reading posters. The log counts the unreadable posters by reason. Raises `UsageError`
    if there are fewer readable training posters than one batch, or if no validation poster can be read.
    """
    decoded, done = {}, 0
    watch = RoomWatch([DECODING], session.wait_for_nodes_s)
    display.phase("decoding", sum(map(len, splits.values())))

    def progress(posters: int) -> None:
        nonlocal done
        done += posters
        display.advance(posters)

    for name in ("train", "validation"):
        at_once = max(2, int(cluster.cpus))  # at least two tasks, as one may wait for the store
        split = decode_posters(
            splits[name],
            settings.rule,
            settings.cache,
            guard,
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
            f"but at least {settings.batch_size} (one batch) and 1 are needed: {decoded['train'].failures}"
        )
    return decoded


def _require_a_fit_cluster(
    splits: Splits[LabelledPosters], settings: TrainSettings, session: Session, cluster: Cluster, checkpoints: str
) -> None:
    """Raise `UsageError` if the cluster can never run this training.

    That is the case if no nodes could ever fit the decoding tasks or the workers. It is also the case if a node cannot
    see the folders of the posters or of the checkpoints.
    """
    require_room([DECODING, _workers(settings, cluster)], session.wait_for_nodes_s)
    folders = {os.path.dirname(uri) for split in splits.parts().values() for uri in split.uris[:1]}  # noqa: PTH120 - URIs
    require_seen([*sorted(folders), checkpoints], "training (its posters, and --checkpoints)")


def _workers(settings: TrainSettings, cluster: Cluster) -> Ask:
    """Return the CPUs and GPUs to request for the smallest number of workers that `settings.workers` allows."""
    fewest, _ = settings.worker_range
    return Ask("training workers", _cpus_of_a_worker(settings, cluster), float(settings.gpu), fewest)


def _cpus_of_a_worker(settings: TrainSettings, cluster: Cluster) -> float:
    """Return the number of CPUs to request from Ray for each worker.

    If `settings.workers` is one number, return `settings.cpus_per_worker`. If it is a range, Ray starts as many workers
    as fit into the CPUs that Ray declares. A local Ray declares more CPUs than the machine has. If Ray declares twice
    as many CPUs as there are, each worker requests twice `settings.cpus_per_worker`. So Ray does not start more workers
    than the machine can run.
    """
    import ray

    (fewest, most), cpus = settings.worker_range, float(settings.cpus_per_worker)
    declared = ray.cluster_resources().get("CPU", 0.0)
    return cpus * max(1.0, declared / cluster.cpus) if fewest < most else cpus


def _scaling_config(settings: TrainSettings, cluster: Cluster) -> Any:
    """Return Ray Train's `ScalingConfig`, with a fixed number of workers or a range.

    With a range, Ray Train changes the number of workers during the run.
    """
    import ray.train

    (fewest, most), cpus = settings.worker_range, _cpus_of_a_worker(settings, cluster)
    workers: Any = most if fewest == most else (fewest, most)  # a range makes the run elastic
    return ray.train.ScalingConfig(
        num_workers=workers,
        use_gpu=settings.gpu,
        resources_per_worker={"CPU": cpus, "GPU": int(settings.gpu)},
    )


def _run_config(settings: TrainSettings, checkpoints: str, storage: Storage) -> Any:
    """Return Ray Train's `RunConfig`: where checkpoints are stored, and how often failed workers are replaced.

    Checkpoints go to the location `checkpoints`. The run always has the name `RUN`, so that Ray Train finds the
    checkpoints of an interrupted run.
    """
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
    """Return a function that shows the progress of training on `display`.

    The function takes the values of the board (the actor that collects the workers' progress). `posters` is the number
    of training posters. Before the first finished step, the function shows nothing.
    """
    epochs, each = settings.head_epochs + settings.epochs, posters // settings.batch_size * settings.batch_size

    def show(values: dict[str, Any]) -> None:
        if "epoch" in values:
            epoch, done = values["epoch"], values["posters"]
            unreadable = f"{values['unreadable']:,} unreadable" if "unreadable" in values else ""
            display.phase("training", epochs * each)
            display.count((epoch - 1) * each + done, unreadable, step=(f"epoch {epoch}/{epochs}", done, each))

    return show
