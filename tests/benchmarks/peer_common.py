"""Shared code of the peers in peers.py: arguments, keys of a bucket, GETs, engines, and the Parquet file.

This file imports nothing of genretag: a peer is what somebody would write without genretag. A peer is run as `python
peer_X.py IMAGES OUTPUT MODEL PRECISION`: two s3:// prefixes, a folder with the network in all forms (`peer_model.py`),
and `float32` or `int8`. In float32, a peer runs the engine that people use with it today. In int8, it runs OpenVINO on
the network that genretag runs. It writes Parquet with the columns `uri`, `probabilities` and `scored_at`, the Unix time
at which its batch was done.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
from botocore.config import Config

BATCH = 32
FETCHES_AT_ONCE = 8
CPUS = len(os.sched_getaffinity(0))
OPENVINO_BATCH = 8  # the batch size of genretag: CPU caches hold no more

Predict = Callable[[np.ndarray], np.ndarray]  # uint8 (N, height, width, 3) -> probabilities, float32 (N, labels)


@dataclass(frozen=True)
class Job:
    """The arguments of a peer: locations of posters, rows and model, and the network's input size in pixels.

    `precision` is `float32`, for the usual engine of the peer, or `int8`, for OpenVINO.
    """

    images: str
    output: str
    model: Path
    precision: str
    height: int
    width: int

    @property
    def keras_file(self) -> str:
        return str(self.model / "model.keras")

    @property
    def onnx_file(self) -> str:
        return str(self.model / "model.onnx")

    @property
    def int8_file(self) -> str:
        return str(self.model / "openvino-int8.xml")


def job_of_command_line() -> Job:
    images, output, model, precision = sys.argv[1:]
    rule = json.loads((Path(model) / "bundle.json").read_text())["image"]
    return Job(images, output, Path(model), precision, rule["height"], rule["width"])


def s3_client() -> Any:
    """Return an S3 client that threads can share. Endpoint and credentials come from the environment."""
    return boto3.client("s3", config=Config(max_pool_connections=2 * FETCHES_AT_ONCE))


def list_uris(prefix: str) -> list[str]:
    bucket, _, folder = prefix.removeprefix("s3://").partition("/")
    pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder}/")
    return [f"s3://{bucket}/{found['Key']}" for page in pages for found in page["Contents"]]


def get(client: Any, uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def load_network(job: Job) -> Predict:
    """Load the network into Keras, or in int8 into OpenVINO."""
    return load_openvino(job.int8_file) if job.precision == "int8" else load_keras(job.keras_file).predict_on_batch


def load_keras(file: str) -> Any:
    import keras

    return keras.saving.load_model(file, compile=False)


def load_openvino(file: str, threads: int = CPUS) -> Predict:
    """Load a network into OpenVINO, with the options and the batch size of genretag's own engine.

    A batch is cut into smaller ones, which are asynchronous requests in a queue.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    model.reshape([OPENVINO_BATCH, *model.input().partial_shape[1:]])
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    requests = openvino.AsyncInferQueue(core.compile_model(model, "CPU", options))
    answers: dict[int, np.ndarray] = {}
    requests.set_callback(lambda request, start: answers.update({start: request.get_output_tensor().data.copy()}))

    def predict(images: np.ndarray) -> np.ndarray:
        padding = np.zeros((-len(images) % OPENVINO_BATCH, *images.shape[1:]), dtype=np.uint8)
        padded = np.concatenate([images, padding]) if len(padding) else images
        starts = range(0, len(padded), OPENVINO_BATCH)
        for start in starts:
            requests.start_async({0: padded[start : start + OPENVINO_BATCH]}, start)
        requests.wait_all()
        return np.concatenate([answers.pop(start) for start in starts])[: len(images)]

    return predict


def arrow_s3() -> pyarrow.fs.S3FileSystem:
    return pyarrow.fs.S3FileSystem(
        endpoint_override=os.environ["AWS_ENDPOINT_URL"], region=os.environ["AWS_REGION"], scheme="http"
    )


def stamps(rows: int) -> np.ndarray:
    """Return the column `scored_at` of a batch that is done now."""
    return np.full(rows, time.time())


def write_parquet(output: str, uris: list[str], probabilities: np.ndarray, scored_at: np.ndarray) -> None:
    """Write the rows of a run as one file."""
    table = pa.table({"uri": uris, "probabilities": list(probabilities), "scored_at": scored_at})
    path = f"{output.removeprefix('s3://')}/part-0.parquet"
    pyarrow.parquet.write_table(table, path, filesystem=arrow_s3())
