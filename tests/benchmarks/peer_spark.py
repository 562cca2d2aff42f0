"""A peer: PySpark on this machine. boto3 lists keys; `mapInPandas` fetches, decodes and predicts.

Spark writes to a local folder, and the files are then copied to the bucket. Spark needs Hadoop's JAR files to write to
S3, and no Python package has them.
"""

import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from peer_common import (
    FETCHES_AT_ONCE,
    Job,
    Predict,
    batches,
    get,
    job_of_command_line,
    list_uris,
    load_network,
    load_openvino,
    s3_client,
    stamps,
)
from PIL import Image
from pyspark.sql import SparkSession

CORES = 2


def one_thread_network(job: Job) -> Predict:
    """Load the network with one CPU thread, because Spark has a Python process for each core."""
    if job.precision == "int8":
        return load_openvino(job.int8_file, threads=1)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    return load_network(job)


def predict(frames: Iterable[pd.DataFrame], job: Job) -> Iterator[pd.DataFrame]:
    """Yield the rows of one partition. The network is loaded once for each partition."""
    network, client = one_thread_network(job), s3_client()

    def read(uri: str) -> np.ndarray:
        image = Image.open(io.BytesIO(get(client, uri)))
        return np.asarray(image.convert("RGB").resize((job.width, job.height), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(FETCHES_AT_ONCE) as threads:
        for frame in frames:
            for uris in batches(frame["uri"].tolist()):
                probabilities = network(np.stack(list(threads.map(read, uris))))
                rows = {"uri": uris, "probabilities": list(probabilities), "scored_at": stamps(len(uris))}
                yield pd.DataFrame(rows)


def main() -> None:
    job = job_of_command_line()
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    spark = (
        SparkSession.builder.master(f"local[{CORES}]")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    uris = pd.DataFrame({"uri": list_uris(job.images)})
    scored = (
        spark.createDataFrame(uris)
        .repartition(CORES)
        .mapInPandas(lambda frames: predict(frames, job), "uri string, probabilities array<float>, scored_at double")
    )
    with tempfile.TemporaryDirectory() as folder:
        scored.write.parquet(f"{folder}/scored")
        bucket, _, prefix = job.output.removeprefix("s3://").partition("/")
        for file in Path(folder).glob("scored/*.parquet"):
            s3_client().upload_file(str(file), bucket, f"{prefix}/{file.name}")
    spark.stop()


if __name__ == "__main__":
    main()
