"""Labelled posters as Ray Data: a table of URIs and labels in, shuffled batches of decoded pixels out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from genretag.fetching import Poster, PosterReader
from genretag.images import ImageRule
from genretag.storage import Storage

DECODE_BATCH = 64  # posters that one decoding task holds; small, so that shares come out equal
DECODE_THREADS = 4
SHUFFLE_BUFFER = 1024  # decoded posters that a worker draws its batches from, on top of the shuffled table


def labelled_dataset(uris: list[str], multi_hot: np.ndarray, rule: ImageRule, storage: Storage, seed: int) -> Any:
    """Makes a Ray Dataset of `image` uint8 (height, width, 3) and `labels` float32 (L,) rows.

    The order is shuffled once by `seed`; posters that cannot be read are left out of each pass.
    """
    import ray

    order = np.random.default_rng(seed).permutation(len(uris))
    labels = multi_hot[order].astype(np.float32)
    table = pa.table(
        {
            "uri": [uris[i] for i in order],
            "labels": pa.FixedSizeListArray.from_arrays(labels.ravel(), labels.shape[1]),
        }
    )
    dataset = ray.data.from_arrow([table.slice(start, DECODE_BATCH) for start in range(0, len(table), DECODE_BATCH)])
    return dataset.map_batches(
        DecodeForTraining,
        fn_constructor_args=(storage, rule),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )


class DecodeForTraining:
    """An actor that turns URIs into pixels with the decoder that scoring uses."""

    def __init__(self, storage: Storage, rule: ImageRule) -> None:
        self._reader = PosterReader(storage, rule, DECODE_THREADS)

    def __call__(self, table: pa.Table) -> dict[str, np.ndarray]:
        results = self._reader.read_many(table["uri"].to_pylist())
        kept = [i for i, result in enumerate(results) if isinstance(result, Poster)]
        images = [result.image.pixels for result in results if isinstance(result, Poster)]
        labels = table["labels"].combine_chunks()
        multi_hot = labels.values.to_numpy().reshape(len(labels), -1)
        return {"image": np.stack(images), "labels": multi_hot[kept]}


def training_batches(shard: Any, batch_size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields uint8 (batch, height, width, 3), float32 (batch, L) of one pass, all of full size."""
    for batch in shard.iter_batches(
        batch_size=batch_size,
        batch_format="numpy",
        drop_last=True,
        prefetch_batches=2,
        local_shuffle_buffer_size=SHUFFLE_BUFFER,
        local_shuffle_seed=seed,
    ):
        yield batch["image"], batch["labels"]
