"""OpenVINO on CPU: bfloat16 where the processor has it, float32 elsewhere; no TensorFlow."""

from typing import Any

import numpy as np
import openvino

from genretag.bundle import OPENVINO_FILES, Bundle
from genretag.engines import padded_batches


class OpenVINOEngine:
    """Asynchronous requests on a static batch: while one runs, the next is queued."""

    def __init__(self, bundle: Bundle, batch_size: int, threads: int) -> None:
        core = openvino.Core()
        xml, weights = (bundle.files[name] for name in OPENVINO_FILES)
        model = core.read_model(model=xml, weights=weights)
        model.reshape([batch_size, bundle.rule.height, bundle.rule.width, 3])
        compiled = core.compile_model(
            model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": threads}
        )
        self._batch_size = batch_size
        self._labels = len(bundle.labels)
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


def _copy_result(request: Any, destination: np.ndarray) -> None:
    destination[:] = request.get_output_tensor(0).data[: len(destination)]
