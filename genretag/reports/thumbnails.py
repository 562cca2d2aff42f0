"""Small pictures of posters for the pages, by the project's only decoder, as WebP in base64.

Only the version that was scored is shown: its etag is compared before it is decoded, so that the decoder meets nothing
here that it has not met already in a job that outlives a decoder's death.
"""

import base64
import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from genretag.fetching import DECODE_BYTES
from genretag.images import BadImage, ImageLimits, ImageRule, decode
from genretag.images.memory import DecodeMemory
from genretag.storage import Storage, StorageError
from genretag.storage.etags import etag_key

HEIGHT, WIDTH = 180, 120  # pixels, at most: a card of the gallery, sharp enough to know a film by
QUALITY = 60
THREADS = 16  # most of the time they wait for the store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A poster to be shown: the version that was scored, and its own size in pixels where that is known."""

    uri: str
    etag: str
    width: int | None = None
    height: int | None = None

    @property
    def rule(self) -> ImageRule:
        """Its shape in the box of a thumbnail, or the middle of it where its own is not known."""
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
    """WebP in base64, or none where the object is gone, was changed, or did not come within the deadline."""
    memory, limits = DecodeMemory(DECODE_BYTES), ImageLimits()
    done = 0

    def draw(picture: Picture) -> str | None:
        nonlocal done
        try:
            fetched = storage.get(picture.uri, limits.max_bytes)
            if etag_key(fetched.etag) != etag_key(picture.etag):
                return None
            return _webp(fetched.data, picture.rule, limits, memory)
        except (StorageError, BadImage) as error:
            logger.debug("no thumbnail of %s: %s", picture.uri, error)
            return None
        finally:
            done += 1
            if progress:
                progress(done)

    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnails")
    try:
        drawing = [threads.submit(draw, picture) for picture in pictures]
        wait(drawing, timeout=deadline_s)
        return [future.result() if future.done() else None for future in drawing]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _webp(data: bytes, rule: ImageRule, limits: ImageLimits, memory: DecodeMemory) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = decode(data, rule, limits, memory).pixels
    Image.fromarray(pixels).save(buffer, "WEBP", quality=QUALITY, method=2)
    return base64.b64encode(buffer.getvalue()).decode()
