"""Shared code of the peers in peers.py: arguments, keys of a bucket, GETs, and the Parquet file.

This file imports nothing of genretag: a peer is what somebody would write without genretag. A peer is run as `python
peer_X.py IMAGES OUTPUT MODEL`: two s3:// prefixes, and a folder with bundle.json, model.keras and model.onnx. It writes
Parquet with the columns `uri`, `probabilities` and `scored_at`, the Unix time at which its batch was done.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
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


@dataclass(frozen=True)
class Job:
    """The arguments of a peer: locations of posters, rows and model, and the network's input size in pixels."""

    images: str
    output: str
    model: Path
    height: int
    width: int

    @property
    def keras_file(self) -> str:
        return str(self.model / "model.keras")

    @property
    def onnx_file(self) -> str:
        return str(self.model / "model.onnx")


def job_of_command_line() -> Job:
    images, output, model = sys.argv[1:]
    rule = json.loads((Path(model) / "bundle.json").read_text())["image"]
    return Job(images, output, Path(model), rule["height"], rule["width"])


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


def load_keras(file: str) -> Any:
    import keras

    return keras.saving.load_model(file, compile=False)


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
