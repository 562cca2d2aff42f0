"""Runtimes that turn uint8 batches into probabilities: one small class each, chosen by name or by device."""

from importlib.util import find_spec
from typing import Protocol

import numpy as np

from genretag.bundle import Bundle
from genretag.errors import UsageError

ENGINES = ("openvino", "tensorflow")


class Engine(Protocol):
    """A loaded network."""

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, height, width, 3) -> calibrated probabilities, float32 (N, labels); any N, also 0."""
        ...


def engine_for(device: str) -> str:
    """The engine that is fastest on a device, `cpu` or `gpu`."""
    return "tensorflow" if device == "gpu" else "openvino"


def require_engine(name: str) -> None:
    """Raises `UsageError` for an engine that there is not, or one whose package is not installed here."""
    if name not in ENGINES:
        raise UsageError(f"there is no engine {name!r}: choose from {', '.join(ENGINES)}")
    if find_spec(name) is None:
        raise UsageError(f"the {name} engine needs its package: pip install 'genretag[gpu]', or [train] for CPU")


def open_engine(name: str, bundle: Bundle, batch_size: int, threads: int) -> Engine:
    """Loads a bundle's network. `threads` bounds the CPU threads of an engine that runs on CPU.

    Raises `UsageError` for an unknown engine or one whose package is not installed.
    """
    require_engine(name)
    if name == "openvino":
        from genretag.engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(bundle, batch_size, threads)
    from genretag.engines.tensorflow_engine import TensorFlowEngine

    return TensorFlowEngine(bundle, batch_size)


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
