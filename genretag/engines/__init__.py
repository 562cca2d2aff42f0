"""Runtimes that turn uint8 batches into probabilities: one small class each, chosen by name or by device."""

import logging
import os
import sys
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from genretag.bundle import INT8_FILES, Bundle
from genretag.cpus import cpus_here
from genretag.errors import UsageError

GPU_ENGINES = ("jax", "tensorflow", "torch")  # Keras on these backends, fastest first
ENGINES = ("openvino", *GPU_ENGINES, "keras")
NEEDS = {"jax": "'genretag[jax]'", "torch": "keras torch"}  # others: what training installs
NATIVE, INT8 = "native", "int8"
PRECISIONS = (NATIVE, "float32", "bfloat16", INT8)

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """A loaded network: where and in what it computes, and what a person must know of its answers, if anything."""

    on_gpu: bool
    precision: str  # float32, bfloat16 or int8
    caution: str | None

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, height, width, 3) -> calibrated probabilities, float32 (N, labels); any N, also 0."""
        ...


def engine_for(device: str) -> str:
    """The engine that is fastest on a device, `cpu` or `gpu`, of those that are installed here.

    For a GPU KERAS_BACKEND comes first. Where nothing that runs on GPUs is installed, the CPUs have to do.
    """
    if device != "gpu":
        return "openvino"
    installed = [name for name in GPU_ENGINES if _is_installed(name)]
    if not installed:
        logger.warning("nothing that runs on GPUs is installed, so CPUs predict: pip install 'genretag[jax]'")
        return "openvino"
    wanted = os.environ.get("KERAS_BACKEND", "")
    return wanted if wanted in installed else installed[0]


def precision_for(engine: str, bundle: Bundle) -> str:
    """The fastest precision of an engine that is as good as float32: int8 where the bundle has it, else `native`.

    `native` is bfloat16 where the processor computes in it, and float32 elsewhere.
    """
    return INT8 if engine == "openvino" and has_int8(bundle) else NATIVE


def has_int8(bundle: Bundle) -> bool:
    """Whether the bundle has the network in int8 too."""
    return all(name in bundle.files for name in INT8_FILES)


def require_engine(name: str) -> None:
    """Raises `UsageError` for an engine that there is not, or one whose package is not installed here."""
    if name not in ENGINES:
        raise UsageError(f"there is no engine {name!r}: choose from {', '.join(ENGINES)}")
    if not _is_installed(name):
        packages = NEEDS.get(name, "'genretag[gpu]', or [train] for CPU")
        raise UsageError(f"the {name} engine needs its package: pip install {packages}")


def require_precision(precision: str, engine: str | None, bundle: Bundle) -> None:
    """Raises `UsageError` for a precision that there is not, or that the engine or the bundle does not have.

    `engine` is none where it will be chosen by the device.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    if precision == INT8 and engine not in (None, "openvino"):
        raise UsageError(f"the {engine} engine has no int8: use --engine openvino, or another --precision")
    if precision == INT8 and not has_int8(bundle):
        raise UsageError("the bundle has no int8 network: train it again, or use another --precision")


def open_engine(name: str, bundle: Bundle, batch_size: int, threads: int, precision: str | None = None) -> Engine:
    """Loads a bundle's network. `threads`, and the CPUs here, bound the threads of an engine that runs on CPU.

    `precision` is one of `PRECISIONS`, `precision_for` the engine when not given. Raises `UsageError` for an engine
    or a precision that cannot be had.
    """
    precision = precision or precision_for(name, bundle)
    require_engine(name)
    require_precision(precision, name, bundle)
    if name == "openvino":
        from genretag.engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(bundle, batch_size, min(threads, cpus_here()), precision)
    _import_keras(name if name in GPU_ENGINES else None)
    if name == "tensorflow":
        from genretag.engines.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(bundle, batch_size, precision)
    from genretag.engines.keras_engine import KerasEngine

    return KerasEngine(bundle, batch_size, precision)


def _is_installed(name: str) -> bool:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow") if name == "keras" else name
    return bool(find_spec(backend)) and (name == "openvino" or bool(find_spec("keras")))


def _import_keras(backend: str | None) -> None:
    """Imports Keras with a backend, or with its own choice; in one process it stays with the first that it gets."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX takes three quarters of the card at once
    if backend and "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend
    import keras

    if backend and keras.backend.backend() != backend:
        raise UsageError(f"Keras runs on {keras.backend.backend()} here: set KERAS_BACKEND={backend}")


def padded_batches(images: np.ndarray, batch_size: int) -> list[tuple[np.ndarray, int]]:
    """Cuts a batch to pieces of exactly `batch_size`, the last one padded, each with its true length."""
    pieces = []
    for start in range(0, len(images), batch_size):
        piece = images[start : start + batch_size]
        count = len(piece)
        if count < batch_size:
            padding = np.zeros((batch_size - count, *images.shape[1:]), dtype=images.dtype)
            piece = np.concatenate([piece, padding])
        pieces.append((piece, count))
    return pieces
