"""A peer: one process with `tf.data` and `model.predict`. boto3 fetches the bytes in a `py_function`.

In int8, a loop over the batches of `tf.data` takes the place of `model.predict`.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from peer_common import (
    BATCH,
    FETCHES_AT_ONCE,
    Job,
    get,
    job_of_command_line,
    list_uris,
    load_keras,
    load_openvino,
    s3_client,
    stamps,
    write_parquet,
)


class Stamps(keras.callbacks.Callback):
    """Records when each batch was predicted."""

    def __init__(self) -> None:
        super().__init__()
        self.of_batches: list[np.ndarray] = []

    def on_predict_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.of_batches.append(stamps(len(logs["outputs"])))


def predict_float32(job: Job, images: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities that Keras predicts, and the times at which their batches were done."""
    noted = Stamps()
    probabilities = load_keras(job.keras_file).predict(images, verbose=0, callbacks=[noted])
    return probabilities, np.concatenate(noted.of_batches)


def predict_int8(job: Job, images: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities that OpenVINO predicts, and the times at which their batches were done."""
    network, probabilities, scored_at = load_openvino(job.int8_file), [], []
    for batch in images.as_numpy_iterator():
        probabilities.append(network(batch))
        scored_at.append(stamps(len(batch)))
    return np.concatenate(probabilities), np.concatenate(scored_at)


def main() -> None:
    job, client = job_of_command_line(), s3_client()

    def fetch(uri: tf.Tensor) -> tf.Tensor:
        data = tf.py_function(lambda value: get(client, value.numpy().decode()), [uri], tf.string)
        return tf.ensure_shape(data, [])

    def decode(data: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(data, channels=3)
        # `resize` has no antialiasing by default, so with large posters fewer first labels are those of genretag
        return tf.cast(tf.round(tf.image.resize(image, (job.height, job.width))), tf.uint8)

    uris = list_uris(job.images)
    images = (
        tf.data.Dataset.from_tensor_slices(uris)
        .map(fetch, num_parallel_calls=FETCHES_AT_ONCE)
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH)
        .prefetch(tf.data.AUTOTUNE)
    )
    predict = predict_int8 if job.precision == "int8" else predict_float32
    write_parquet(job.output, uris, *predict(job, images))


if __name__ == "__main__":
    main()
