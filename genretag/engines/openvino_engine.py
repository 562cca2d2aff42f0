"""OpenVINO on CPU: int8, bfloat16 where the processor has it, or float32; no TensorFlow."""

from typing import Any

import numpy as np
import openvino

from genretag.bundle import INT8_FILES, OPENVINO_FILES, Bundle
from genretag.engines import INT8, padded_batches
from genretag.engines.processors import this_processor
from genretag.engines.saturation import saturating_layers

HINTS = {"float32": "f32", "bfloat16": "bf16"}  # int8 and native: OpenVINO's own choice for what is left
PRECISIONS_OF = {hint: precision for precision, hint in HINTS.items()}


class OpenVINOEngine:
    """Asynchronous requests on a static batch: while one runs, the next is queued."""

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
            "ENABLE_CPU_PINNING": False,  # or the engines of all actors of a node would share its first CPUs
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
        """uint8 (N, height, width, 3) -> calibrated probabilities, float32 (N, labels)."""
        probabilities = np.empty((len(images), self._labels), dtype=np.float32)
        start = 0
        for batch, count in padded_batches(images, self._batch_size):
            self._requests.start_async({0: batch}, probabilities[start : start + count])
            start += count
        self._requests.wait_all()
        return probabilities


def _caution(model: openvino.Model) -> str | None:
    processor = this_processor()
    if not (processor.saturates_in_int8 and saturating_layers(model)):
        return None
    return (
        f"this CPU ({processor.model}) has no VNNI, and this bundle's int8 network was not made for that: posters get "
        "other genres here than elsewhere; tag with --precision native, or make it anew with `genretag requantize`"
    )


def _copy_result(request: Any, destination: np.ndarray) -> None:
    destination[:] = request.get_output_tensor(0).data[: len(destination)]
