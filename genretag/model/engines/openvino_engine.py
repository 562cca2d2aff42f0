"""OpenVINO engine on CPU: int8, bfloat16 if the processor has it, or float32; no TensorFlow.

The module also finds int8 networks that do not give the same answers on every CPU. Some CPUs have no VNNI (AMD before
Zen 4, Intel before Cascade Lake). They multiply unsigned activations by signed weights and add two products in 16 bits
(`vpmaddubsw`). If the sum does not fit, it is cut off, and the network gives other answers there without an error.
Weights of at most 64 leave room: 2 x 255 x 64 = 32,640 of 32,767.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino

from genretag.model.bundle import INT8_FILES, OPENVINO_FILES, Bundle
from genretag.model.engines import INT8, padded_batches
from genretag.model.engines.processors import this_processor

LARGEST_WEIGHT = 64
WEIGHTED = frozenset({"Convolution", "GroupConvolution", "MatMul"})


def saturating_layers_of(files: Mapping[str, bytes]) -> list[str]:
    """Return the names of the saturating layers (`saturating_layers`) of a bundle's int8 network.

    `files` has the bundle's files by name, with `INT8_FILES` among them.
    """
    import openvino

    xml, weights = (files[name] for name in INT8_FILES)
    return saturating_layers(openvino.Core().read_model(model=xml, weights=weights))


def saturating_layers(network: Any) -> list[str]:
    """Return the names of the layers of an `openvino.Model` whose sums may not fit in 16 bits on a CPU without VNNI.

    These layers have int8 weights above `LARGEST_WEIGHT`. A depthwise convolution (each channel by itself) adds its
    products one by one, in 32 bits. So it is never in the list.
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

    Operations that convert the weights to real numbers may stand between the constant and the layer.
    """
    node = constant
    while node is not None and node.get_type_name() not in WEIGHTED:
        readers = list(node.output(0).get_target_inputs())
        node = readers[0].get_node() if len(readers) == 1 else None
    return node


HINTS = {"float32": "f32", "bfloat16": "bf16"}  # with int8 and native, OpenVINO chooses for the other layers
PRECISIONS_OF = {hint: precision for precision, hint in HINTS.items()}


class OpenVINOEngine:
    """Engine that runs OpenVINO on CPUs with asynchronous requests, in batches of one size.

    While one request runs, the next waits in a queue.
    """

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
            "ENABLE_CPU_PINNING": False,  # otherwise the engines of all actors of a node share its first CPUs
        }
        if precision in HINTS:
            options["INFERENCE_PRECISION_HINT"] = HINTS[precision]
        self._batch_size = batch_size
        self._labels = len(bundle.labels)
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
    """Return a warning if this CPU cuts off sums of the int8 network `model`, else None."""
    processor = this_processor()
    if not (processor.saturates_in_int8 and saturating_layers(model)):
        return None
    return (
        f"this CPU ({processor.model}) has no VNNI, and this bundle's int8 network was not made for that: posters get "
        "other genres here than elsewhere; tag with --precision native, or make it anew with `genretag requantize`"
    )


def _copy_result(request: Any, destination: np.ndarray) -> None:
    """Copy the probabilities of a finished request into `destination`, its rows of the result, without the padding."""
    destination[:] = request.get_output_tensor(0).data[: len(destination)]
