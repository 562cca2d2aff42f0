"""Tagged posters for the HTML pages: thumbnails, rows of part files, and the model version that wrote the rows.

Thumbnails are WebP in base64. If a poster's file has changed since it was scored, a page does not show it. So etags are
compared before decoding. The comparison also protects the page, because some images crash the decoder. A job survives
such a crash, but drawing a page does not. If the etag is unchanged, a job has already decoded the image without a
crash.
"""

import base64
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet

from genretag.data.labels import column_names
from genretag.images import ImageRule
from genretag.images.decode_cost import DecodeMemory
from genretag.images.decoding import BadImage, ImageLimits, decode
from genretag.output.label_lists import LABELS, PROBABILITIES
from genretag.output.schema import EMBEDDING, LABELS_KEY, require_known_format
from genretag.scoring.reader import DECODE_BYTES
from genretag.storage import ObjectInfo, Storage, StorageError
from genretag.storage.objects import etag_key

logger = logging.getLogger(__name__)

HEIGHT, WIDTH = 180, 120  # largest thumbnail in pixels: the size of a card of the gallery
QUALITY = 60
THREADS = 16  # many, because they mostly wait for the store

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """A poster to show: its URI, its etag when it was scored, and its size in pixels (None: unknown)."""

    uri: str
    etag: str
    width: int | None = None
    height: int | None = None

    @property
    def rule(self) -> ImageRule:
        """Return the size of the thumbnail: the poster's shape, fitted into a box of `WIDTH` x `HEIGHT` pixels.

        If the poster's size is unknown, the thumbnail is the middle of the poster, cropped to the box.
        """
        if not (self.width and self.height):
            return ImageRule(HEIGHT, WIDTH, "crop")
        scale = min(WIDTH / self.width, HEIGHT / self.height)
        return ImageRule(max(1, round(self.height * scale)), max(1, round(self.width * scale)))


def thumbnails(
    pictures: Sequence[Picture],
    storage: Storage,
    *,
    deadline_s: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[str | None]:
    """Return the thumbnail of each picture, in the order of `pictures`: WebP in base64, or None if there is none.

    A picture has no thumbnail if its object is gone, has changed, cannot be decoded, or is not ready after `deadline_s`
    seconds (None: no deadline). `progress` is called in a thread after each picture, with the number of finished
    pictures.
    """
    memory, limits = DecodeMemory(DECODE_BYTES), ImageLimits()

    def draw(data: bytes, picture: Picture) -> str:
        return _webp(data, picture.rule, limits, memory)

    return drawn(pictures, storage, draw, deadline_s=deadline_s, progress=progress)


def drawn(
    pictures: Sequence[Picture],
    storage: Storage,
    draw: Callable[[bytes, Picture], T],
    *,
    deadline_s: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[T | None]:
    """Return what `draw` makes of the file of each picture, in the order of `pictures`, or None as `thumbnails` does.

    `draw` is called in threads, and may raise `BadImage`. The other arguments are those of `thumbnails`.
    """
    limits = ImageLimits()
    done = 0

    def one(picture: Picture) -> T | None:
        nonlocal done
        try:
            fetched = storage.get(picture.uri, limits.max_bytes)
            if etag_key(fetched.etag) != etag_key(picture.etag):
                return None
            return draw(fetched.data, picture)
        except (StorageError, BadImage) as error:
            logger.debug("%s cannot be shown: %s", picture.uri, error)
            return None
        finally:
            done += 1
            if progress:
                progress(done)

    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnails")
    try:
        drawing = [threads.submit(one, picture) for picture in pictures]
        wait(drawing, timeout=deadline_s)
        return [future.result() if future.done() else None for future in drawing]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _webp(data: bytes, rule: ImageRule, limits: ImageLimits, memory: DecodeMemory) -> str:
    """Decode an image at the size of `rule`, and return WebP in base64. If it cannot be decoded, raise `BadImage`."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = decode(data, rule, limits, memory).pixels
    Image.fromarray(pixels).save(buffer, "WEBP", quality=QUALITY, method=2)
    return base64.b64encode(buffer.getvalue()).decode()


BATCH_ROWS = 16_384
DATABASE: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "1GB",
    "enable_external_access": "false",  # so that no query, such as a user's condition, can open a file
}


@dataclass(frozen=True)
class Model:
    """The model behind a part file's rows: version, labels, thresholds, and the thresholds' name (`profile`).

    `lists` is true if the rows have the list form (`genretag.output.label_lists`), and `embeddings` if they have the
    column `embedding`.
    """

    version: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    profile: str
    lists: bool = False
    embeddings: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns with probabilities, such as `p_drama`, in the order of the labels."""
        return tuple(f"p_{name}" for name in column_names(self.labels))

    @property
    def certainty(self) -> str:
        """Return a SQL expression for the highest probability of a row."""
        if self.lists:
            return f"{PROBABILITIES}[1]"
        return f"greatest({', '.join(self.columns)})" if len(self.columns) > 1 else self.columns[0]


@dataclass(frozen=True)
class Tagged:
    """A scored poster, as the pages show it.

    `genres` are indices into the model's labels, the most probable first. `probabilities` has the probability of each
    label by the label's index, with 3 decimals, the most probable first. In the list form, it has only the listed
    labels. `width` and `height` are the poster's, in pixels.
    """

    id: str
    uri: str
    etag: str
    genres: tuple[int, ...]
    probabilities: dict[int, float]
    width: int
    height: int
    scored_at: datetime


def model_of(schema: pa.Schema) -> Model:
    """Return the model version, labels and thresholds that a part file's schema records in its metadata.

    Raises `ValueError` if genretag did not write the file.
    """
    import json

    metadata = schema.metadata or {}
    if LABELS_KEY not in metadata:
        raise ValueError("a Parquet file among the predictions that genretag did not write")
    return Model(
        version=metadata[b"genretag.model_version"].decode(),
        labels=tuple(json.loads(metadata[LABELS_KEY])),
        thresholds=tuple(json.loads(metadata[b"genretag.thresholds"])),
        profile=metadata[b"genretag.profile"].decode(),
        lists=LABELS in schema.names,
        embeddings=EMBEDDING in schema.names,
    )


def read_model(info: ObjectInfo, storage: Storage) -> Model:
    """Return the model version, labels and thresholds that a part file records in its footer.

    Raises `StorageError` if the file cannot be read, `ValueError` if genretag did not write it, and `UsageError` if a
    newer genretag wrote it in another format.
    """
    with storage.open(info) as file:
        schema = pyarrow.parquet.read_schema(file)
    require_known_format(schema, info.uri)
    return model_of(schema)


def read_rows(info: ObjectInfo, storage: Storage, at_most: int | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a part file in tables of at most `BATCH_ROWS` rows. Stop after `at_most` rows (None: all rows).

    The tables lack the column `embedding`, because DuckDB takes no float16 from Arrow. Raises `StorageError` if the
    file cannot be opened, and `UsageError` if a newer genretag wrote it in another format.
    """
    left = at_most
    with storage.open(info) as file:
        parquet = pyarrow.parquet.ParquetFile(file)
        require_known_format(parquet.schema_arrow, info.uri)
        columns = [name for name in parquet.schema_arrow.names if name != EMBEDDING]
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            table = pa.Table.from_batches([batch])
            if left is not None:
                table = table.slice(0, left)
                left -= len(table)
            yield table
            if left == 0:
                return


def open_sandbox() -> duckdb.DuckDBPyConnection:
    """Open a DuckDB database in memory in which no query can open a file or change a setting."""
    database = duckdb.connect(config=DATABASE)
    database.execute("set enable_progress_bar = false")
    database.execute("set lock_configuration = true")
    return database


def shown(rows: Sequence[dict[str, Any]], model: Model) -> list[Tagged]:
    """Turn rows of predictions, as dictionaries by column, into tagged posters.

    A genre that is no label of `model` is left out.
    """
    number = {label: at for at, label in enumerate(model.labels)}
    return [
        Tagged(
            row["poster_id"],
            row["uri"],
            row["etag"],
            tuple(number[genre] for genre in row["genres"] if genre in number),
            _probabilities(row, model, number),
            row["width"],
            row["height"],
            row["scored_at"],
        )
        for row in rows
    ]


def _probabilities(row: dict[str, Any], model: Model, number: dict[str, int]) -> dict[int, float]:
    """Return the probabilities in a row by the index of the label, the most probable first. `number` maps labels."""
    if model.lists:
        pairs = zip(row[LABELS], row[PROBABILITIES], strict=True)
        return {number[label]: round(float(value), 3) for label, value in pairs if label in number}
    values = [round(float(row[column]), 3) for column in model.columns]
    return {label: values[label] for label in sorted(range(len(values)), key=lambda label: -values[label])}
