"""Helpers that decode an image in a test and check its pixels, or the `BadImage` that it raises."""

import numpy as np
import pytest
from image_corpus import encode
from PIL import Image

from genretag.images import ImageRule
from genretag.images.decoding import REASONS, BadImage, ImageLimits, decode

RULE = ImageRule(height=30, width=20)
RED, WHITE = (255, 0, 0), (255, 255, 255)

# genretag.images silences Pillow's warnings about odd metadata, but pytest resets warning filters for every test.
odd_metadata_is_silent = pytest.mark.filterwarnings(
    "ignore::UserWarning:PIL.JpegImagePlugin",
    "ignore::UserWarning:PIL.PngImagePlugin",
    "ignore::UserWarning:PIL.TiffImagePlugin",
)


def failure(data: bytes, limits: ImageLimits | None = None) -> BadImage:
    """Return the `BadImage` that `decode` raises for `data`, after checks that hold for every `BadImage`."""
    with pytest.raises(BadImage) as caught:
        decode(data, RULE, limits or ImageLimits())
    assert caught.value.reason in REASONS
    assert caught.value.message.isprintable()
    assert 0 < len(caught.value.message) <= 200
    return caught.value


def colour(image: Image.Image, image_format: str, **options: object) -> list[int]:
    """Store an image of one colour, decode it, and return the colour of its pixels."""
    pixels = decode(encode(image, image_format, **options), RULE).pixels
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0].tolist()


def mean_difference(left: np.ndarray, right: np.ndarray) -> float:
    """Return the mean absolute difference of two images, from 0 to 255."""
    return float(np.abs(left.astype(int) - right.astype(int)).mean())
