"""Engines: the runtimes that turn uint8 batches into probabilities, such as OpenVINO or Keras on a GPU.

If the user names no engine, the device (CPU or GPU) decides.
"""

import logging
import os
import sys
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from genretag.errors import UsageError
from genretag.model.bundle import INT8_FILES, KERAS_FILE, Bundle
from genretag.runtime.cpus import cpus_here

logger = logging.getLogger(__name__)

GPU_ENGINES = ("jax", "tensorflow", "torch")  # Keras on these backends, fastest first
ENGINES = ("openvino", *GPU_ENGINES, "keras")
NEEDS = {"jax": "'genretag[jax]'", "torch": "keras torch"}  # what to `pip install`; other engines: extra gpu or train
NATIVE, INT8 = "native", "int8"
PRECISIONS = (NATIVE, "float32", "bfloat16", INT8)


class Engine(Protocol):
    """A loaded network that predicts the labels of posters on one device.

    `caution` is a warning for the user about predictions on this machine, or None.
    """

    on_gpu: bool
    precision: str  # float32, bfloat16 or int8
    caution: str | None

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities: uint8 (N, height, width, 3) -> float32 (N, labels). N may be 0."""
        ...


def engine_for(device: str) -> str:
    """Return the name of the engine to use on a device, `cpu` or `gpu`.

    For `cpu`, this is `openvino`. For `gpu`, it is the engine that the environment variable KERAS_BACKEND names, if
    that engine is installed and runs on GPUs. Otherwise it is the fastest installed engine for GPUs. If there is none,
    log a warning and return `openvino`, which runs on CPUs.
    """
    if device != "gpu":
        return "openvino"
    installed = [name for name in GPU_ENGINES if _is_installed(name)]
    if not installed:
        logger.warning("no engine for GPUs is installed, so the CPU predicts: pip install 'genretag[jax]'")
        return "openvino"
    wanted = os.environ.get("KERAS_BACKEND", "")
    return wanted if wanted in installed else installed[0]


def precision_for(engine: str, bundle: Bundle) -> str:
    """Return the default precision of an engine for a bundle: the fastest one whose predictions are as good as float32.

    This is `int8` for the engine `openvino` if the bundle has an int8 network, else `native`. On a GPU, `native` means
    bfloat16. On a CPU, the engine `openvino` takes bfloat16 for `native` if the CPU supports bfloat16. Otherwise
    `native` means float32.
    """
    return INT8 if engine == "openvino" and has_int8(bundle) else NATIVE


def has_int8(bundle: Bundle) -> bool:
    """Return whether the bundle has an int8 network in addition to the normal network."""
    return all(name in bundle.files for name in INT8_FILES)


def has_keras(bundle: Bundle) -> bool:
    """Return whether the bundle has a Keras model. Only bundles made from ONNX and similar files have none."""
    return KERAS_FILE in bundle.files


def require_engine(name: str, bundle: Bundle) -> None:
    """Raise `UsageError` if there is no engine of this name, or if it cannot run the bundle on this machine.

    The engine's packages must be installed. All engines except `openvino` need a bundle with a Keras model.
    """
    if name not in ENGINES:
        raise UsageError(f"there is no engine {name!r}: choose from {', '.join(ENGINES)}")
    if not _is_installed(name):
        packages = NEEDS.get(name, "'genretag[gpu]', or [train] for CPU")
        raise UsageError(f"the {name} engine needs its package: pip install {packages}")
    if name != "openvino" and not has_keras(bundle):
        raise UsageError(f"the bundle has no Keras model, which the {name} engine needs: use --engine openvino")


def require_precision(precision: str, engine: str | None, bundle: Bundle) -> None:
    """Raise `UsageError` if `precision` is not in `PRECISIONS`, or if the engine and the bundle cannot predict in it.

    Only int8 depends on the engine and the bundle: the engine must be `openvino`, and the bundle must have an int8
    network. If `engine` is None (not chosen yet), the engine is not checked.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    if precision == INT8 and engine not in (None, "openvino"):
        raise UsageError(f"the {engine} engine has no int8: use --engine openvino, or another --precision")
    if precision == INT8 and not has_int8(bundle):
        raise UsageError("the bundle has no int8 network: train it again, or use another --precision")


def open_engine(name: str, bundle: Bundle, batch_size: int, threads: int, precision: str | None = None) -> Engine:
    """Load a bundle's network into the engine `name`, one of `ENGINES`. It predicts in batches of `batch_size` posters.

    `threads` is the number of CPU threads of OpenVINO, at most one per CPU of this machine. Other engines ignore it.
    `precision` is one of `PRECISIONS`; None means the result of `precision_for`. Raises `UsageError` if the engine or
    the precision is not available. Also raises `UsageError` if Keras already runs on another backend in this process.
    """
    precision = precision or precision_for(name, bundle)
    require_engine(name, bundle)
    require_precision(precision, name, bundle)
    if name == "openvino":
        from genretag.model.engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(bundle, batch_size, min(threads, cpus_here()), precision)
    _import_keras(name if name in GPU_ENGINES else None)
    if name == "tensorflow":
        from genretag.model.engines.keras_engine import TensorFlowEngine

        return TensorFlowEngine(bundle, batch_size, precision)
    from genretag.model.engines.keras_engine import KerasEngine

    return KerasEngine(bundle, batch_size, precision)


def _is_installed(name: str) -> bool:
    """Return whether the packages of an engine are installed on this machine.

    The engine `keras` needs the package of the backend in KERAS_BACKEND. If that variable is not set, the backend is
    TensorFlow.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow") if name == "keras" else name
    return bool(find_spec(backend)) and (name == "openvino" or bool(find_spec("keras")))


def _import_keras(backend: str | None) -> None:
    """Import Keras with a backend. If `backend` is None, Keras chooses the backend.

    A process cannot change the backend after the first import. Raises `UsageError` if Keras already runs on another
    backend.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX's default is three quarters of the memory
    if backend and "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend
    import keras

    if backend and keras.backend.backend() != backend:
        raise UsageError(f"Keras runs on {keras.backend.backend()} here: set KERAS_BACKEND={backend}")


def padded_batches(images: np.ndarray, batch_size: int) -> list[tuple[np.ndarray, int]]:
    """Cut images into batches of exactly `batch_size`. Return each batch and the number of images in it.

    `images` is uint8 (N, height, width, 3). Zeros pad the last batch; the padding does not count. If N is 0, return an
    empty list.
    """
    pieces = []
    for start in range(0, len(images), batch_size):
        piece = images[start : start + batch_size]
        count = len(piece)
        if count < batch_size:
            padding = np.zeros((batch_size - count, *images.shape[1:]), dtype=images.dtype)
            piece = np.concatenate([piece, padding])
        pieces.append((piece, count))
    return pieces
