"""Keras on any of its backends (TensorFlow, JAX, torch), on the GPU that the backend sees."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from genretag.bundle import KERAS_FILE, Bundle
from genretag.engines import NATIVE, padded_batches


class KerasEngine:
    """The bundle's Keras model on a static batch; what other engines are held to.

    On a GPU `native` is bfloat16. With JAX and torch calls return before it is done, so a batch is copied while the
    one before it runs.
    """

    caution: str | None = None

    def __init__(self, bundle: Bundle, batch_size: int, precision: str) -> None:
        self.on_gpu = _sees_gpu()
        self.precision = what_native_is(precision, on_gpu=self.on_gpu)
        self._call = _compiled(load_network(bundle, self.precision))
        self._batch_size = batch_size
        self._labels = len(bundle.labels)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, height, width, 3) -> calibrated probabilities, float32 (N, labels)."""
        results = [(self._call(batch), count) for batch, count in padded_batches(images, self._batch_size)]
        empty = np.empty((0, self._labels), dtype=np.float32)
        return np.concatenate([empty, *(keras.ops.convert_to_numpy(result)[:count] for result, count in results)])


def _sees_gpu() -> bool:
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return any(device.startswith("gpu") for device in keras.distribution.list_devices())


def _compiled(model: Any) -> Callable[[np.ndarray], Any]:
    """The model as a function of a batch, as its backend runs it fastest."""
    if keras.backend.backend() == "jax":
        import jax

        weights = ([v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables])
        network = jax.jit(lambda weights, images: model.stateless_call(*weights, images, training=False)[0])
        return partial(network, weights)
    if keras.backend.backend() == "torch":
        import torch

        return torch.inference_mode()(lambda images: model(images, training=False))
    return model.predict_on_batch


def what_native_is(precision: str, *, on_gpu: bool) -> str:
    """In what a Keras engine of this precision computes."""
    if precision != NATIVE:
        return precision
    return "bfloat16" if on_gpu else "float32"


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
