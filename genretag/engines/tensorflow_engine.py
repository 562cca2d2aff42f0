"""TensorFlow, for GPUs: one compiled function of a static batch."""

import tensorflow as tf

from genretag.bundle import Bundle
from genretag.engines.keras_engine import KerasEngine, load_network, what_native_is


class TensorFlowEngine(KerasEngine):
    """The Keras model as one `tf.function`; XLA on a GPU (on a CPU it is many times slower, so not there).

    On a GPU `native` is bfloat16. Calls return before it is done, so a batch is copied while the one before it runs.
    """

    def __init__(self, bundle: Bundle, batch_size: int, precision: str) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:  # share the card with whoever else is on it
            tf.config.experimental.set_memory_growth(gpu, True)
        self.on_gpu = bool(gpus)
        self.precision = what_native_is(precision, on_gpu=self.on_gpu)
        model = load_network(bundle, self.precision)
        signature = tf.TensorSpec((batch_size, bundle.rule.height, bundle.rule.width, 3), tf.uint8)
        self._call = tf.function(
            lambda images: model(images, training=False), input_signature=[signature], jit_compile=self.on_gpu
        )
        self._batch_size = batch_size
        self._labels = len(bundle.labels)
