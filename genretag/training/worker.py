"""What each data-parallel worker runs: the epochs, the weights' moving average, validation, checkpoints.

Keras 3's `fit` does not work under `MultiWorkerMirroredStrategy` (keras issue 20585), so the step is explicit:
`strategy.run(model.train_step)` inside a `tf.function`. Every worker takes the same number of steps, because
Ray Train gives equal shards and incomplete batches are dropped.
"""

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genretag.modeling import network
from genretag.modeling.augmentation import augment
from genretag.modeling.balance import label_weights
from genretag.modeling.losses import LabelLoss, build_loss
from genretag.modeling.metrics import macro_map
from genretag.training.early_stopping import stops_early
from genretag.training.posters import training_batches
from genretag.training.settings import TrainSettings

WEIGHTS, STATE, OPTIMIZER = "weights.npz", "state.json", "optimizer.npz"
WARMUP_STEPS = 100


@dataclass
class Replica:
    """A worker's networks: the mirrored one that learns, and the local moving average that is kept."""

    strategy: Any
    learner: Any
    average: Any
    loss: LabelLoss
    settings: TrainSettings
    history: list[dict[str, float]] = field(default_factory=list)  # of each epoch


def train_worker(config: dict[str, Any]) -> None:
    """Runs in every worker. `config`: settings, prevalence float (L,), posters (of one epoch), board."""
    settings: TrainSettings = config["settings"]
    replica = _build(settings, config["prevalence"], config["posters"])
    _show_summary(replica, config["board"])
    _restore_weights(replica)
    epochs_done = len(replica.history)
    steps = config["posters"] // settings.batch_size
    phases = [(settings.head_epochs, _start_head_phase), (settings.epochs, _start_fine_tuning)]
    first = 0
    for epochs, start_phase in phases:
        if epochs_done < first + epochs:
            with replica.strategy.scope():
                start_phase(replica, settings, steps * epochs)
            _restore_optimizer(replica, phase_starts=first)
            step = _training_step(replica)
            for epoch in range(max(first, epochs_done), first + epochs):
                if stops_early(replica.history, settings.patience):
                    return
                _run_epoch(replica, step, epoch, config, phase_starts=first)
        first += epochs


def _build(settings: TrainSettings, prevalence: np.ndarray, posters: int) -> Replica:
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings.cpus_per_worker)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    keras.utils.set_random_seed(settings.seed)
    shape = (settings.backbone, len(prevalence), settings.height, settings.width)
    with strategy.scope():
        learner = network.build_network(
            *shape,
            dropout=settings.dropout,
            drop_connect=settings.drop_connect,
            synchronized=strategy.num_replicas_in_sync > 1,
        )
    average = network.build_network(*shape)
    network.set_starting_weights(average, settings.backbone, prevalence)
    learner.set_weights(average.get_weights())
    return Replica(strategy, learner, average, _loss(settings, prevalence, posters), settings)


def _loss(settings: TrainSettings, prevalence: np.ndarray, posters: int) -> LabelLoss:
    return build_loss(
        settings.loss,
        label_weights=label_weights(prevalence, posters) if settings.label_weights == "sqrt" else None,
        label_smoothing=settings.label_smoothing,
        gamma_positive=settings.gamma_positive,
        gamma_negative=settings.gamma_negative,
        margin=settings.margin,
    )


def _show_summary(replica: Replica, board: Any) -> None:
    import ray.train

    if replica.settings.summary and ray.train.get_context().get_world_rank() == 0:
        for line in network.summary_lines(replica.learner):
            board.say.remote(line)


def _start_head_phase(replica: Replica, settings: TrainSettings, _steps: int) -> None:
    import keras

    network.train_only_the_head(replica.learner)
    _compile(replica, keras.optimizers.Adam(settings.head_learning_rate))


def _start_fine_tuning(replica: Replica, settings: TrainSettings, steps: int) -> None:
    import keras

    network.train_all_but_depthwise(replica.learner)
    optimizer = keras.optimizers.AdamW(
        _learning_rate(settings, steps),
        weight_decay=settings.weight_decay,
        global_clipnorm=settings.clip_norm or None,
    )
    _compile(replica, optimizer)


def _learning_rate(settings: TrainSettings, steps: int) -> Any:
    import keras

    if settings.schedule == "constant":
        return settings.learning_rate
    warmup = min(WARMUP_STEPS, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(steps - warmup, 1), warmup_target=settings.learning_rate, warmup_steps=warmup
    )


def _compile(replica: Replica, optimizer: Any) -> None:
    replica.learner.compile(optimizer, replica.loss)
    optimizer.build(replica.learner.trainable_variables)


def _training_step(replica: Replica) -> Any:
    import tensorflow as tf

    learner, average, settings = replica.learner, replica.average, replica.settings
    momentum = settings.average_momentum

    def change(images: Any) -> Any:
        return augment(images, min_crop=settings.min_crop, colour=settings.colour, flip=settings.flip)

    @tf.function
    def step(images: Any, targets: Any) -> None:
        replica.strategy.run(lambda x, y: learner.train_step((change(x), y)), args=(images, targets))

    @tf.function
    def follow() -> None:
        for mean, value in zip(average.weights, learner.weights, strict=True):
            mean.assign(momentum * mean + (1 - momentum) * tf.cast(value.value, tf.float32))

    def both(images: np.ndarray, targets: np.ndarray) -> None:
        step(tf.constant(images), tf.constant(targets))
        follow()

    return both


def _run_epoch(replica: Replica, step: Any, epoch: int, config: dict[str, Any], phase_starts: int) -> None:
    import ray.train
    import tensorflow as tf

    context, settings = ray.train.get_context(), replica.settings
    started = time.monotonic()
    tf.random.set_seed(settings.seed + 1000 * epoch + context.get_world_rank())  # crops differ by worker
    replica.learner.reset_metrics()
    share = settings.batch_size // context.get_world_size()
    posters = 0
    shard = ray.train.get_dataset_shard("train")
    for images, targets in training_batches(shard, share, settings.seed + epoch):
        step(images, targets)
        posters += len(images) * context.get_world_size()
        if context.get_world_rank() == 0:
            config["board"].set.remote(epoch=epoch + 1, posters=posters)
    loss = float(replica.learner.get_metrics_result()["loss"])
    validated = _validate(replica)
    metrics = {"epoch": epoch + 1, "loss": loss, "macro_map": validated}
    replica.history.append(metrics)
    if context.get_world_rank() == 0:
        epochs = settings.head_epochs + settings.epochs
        what = "head only" if epoch < settings.head_epochs else "fine-tuning"
        config["board"].say.remote(
            f"epoch {epoch + 1}/{epochs} ({what}): loss {loss:.4f}, validation macro mAP {validated:.4f}, "
            f"{posters} posters in {time.monotonic() - started:.0f} s"
        )
    _report(replica, metrics, phase_starts)


def _validate(replica: Replica) -> float:
    """Macro mAP of the moving average over all workers' validation shards; the same on every worker."""
    import ray.train
    import tensorflow as tf

    size = replica.settings.batch_size
    predict = tf.function(lambda images: replica.average(images, training=False), reduce_retracing=True)
    logits, truth = [], []
    for batch in ray.train.get_dataset_shard("validation").iter_batches(batch_size=size, batch_format="numpy"):
        logits.append(predict(tf.constant(batch["image"])))
        truth.append(tf.constant(batch["labels"]))
    everyone = [replica.strategy.gather(tf.concat(part, axis=0), axis=0).numpy() for part in (truth, logits)]
    return macro_map(everyone[0].astype(np.uint8), everyone[1])


def _report(replica: Replica, metrics: dict[str, Any], phase_starts: int) -> None:
    """Hands the metrics to Ray Train, and from the first worker the checkpoint to go on from."""
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


def _restore_weights(replica: Replica) -> None:
    """Loads the last checkpoint's weights and history, if there is one."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        _load(Path(folder) / WEIGHTS, replica.average.weights)
        _load(Path(folder) / OPTIMIZER, replica.learner.weights)
        replica.history = json.loads((Path(folder) / STATE).read_text())["history"]


def _restore_optimizer(replica: Replica, phase_starts: int) -> None:
    """Loads the last checkpoint's optimiser state, if it is of the phase that is to go on."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        if json.loads((Path(folder) / STATE).read_text())["phase_starts"] == phase_starts:
            _load(Path(folder) / OPTIMIZER, [*replica.learner.weights, *replica.learner.optimizer.variables])


def _save(file: Path, variables: list[Any]) -> None:
    np.savez(file, *[np.asarray(variable) for variable in variables])


def _load(file: Path, variables: list[Any]) -> None:
    with np.load(file) as arrays:
        for index, variable in enumerate(variables):
            variable.assign(arrays[f"arr_{index}"])


def read_checkpoint(checkpoint: Any) -> tuple[list[np.ndarray], list[dict[str, float]]]:
    """The moving average's weights of a checkpoint, in the network's order, and the history up to it."""
    with checkpoint.as_directory() as folder:
        with np.load(Path(folder) / WEIGHTS) as arrays:
            weights = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
        return weights, json.loads((Path(folder) / STATE).read_text())["history"]
