"""Posters for peers.py: JPEG files that are drawn or given, in their own size or in a larger one, put into a bucket."""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

from peer_common import CPUS
from PIL import Image

from genretag.demo.posters import SIZES, draw_poster
from genretag.storage import Storage

DRAWN = 160  # different posters, whose bytes are repeated under other keys
QUALITY = 85  # of JPEG files that are encoded again


def poster_bytes(images: str | None, posters: int, size: tuple[int, int] | None) -> list[bytes]:
    """Return JPEG files, at most `posters`, from a folder or an s3:// prefix. If `images` is None, draw them.

    `size` is (width, height) in pixels. Drawn posters are drawn in this size, and given posters are resized to it and
    encoded again. If `size` is None, given posters stay as they are.
    """
    if images is None:
        sizes = [size] if size else SIZES
        return [draw_poster(seed, (), *sizes[seed % len(sizes)]) for seed in range(min(DRAWN, posters))]
    storage = Storage()
    found = (info.uri for page in storage.list(images) for info in page)
    jpegs = (uri for uri in found if uri.lower().endswith((".jpg", ".jpeg")))
    data = [bytes(storage.get(uri).data) for uri in islice(jpegs, posters)]
    if size is None:
        return data
    with ThreadPoolExecutor(CPUS) as threads:
        return list(threads.map(lambda encoded: _resized(encoded, size), data))


def _resized(data: bytes, size: tuple[int, int]) -> bytes:
    """Return a poster in another size. Lanczos is a good filter, but adds no detail that a small poster lacks."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def fill_bucket(prefix: str, data: Iterable[bytes], posters: int) -> set[str]:
    """Put `posters` posters below `prefix`, whose bytes are those of `data` in turn, and return their URIs."""
    uris, storage = [f"{prefix}/{number:06d}.jpg" for number in range(posters)], Storage()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(storage.put, uris, islice(cycle(data), posters)))
    return set(uris)
