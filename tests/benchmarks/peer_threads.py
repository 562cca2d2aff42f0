"""A peer in the style of PyTorch's DataLoader: a dataset, a loader with threads, and ONNX Runtime or OpenVINO."""

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from peer_common import (
    FETCHES_AT_ONCE,
    Job,
    Predict,
    batches,
    get,
    job_of_command_line,
    list_uris,
    load_openvino,
    s3_client,
    stamps,
    write_parquet,
)
from PIL import Image

PREFETCHED_BATCHES = 2  # like `prefetch_factor` of DataLoader


class Posters:
    """A dataset of posters by number: each is uint8 (height, width, 3)."""

    def __init__(self, job: Job) -> None:
        self.uris = list_uris(job.images)
        self._size = (job.width, job.height)
        self._client = s3_client()

    def __len__(self) -> int:
        return len(self.uris)

    def __getitem__(self, number: int) -> np.ndarray:
        image = Image.open(io.BytesIO(get(self._client, self.uris[number])))
        return np.asarray(image.convert("RGB").resize(self._size, Image.Resampling.BILINEAR))


def load(posters: Posters) -> Iterator[np.ndarray]:
    """Yield batches in order, uint8 (N, height, width, 3). Threads read the next batches meanwhile."""
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as threads:
        waiting: deque[list] = deque()
        for numbers in batches(list(range(len(posters)))):
            waiting.append([threads.submit(posters.__getitem__, number) for number in numbers])
            if len(waiting) > PREFETCHED_BATCHES:
                yield np.stack([image.result() for image in waiting.popleft()])
        while waiting:
            yield np.stack([image.result() for image in waiting.popleft()])


def load_onnx(file: str) -> Predict:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    # No busy waiting, because the loader needs the CPUs too.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def main() -> None:
    job = job_of_command_line()
    network = load_openvino(job.int8_file) if job.precision == "int8" else load_onnx(job.onnx_file)
    posters, probabilities, scored_at = Posters(job), [], []
    for images in load(posters):
        probabilities.append(network(images))
        scored_at.append(stamps(len(images)))
    write_parquet(job.output, posters.uris, np.concatenate(probabilities), np.concatenate(scored_at))


if __name__ == "__main__":
    main()
