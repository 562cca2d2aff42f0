"""Plain Keras, on the backend that KERAS_BACKEND names (TensorFlow, JAX, torch): what other engines are held to."""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from genretag.bundle import KERAS_FILE, Bundle
from genretag.engines import padded_batches


class KerasEngine:
    """`predict_on_batch` of the bundle's Keras model."""

    def __init__(self, bundle: Bundle, batch_size: int, precision: str) -> None:
        self._model = load_network(bundle, precision)
        self._batch_size = batch_size
        self._labels = len(bundle.labels)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, height, width, 3) -> calibrated probabilities, float32 (N, labels)."""
        batches = padded_batches(images, self._batch_size)
        results = [self._model.predict_on_batch(batch)[:count] for batch, count in batches]
        return np.concatenate([np.empty((0, self._labels), dtype=np.float32), *results])


def load_network(bundle: Bundle, precision: str) -> Any:
    """The bundle's Keras model; in bfloat16 it computes in that, with weights and probabilities in float32."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / KERAS_FILE
        file.write_bytes(bundle.files[KERAS_FILE])
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
    return _in_bfloat16(model) if precision == "bfloat16" else model


def _in_bfloat16(model: Any) -> Any:
    last = model.layers[-1].name

    def clone(layer: Any) -> Any:
        dtype = "float32" if layer.name == last else "mixed_bfloat16"
        return layer.__class__.from_config({**layer.get_config(), "dtype": dtype})

    mixed = keras.models.clone_model(model, clone_function=clone)
    mixed.set_weights(model.get_weights())
    return mixed
