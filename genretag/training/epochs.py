"""One epoch on one worker: its share of each step, validation over all workers, what is said of it."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from genretag.modeling.metrics import macro_map
from genretag.progress import peak_memory_bytes
from genretag.training import checkpoints
from genretag.training.batches import training_batches, validation_batches
from genretag.training.decoding import DecodedPosters

if TYPE_CHECKING:
    from genretag.training.worker import Replica


def run_epoch(replica: "Replica", step: Any, epoch: int, config: dict[str, Any], phase_starts: int) -> None:
    """Trains, validates and reports the checkpoint of epoch number `epoch`, from 0. `config` is the worker's."""
    import ray.train

    context, settings = ray.train.get_context(), replica.settings
    rank, workers = context.get_world_rank(), context.get_world_size()
    loss, posters, seconds = _train(replica, step, epoch, config, rank, workers)
    validated = _validate(replica, config["validation"], rank, workers)
    metrics = {
        "epoch": epoch + 1,
        "loss": loss,
        "macro_map": validated,
        "posters_per_s": round(posters / seconds, 1),
        "workers": workers,
    }
    replica.history.append(metrics)
    config["board"].peak.remote(worker_bytes=peak_memory_bytes())
    if rank == 0:
        what = "head only" if epoch < settings.head_epochs else "fine-tuning"
        config["board"].say.remote(
            f"epoch {epoch + 1}/{settings.head_epochs + settings.epochs} ({what}): loss {loss:.4f}, "
            f"validation macro mAP {validated:.4f}, {posters:,} posters in {seconds:.0f} s "
            f"({posters / seconds:.1f} posters/s, {workers} {'worker' if workers == 1 else 'workers'})"
        )
    checkpoints.report(replica, metrics, phase_starts)


def _train(
    replica: "Replica", step: Any, epoch: int, config: dict[str, Any], rank: int, workers: int
) -> tuple[float, int, float]:
    """Returns the mean loss, the posters of all workers, and the seconds that their steps took."""
    import tensorflow as tf

    settings, board = replica.settings, config["board"]
    tf.random.set_seed(settings.seed + 1000 * epoch + rank)  # crops differ by worker
    replica.learner.reset_metrics()
    posters = 0
    started = time.monotonic()
    for batch in training_batches(config["train"], settings.batch_size, settings.seed, epoch, rank, workers):
        step(batch.images, batch.labels)
        posters += settings.batch_size
        if batch.unreadable:
            board.add.remote(unreadable=batch.unreadable)
        if rank == 0:
            board.set.remote(epoch=epoch + 1, posters=posters)
    loss = float(replica.learner.get_metrics_result()["loss"])
    return loss, posters, time.monotonic() - started


def _validate(replica: "Replica", posters: DecodedPosters, rank: int, workers: int) -> float:
    """Macro mAP of the moving average over all workers' validation posters; the same on every worker."""
    import tensorflow as tf

    predict = tf.function(lambda images: replica.average(images, training=False), reduce_retracing=True)
    labels = posters.labels.shape[1]
    logits = [np.empty((0, labels), dtype=np.float32)]  # a worker without a poster takes part in the gathering too
    truth = [np.empty((0, labels), dtype=np.float32)]
    for batch in validation_batches(posters, rank, workers):
        logits.append(predict(tf.constant(batch.images)).numpy())
        truth.append(batch.labels)
    everyone = [replica.strategy.gather(tf.constant(np.concatenate(part)), axis=0).numpy() for part in (truth, logits)]
    return macro_map(everyone[0].astype(np.uint8), everyone[1])
