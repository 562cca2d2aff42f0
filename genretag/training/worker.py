"""What each data-parallel worker runs: the networks, their phases, and what one step computes.

Keras 3's `fit` does not work under `MultiWorkerMirroredStrategy` (keras issue 20585), so the step is explicit:
`strategy.run(model.train_step)` inside a `tf.function`. Every worker takes the same number of steps, because
each takes its share of each batch (`order.py`), and incomplete batches are dropped.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genretag.modeling import network
from genretag.modeling.augmentation import augment
from genretag.modeling.balance import label_weights
from genretag.modeling.losses import LabelLoss, build_loss
from genretag.training.checkpoints import restore_optimizer, restore_weights
from genretag.training.clipping import clip_the_sum
from genretag.training.early_stopping import stops_early
from genretag.training.epochs import run_epoch
from genretag.training.learning_rate import with_scaled_rates
from genretag.training.settings import TrainSettings

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
    """Runs in every worker. `config`: settings, prevalence float (L,), train and validation `DecodedPosters`, board."""
    import keras

    settings: TrainSettings = config["settings"]
    keras.config.set_dtype_policy(settings.dtype_policy)
    replica = _build(settings, config["prevalence"], len(config["train"]))
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


def _build(settings: TrainSettings, prevalence: np.ndarray, posters: int) -> Replica:
    import keras
    import ray.train
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings.cpus_per_worker)
    alone = ray.train.get_context().get_world_size() == 1
    strategy = tf.distribute.get_strategy() if alone else tf.distribute.MultiWorkerMirroredStrategy()
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
