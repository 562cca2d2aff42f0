"""How the tests decode an image, look at what comes out, and check what is raised."""

import numpy as np
import pytest
from image_corpus import encode
from PIL import Image

from genretag.images import ImageRule
from genretag.images.decoding import REASONS, BadImage, ImageLimits, decode

RULE = ImageRule(height=30, width=20)
RED, WHITE = (255, 0, 0), (255, 255, 255)

# genretag.images silences Pillow's remarks on odd metadata, but pytest sets the filters anew for every test.
odd_metadata_is_silent = pytest.mark.filterwarnings(
    "ignore::UserWarning:PIL.JpegImagePlugin",
    "ignore::UserWarning:PIL.PngImagePlugin",
    "ignore::UserWarning:PIL.TiffImagePlugin",
)


def failure(data: bytes, limits: ImageLimits | None = None) -> BadImage:
    """What decode raises for `data`, checked for what holds for every failure."""
    with pytest.raises(BadImage) as caught:
        decode(data, RULE, limits or ImageLimits())
    assert caught.value.reason in REASONS
    assert caught.value.message.isprintable()
    assert 0 < len(caught.value.message) <= 200
    return caught.value


def colour(image: Image.Image, image_format: str, **options: object) -> list[int]:
    """The one colour that a plain image has once it was stored and decoded."""
    pixels = decode(encode(image, image_format, **options), RULE).pixels
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0].tolist()


def mean_difference(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(int) - right.astype(int)).mean())
