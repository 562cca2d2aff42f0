"""OpenVINO engine for CPUs, without TensorFlow: int8, bfloat16 if the CPU supports it, or float32.

This module also finds int8 networks that give different answers on different CPUs. CPUs without VNNI (AMD before Zen 4,
Intel before Cascade Lake) multiply unsigned activations by signed weights, and add two products in 16 bits
(`vpmaddubsw`). If the sum does not fit in 16 bits, the instruction saturates without an error, and the answers differ
from those of other CPUs. Weights of at most 64 are safe: 2 x 255 x 64 = 32,640, and the largest 16-bit integer is
32,767.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from genretag.model.bundle import INT8_FILES, OPENVINO_FILES, Bundle
from genretag.model.engines import INT8, padded_batches
from genretag.model.engines.processors import CAP, this_processor
from genretag.model.openvino_graphs import read_graph

LARGEST_WEIGHT = 64
WEIGHTED = frozenset({"Convolution", "GroupConvolution", "MatMul"})


def saturating_layers_of(files: Mapping[str, bytes]) -> list[str]:
    """Return the names of the layers of a bundle's int8 network that can overflow 16 bits (see `saturating_layers`).

    `files` has the bundle's files by name, with `INT8_FILES` among them.
    """
    return saturating_layers(read_graph(files, INT8_FILES))


def saturating_layers(network: Any) -> list[str]:
    """Return the names of the layers of an `openvino.Model` whose sums may not fit in 16 bits on a CPU without VNNI.

    These are the layers with an int8 weight above `LARGEST_WEIGHT` in absolute value. Depthwise convolutions are never
    in the list, because they add their products one by one in 32 bits.
    """
    import numpy as np

    found = []
    for constant in network.get_ordered_ops():
        if constant.get_type_name() != "Constant" or constant.get_element_type().to_string() != "i8":
            continue
        weights = constant.data
        layer = _layer_of(constant)
        if layer is None or (layer.get_type_name() == "GroupConvolution" and weights.shape[2] == 1):
            continue
        if weights.size and np.abs(weights.astype(np.int16)).max() > LARGEST_WEIGHT:
            found.append(layer.get_friendly_name())
    return found


def _layer_of(constant: Any) -> Any:
    """Return the layer that multiplies by the weights in `constant`, or None if no layer does.

    Between the constant and the layer, operations that convert the weights to floating point are skipped.
    """
    node = constant
    while node is not None and node.get_type_name() not in WEIGHTED:
        readers = list(node.output(0).get_target_inputs())
        node = readers[0].get_node() if len(readers) == 1 else None
    return node


def _cache_folder() -> Path | None:
    """Return the folder for compiled networks, so that a network is compiled once for each user and kind of processor.

    The folder is below XDG_CACHE_HOME, by default ~/.cache. OpenVINO compiles again if a file there is damaged. Return
    None if there can be no such folder, or if it belongs to another user, whose files are not to be trusted.
    """
    processor = this_processor()
    kind = hashlib.sha256(" ".join((processor.model, *processor.instruction_sets)).encode()).hexdigest()[:16]
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = caches / "genretag" / "openvino" / kind
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours = folder.stat().st_uid == os.geteuid() and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # such as a read-only disk, or a user without a home
        return None
    return folder if ours else None


HINTS = {"float32": "f32", "bfloat16": "bf16"}  # without a hint, OpenVINO chooses (for layers that are not int8)
PRECISIONS_OF = {hint: precision for precision, hint in HINTS.items()}
BFLOAT16 = "AVX512_CORE_BF16"


class OpenVINOEngine:
    """Engine that runs OpenVINO on the CPU, in batches of one size. Batches are asynchronous requests in a queue."""

    on_gpu = False

    def __init__(self, bundle: Bundle, batch_size: int, threads: int, precision: str) -> None:
        core = openvino.Core()
        files = INT8_FILES if precision == INT8 else OPENVINO_FILES
        xml, weights = (bundle.files[name] for name in files)
        model = core.read_model(model=xml, weights=weights)
        self.caution = _caution(model) if precision == INT8 else None
        model.reshape([batch_size, bundle.rule.height, bundle.rule.width, 3])
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # if it were on, all engines of a node would share its first CPUs
        }
        if precision in HINTS:
            options["INFERENCE_PRECISION_HINT"] = HINTS[precision]
        elif os.environ.get(CAP) and BFLOAT16 not in this_processor().instruction_sets:
            # OpenVINO asks the processor, not the cap, and would choose bfloat16 kernels that the cap forbids
            options["INFERENCE_PRECISION_HINT"] = HINTS["float32"]
        self._batch_size = batch_size
        self._labels = len(bundle.labels)
        if folder := _cache_folder():
            options["CACHE_DIR"] = str(folder)
        compiled = core.compile_model(model, "CPU", options)
        chosen = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.precision = INT8 if precision == INT8 else PRECISIONS_OF.get(chosen, chosen)
        self._requests = openvino.AsyncInferQueue(compiled)
        self._requests.set_callback(_copy_result)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities: uint8 (N, height, width, 3) -> float32 (N, labels). N may be 0."""
        probabilities = np.empty((len(images), self._labels), dtype=np.float32)
        start = 0
        for batch, count in padded_batches(images, self._batch_size):
            self._requests.start_async({0: batch}, probabilities[start : start + count])
            start += count
        self._requests.wait_all()
        return probabilities


def _caution(model: openvino.Model) -> str | None:
    """Return a warning if this CPU has no VNNI and sums in the int8 network `model` may overflow on it, else None."""
    processor = this_processor()
    if not (processor.saturates_in_int8 and saturating_layers(model)):
        return None
    return (
        f"this CPU ({processor.model}) has no VNNI, so sums in this bundle's int8 network can overflow: posters may "
        "get other genres than on other CPUs; tag with --precision native, or run `genretag requantize` on the bundle"
    )


def _copy_result(request: Any, destination: np.ndarray) -> None:
    """Copy the probabilities of a finished request into `destination`, without the rows of the padding.

    `destination` is the part of `predict`'s result for this batch.
    """
    destination[:] = request.get_output_tensor(0).data[: len(destination)]
