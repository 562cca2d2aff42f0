"""Keras engines: `KerasEngine` for any backend of Keras, and `TensorFlowEngine`, which compiles the whole model.

Both run on a GPU if the backend sees one, else on the CPU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genretag.model.bundle import CALIBRATION, KERAS_FILE, Bundle
from genretag.model.engines import NATIVE, padded_batches
from genretag.model.keras_files import load_keras_file


class KerasEngine:
    """Engine that runs the bundle's Keras model in batches of one size. The other engines must match its probabilities.

    With the precision `native`, it computes in bfloat16 on a GPU and in float32 on a CPU. With JAX and torch, a call of
    the model returns before the GPU is done. So the next batch is copied while the GPU still works on the batch before.
    """

    caution: str | None = None

    def __init__(self, bundle: Bundle, batch_size: int, precision: str) -> None:
        self.on_gpu = _sees_gpu()
        self.precision = what_native_is(precision, on_gpu=self.on_gpu)
        self._call = _compiled(load_network(bundle, self.precision))
        self._batch_size = batch_size
        self._labels = len(bundle.labels)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities: uint8 (N, height, width, 3) -> float32 (N, labels). N may be 0."""
        results = [(self._call(batch), count) for batch, count in padded_batches(images, self._batch_size)]
        empty = np.empty((0, self._labels), dtype=np.float32)
        return np.concatenate([empty, *(keras.ops.convert_to_numpy(result)[:count] for result, count in results)])


def _sees_gpu() -> bool:
    """Return whether Keras's backend sees a GPU."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return any(device.startswith("gpu") for device in keras.distribution.list_devices())


def _compiled(model: Any) -> Callable[[np.ndarray], Any]:
    """Return a function that runs the model on one batch, in the fastest form for Keras's backend."""
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
    """Return the precision that a Keras engine computes in.

    `native` becomes bfloat16 on a GPU and float32 on a CPU. Any other precision stays as it is.
    """
    if precision != NATIVE:
        return precision
    return "bfloat16" if on_gpu else "float32"


def load_network(bundle: Bundle, precision: str) -> Any:
    """Load the bundle's Keras model. If `precision` is bfloat16, the model computes in bfloat16, else as it was saved.

    In bfloat16, the weights and the probabilities are still float32.
    """
    model = load_keras_file(bundle.files[KERAS_FILE])
    return _in_bfloat16(model) if precision == "bfloat16" else model


def _in_bfloat16(model: Any) -> Any:
    """Return a copy of a model in which all layers compute in bfloat16, except the last, the head and a calibration.

    A model within the model keeps its precision, and so do operations that are no layers.
    """
    heads = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    exact = {model.layers[-1].name, CALIBRATION, *heads[-1:]}

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer.__class__.from_config(layer.get_config())
        dtype = "float32" if layer.name in exact else "mixed_bfloat16"
        return layer.__class__.from_config({**layer.get_config(), "dtype": dtype})

    mixed = keras.models.clone_model(model, clone_function=clone)
    mixed.set_weights(model.get_weights())
    return mixed


class TensorFlowEngine(KerasEngine):
    """Engine that runs the Keras model as one `tf.function`, compiled with XLA on a GPU.

    On a CPU, XLA is many times slower, so it is off. With the precision `native`, the engine computes in bfloat16 on a
    GPU and in float32 on a CPU. A call of the model returns before the GPU is done. So the next batch is copied while
    the GPU still works on the batch before.
    """

    def __init__(self, bundle: Bundle, batch_size: int, precision: str) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:  # share the GPU with other processes
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
