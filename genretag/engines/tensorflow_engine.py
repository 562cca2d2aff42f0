"""TensorFlow, for GPUs: one compiled function of a static batch."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from genretag.bundle import KERAS_FILE, Bundle
from genretag.engines import padded_batches


class TensorFlowEngine:
    """The Keras model as one `tf.function`; XLA on a GPU (on a CPU it is many times slower, so not there)."""

    def __init__(self, bundle: Bundle, batch_size: int) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:  # share the card with whoever else is on it
            tf.config.experimental.set_memory_growth(gpu, True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / KERAS_FILE
            file.write_bytes(bundle.files[KERAS_FILE])
            model = keras.saving.load_model(file, compile=False, safe_mode=True)
        signature = tf.TensorSpec((batch_size, bundle.rule.height, bundle.rule.width, 3), tf.uint8)
        self._function = tf.function(
            lambda images: model(images, training=False), input_signature=[signature], jit_compile=bool(gpus)
        )
        self._batch_size = batch_size
        self._labels = len(bundle.labels)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, height, width, 3) -> calibrated probabilities, float32 (N, labels)."""
        results = [(self._function(batch), count) for batch, count in padded_batches(images, self._batch_size)]
        empty = np.empty((0, self._labels), dtype=np.float32)
        return np.concatenate([empty, *(result.numpy()[:count] for result, count in results)])
