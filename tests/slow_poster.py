"""A poster that takes a second or more to decode."""

import time

from PIL import Image

from genretag.images import ImageRule
from genretag.images.decoding import decode


def save_slow_poster(file):
    """Save a slow poster as `file`. Return a decode timeout in seconds that this poster exceeds, and no small one does.

    The timeout is half of the CPU time that this process needs to decode the poster.
    """
    Image.effect_noise((9_000, 9_000), 60).save(file, progressive=True, quality=90)
    started = time.thread_time()
    decode(file.read_bytes(), ImageRule(96, 64))
    return round((time.thread_time() - started) / 2, 2)
