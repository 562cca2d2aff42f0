"""Runtimes that turn uint8 batches into probabilities: one small class each, chosen by name or by device."""

from importlib.util import find_spec
from typing import Protocol

import numpy as np

from genretag.bundle import INT8_FILES, Bundle
from genretag.errors import UsageError

ENGINES = ("openvino", "tensorflow", "keras")
NATIVE, INT8 = "native", "int8"
PRECISIONS = (NATIVE, "float32", "bfloat16", INT8)


class Engine(Protocol):
    """A loaded network."""

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, height, width, 3) -> calibrated probabilities, float32 (N, labels); any N, also 0."""
        ...


def engine_for(device: str) -> str:
    """The engine that is fastest on a device, `cpu` or `gpu`."""
    return "tensorflow" if device == "gpu" else "openvino"


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
    if find_spec(name) is None:
        raise UsageError(f"the {name} engine needs its package: pip install 'genretag[gpu]', or [train] for CPU")


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
    """Loads a bundle's network. `threads` bounds the CPU threads of an engine that runs on CPU.

    `precision` is one of `PRECISIONS`, `precision_for` the engine when not given. Raises `UsageError` for an engine
    or a precision that cannot be had.
    """
    precision = precision or precision_for(name, bundle)
    require_engine(name)
    require_precision(precision, name, bundle)
    if name == "openvino":
        from genretag.engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(bundle, batch_size, threads, precision)
    if name == "tensorflow":
        from genretag.engines.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(bundle, batch_size, precision)
    from genretag.engines.keras_engine import KerasEngine

    return KerasEngine(bundle, batch_size, precision)


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
