"""What each data-parallel worker runs: the networks, their phases, and what one step computes.

Keras 3's `fit` does not work under `MultiWorkerMirroredStrategy` (keras issue 20585), so the step is explicit:
`strategy.run(model.train_step)` inside a `tf.function`. Every worker takes the same number of steps, because
each takes its share of each batch (`order.py`), and incomplete batches are dropped.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genretag.modeling import efficientnet_lite, network
from genretag.modeling.augmentation import augment
from genretag.training.checkpoints import restore_optimizer, restore_weights
from genretag.training.clipping import clip_the_sum
from genretag.training.epochs import run_epoch
from genretag.training.learning_rate import with_scaled_rates
from genretag.training.settings import TrainSettings

WARMUP_STEPS = 100
GRADIENT_NORM = 1.0


@dataclass
class Replica:
    """A worker's networks: the mirrored one that learns, and the local moving average that is kept."""

    strategy: Any
    learner: Any
    average: Any
    settings: TrainSettings
    history: list[dict[str, float]] = field(default_factory=list)  # of each epoch


def train_worker(config: dict[str, Any]) -> None:
    """Runs in every worker. `config`: settings, prevalence float (L,), train and validation `DecodedPosters`, board."""
    import keras

    settings: TrainSettings = config["settings"]
    keras.config.set_dtype_policy(settings.dtype_policy)
    replica = _build(settings, config["prevalence"])
    restore_weights(replica)
    epochs_done = len(replica.history)
    steps = len(config["train"]) // settings.batch_size
    phases = [(settings.head_epochs, _start_head_phase), (settings.epochs, _start_fine_tuning)]
    first = 0
    for epochs, start_phase in phases:
        if epochs_done < first + epochs:
            with replica.strategy.scope():
                start_phase(replica.learner, with_scaled_rates(settings), steps * epochs)
            clip_the_sum(replica.learner.optimizer, replica.strategy.num_replicas_in_sync)
            restore_optimizer(replica, phase_starts=first)
            step = _training_step(replica)
            for epoch in range(max(first, epochs_done), first + epochs):
                run_epoch(replica, step, epoch, config, phase_starts=first)
        first += epochs


def _build(settings: TrainSettings, prevalence: np.ndarray) -> Replica:
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings.cpus_per_worker)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    keras.utils.set_random_seed(settings.seed)
    shape = (settings.backbone, len(prevalence), settings.height, settings.width)
    with strategy.scope():
        learner = network.build_network(*shape, dropout=settings.dropout, drop_connect=settings.drop_connect)
    average = network.build_network(*shape)
    efficientnet_lite.load_imagenet_weights(average, settings.backbone)
    network.set_prior(average, prevalence)
    learner.set_weights(average.get_weights())
    return Replica(strategy, learner, average, settings)


def _start_head_phase(learner: Any, settings: TrainSettings, _steps: int) -> None:
    import keras

    network.train_only_the_head(learner)
    _compile(learner, keras.optimizers.Adam(settings.head_learning_rate))


def _start_fine_tuning(learner: Any, settings: TrainSettings, steps: int) -> None:
    import keras

    warmup = min(WARMUP_STEPS, steps // 10)
    network.train_all_but_depthwise(learner)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(steps - warmup, 1), warmup_target=settings.learning_rate, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, global_clipnorm=GRADIENT_NORM)
    _compile(learner, optimizer)


def _compile(learner: Any, optimizer: Any) -> None:
    import keras

    learner.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    optimizer.build(learner.trainable_variables)


def _training_step(replica: Replica) -> Any:
    import tensorflow as tf

    learner, average, momentum = replica.learner, replica.average, replica.settings.average_momentum
    change = augment if replica.settings.augment else lambda images: images

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
