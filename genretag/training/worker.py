"""Training on one data-parallel worker: the networks, their phases, one epoch, and one step.

Keras 3's `fit` does not work under `MultiWorkerMirroredStrategy` (keras issue 20585), so the step is explicit:
`strategy.run(model.train_step)` inside a `tf.function`. Every worker takes the same number of steps, because each
worker takes its share of each batch (`epoch_order.py`) and incomplete batches are dropped.

Gradients are clipped after the sum over all workers, so the number of workers does not change the clipping. Keras 3
clips before it sums (`BaseOptimizer.apply`, then `TFOptimizer._all_reduce_sum_gradients`). Keras would clip each
worker's part of a gradient, which is smaller than the whole. So the same posters on more workers would be clipped less.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from genretag.model import networks as network
from genretag.model.backbones import Learning
from genretag.model.losses import LabelLoss, build_loss, label_weights
from genretag.model.metrics import macro_map
from genretag.runtime.progress import peak_memory_bytes
from genretag.training import checkpoints
from genretag.training.batches import augment, training_batches, validation_batches
from genretag.training.checkpoints import Replica, restore_optimizer, restore_weights
from genretag.training.pixels import DecodedPosters
from genretag.training.settings import TrainSettings

TUNED_AT = 32  # the batch size for which the default rates were tuned


def rate_factor(batch_size: int, optimizer: str = "adam") -> float:
    """Return the factor for a learning rate that was tuned at batches of `TUNED_AT` posters.

    `optimizer` is `adam` or `sgd`. `adam` stands for all optimisers that divide gradients by their root mean square.
    For these, the factor is the square root of the ratio of batch sizes (Malladi et al. 2022, arXiv:2205.10287). For
    `sgd`, with or without momentum, the factor is the ratio itself (Goyal et al. 2017, arXiv:1706.02677). Neither rule
    holds for very large batches. Both papers use a warm-up, and so does fine-tuning here. Raises `KeyError` for another
    optimiser.
    """
    ratio = batch_size / TUNED_AT
    return {"adam": ratio**0.5, "sgd": ratio}[optimizer]


def with_scaled_rates(settings: TrainSettings) -> TrainSettings:
    """Return the settings with both learning rates (head and fine-tuning) scaled to the batch size.

    If `settings.scale_learning_rate` is False, return the settings unchanged. The scale is Adam's
    (`rate_factor`), because all optimisers here are Adam or AdamW.
    """
    if not settings.scale_learning_rate:
        return settings
    factor = rate_factor(settings.batch_size)
    return replace(
        settings,
        head_learning_rate=settings.head_learning_rate * factor,
        learning_rate=settings.learning_rate * factor,
    )


def clip_the_sum(optimizer: Any, replicas: int) -> None:
    """Make an optimiser clip gradients to its `global_clipnorm` after the sum over `replicas` instead of before.

    Keras still sums over the replicas afterwards. So each replica first divides the clipped sum by the number of
    replicas. The second sum costs another exchange of gradients. With one replica, or without a clip norm, nothing
    changes.
    """
    import tensorflow as tf

    norm, apply = optimizer.global_clipnorm, optimizer.apply
    if not norm or replicas == 1:
        return

    def apply_clipped(gradients: Any, trainable_variables: Any = None) -> None:
        context = tf.distribute.get_replica_context()
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]  # those of embeddings are IndexedSlices
        summed = context.all_reduce(tf.distribute.ReduceOp.SUM, dense)
        clipped, _ = tf.clip_by_global_norm(summed, norm)
        apply([gradient / replicas for gradient in clipped], trainable_variables)

    optimizer.global_clipnorm = None
    optimizer.apply = apply_clipped


def stops_early(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Return True if the last `patience` epochs brought no better `macro_map`. `history` has one entry per epoch.

    An equal value is not better. If `patience` is 0 or `history` is empty, return False.
    """
    if not patience or not history:
        return False
    scores = [epoch["macro_map"] for epoch in history]
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def run_epoch(replica: "Replica", step: Any, epoch: int, config: dict[str, Any], phase_starts: int) -> None:
    """Train epoch number `epoch` (from 0), validate, and report the metrics and the checkpoint to Ray Train.

    `replica` holds this worker's networks. `step` comes from `_training_step`, and `config` is the argument of
    `train_worker`. `phase_starts` is the first epoch of the current phase (head or fine-tuning).
    """
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
    """Train one epoch. Return the mean loss, the number of posters of all workers, and the duration in seconds."""
    settings, board = replica.settings, config["board"]
    seeds = np.random.default_rng([settings.seed, epoch, rank])  # so that no two batches are augmented alike
    replica.learner.reset_metrics()
    posters = 0
    started = time.monotonic()
    for batch in training_batches(config["train"], settings.batch_size, settings.seed, epoch, rank, workers):
        step(batch.images, batch.labels, seeds.integers(np.iinfo(np.int64).max, size=2))
        posters += settings.batch_size
        if batch.unreadable:
            board.add.remote(unreadable=batch.unreadable)
        if rank == 0:
            board.set.remote(epoch=epoch + 1, posters=posters)
    loss = float(replica.learner.get_metrics_result()["loss"])
    return loss, posters, time.monotonic() - started


def _validate(replica: "Replica", posters: DecodedPosters, rank: int, workers: int) -> float:
    """Return the macro mAP on the validation posters of all workers, for the moving average of the weights.

    Every worker gets the same value.
    """
    import tensorflow as tf

    predict = tf.function(lambda images: replica.average(images, training=False), reduce_retracing=True)
    labels = posters.labels.shape[1]
    logits = [np.empty((0, labels), dtype=np.float32)]  # a worker without posters must take part in `gather` too
    truth = [np.empty((0, labels), dtype=np.float32)]
    for batch in validation_batches(posters, rank, workers):
        logits.append(predict(tf.constant(batch.images)).numpy())
        truth.append(batch.labels)
    everyone = [replica.strategy.gather(tf.constant(np.concatenate(part)), axis=0).numpy() for part in (truth, logits)]
    return macro_map(everyone[0].astype(np.uint8), everyone[1])


WARMUP_STEPS = 100


def train_worker(config: dict[str, Any]) -> None:
    """Run training in one Ray Train worker: first the head epochs, then fine-tuning.

    If there is a checkpoint, training goes on after its epoch. `config` holds `settings`, `train` and `validation`
    (`DecodedPosters`), `prevalence`, `start` and `board`. `prevalence`, float (L,), is each label's share of the
    training posters. `start` has the weights to start from that the workers do not load themselves. `board` is the
    actor that collects the workers' progress.
    """
    import keras

    settings: TrainSettings = config["settings"]
    keras.config.set_dtype_policy(settings.dtype_policy)
    replica = _build(settings, config["prevalence"], len(config["train"]), config["start"])
    _show_summary(replica, config["board"])
    restore_weights(replica)
    epochs_done = len(replica.history)
    steps = len(config["train"]) // settings.batch_size
    phases = [(settings.head_epochs, _start_head_phase), (settings.epochs, _start_fine_tuning)]
    first = 0
    for epochs, start_phase in phases:
        if epochs_done < first + epochs:
            with replica.strategy.scope():
                start_phase(replica, with_scaled_rates(settings), steps * epochs)
            clip_the_sum(replica.learner.optimizer, replica.strategy.num_replicas_in_sync)
            restore_optimizer(replica, phase_starts=first)
            step = _training_step(replica)
            for epoch in range(max(first, epochs_done), first + epochs):
                if stops_early(replica.history, settings.patience):
                    return
                run_epoch(replica, step, epoch, config, phase_starts=first)
        first += epochs


def _build(settings: TrainSettings, prevalence: np.ndarray, posters: int, start: network.Start) -> Replica:
    """Build a worker's networks and loss. All workers start with the same weights.

    `prevalence`, float (L,), is each label's share of the training posters, and `posters` is their number. `start` has
    the weights that the driver read or fitted.
    """
    import keras
    import ray.train
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings.cpus_per_worker)
    alone = ray.train.get_context().get_world_size() == 1
    strategy = tf.distribute.get_strategy() if alone else tf.distribute.MultiWorkerMirroredStrategy()
    keras.utils.set_random_seed(settings.seed)
    shape = (settings.backbone, len(prevalence), settings.height, settings.width)
    learning = Learning(
        dropout=settings.dropout,
        drop_connect=settings.drop_connect,
        synchronized=strategy.num_replicas_in_sync > 1,
        on_cpu=not settings.gpu,
    )
    with strategy.scope():
        learner = network.build_network(*shape, learning)
    average = network.build_network(*shape)
    network.set_starting_weights(average, settings.backbone, prevalence, settings.weights, start)
    learner.set_weights(average.get_weights())
    return Replica(strategy, learner, average, _loss(settings, prevalence, posters), settings)


def _loss(settings: TrainSettings, prevalence: np.ndarray, posters: int) -> LabelLoss:
    """Return the loss. `prevalence`, float (L,), and the number of training `posters` decide the label weights.

    If `settings.label_weights` is `none`, all labels have the same weight.
    """
    return build_loss(
        settings.loss,
        label_weights=label_weights(prevalence, posters) if settings.label_weights == "sqrt" else None,
        label_smoothing=settings.label_smoothing,
        gamma_positive=settings.gamma_positive,
        gamma_negative=settings.gamma_negative,
        margin=settings.margin,
    )


def _show_summary(replica: Replica, board: Any) -> None:
    """If `settings.summary` is set, send Keras's table of the network's layers to the log. Only worker 0 does so."""
    import ray.train

    if replica.settings.summary and ray.train.get_context().get_world_rank() == 0:
        for line in network.summary_lines(replica.learner):
            board.say.remote(line)


def _start_head_phase(replica: Replica, settings: TrainSettings, _steps: int) -> None:
    """Freeze all layers but the head (the last layer), and compile the network with Adam."""
    import keras

    network.train_only_the_head(replica.learner)
    _compile(replica, keras.optimizers.Adam(settings.head_learning_rate))


def _start_fine_tuning(replica: Replica, settings: TrainSettings, steps: int) -> None:
    """Unfreeze the backbone as `settings.unfreeze` says, and compile the network with AdamW.

    `steps` is the length of the learning rate schedule, in training steps.
    """
    import keras

    network.unfreeze(replica.learner, settings.backbone, settings.unfreeze)
    optimizer = keras.optimizers.AdamW(
        _learning_rate(settings, steps),
        weight_decay=settings.weight_decay,
        global_clipnorm=settings.clip_norm or None,
    )
    _compile(replica, optimizer)


def _learning_rate(settings: TrainSettings, steps: int) -> Any:
    """Return the learning rate of fine-tuning: a number, or a cosine schedule of `steps` steps with a warm-up."""
    import keras

    if settings.schedule == "constant":
        return settings.learning_rate
    warmup = min(WARMUP_STEPS, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(steps - warmup, 1), warmup_target=settings.learning_rate, warmup_steps=warmup
    )


def _compile(replica: Replica, optimizer: Any) -> None:
    """Compile the network, and create the optimiser's variables now, so that a checkpoint can be loaded into them."""
    replica.learner.compile(optimizer, replica.loss)
    optimizer.build(replica.learner.trainable_variables)


def _training_step(replica: Replica) -> Any:
    """Return a function (images, labels, seed) that takes one training step and then updates the moving average.

    The function's first arguments are this worker's share of a batch: uint8 (n, height, width, 3) and float32 (n, L).
    `seed`, int64 (2,), decides how the images are augmented.
    """
    import tensorflow as tf

    learner, average, settings = replica.learner, replica.average, replica.settings
    momentum = settings.average_momentum

    def change(images: Any, seed: Any) -> Any:
        return augment(images, seed, min_crop=settings.min_crop, colour=settings.colour, flip=settings.flip)

    @tf.function
    def step(images: Any, targets: Any, seed: Any) -> None:
        replica.strategy.run(lambda x, y, z: learner.train_step((change(x, z), y)), args=(images, targets, seed))

    @tf.function
    def follow() -> None:
        for mean, value in zip(average.weights, learner.weights, strict=True):
            if not mean.dtype.startswith("float"):  # a count, such as that of a Normalization layer
                continue
            mean.assign(momentum * mean + (1 - momentum) * tf.cast(value.value, tf.float32))

    def both(images: np.ndarray, targets: np.ndarray, seed: np.ndarray) -> None:
        step(tf.constant(images), tf.constant(targets), tf.constant(seed))
        follow()

    return both
