"""Decoded colours are right in every mode, colour space, palette, transparency and depth."""

import numpy as np
import pytest
from image_corpus import encode
from image_decoding import RED, RULE, colour
from PIL import Image

from genretag.images import ImageRule
from genretag.images.decoding import decode


@pytest.mark.parametrize(
    ("mode", "value", "image_format", "expected"),
    [
        ("1", 1, "PNG", [255, 255, 255]),
        ("L", 77, "PNG", [77, 77, 77]),
        ("L", 77, "JPEG", [77, 77, 77]),
        ("LA", (0, 0), "PNG", [255, 255, 255]),
        ("LA", (0, 128), "PNG", [127, 127, 127]),
        ("RGBA", (255, 0, 0, 255), "PNG", [255, 0, 0]),
        ("RGBA", (255, 0, 0, 128), "PNG", [255, 127, 127]),
        ("RGBA", (0, 0, 0, 0), "WEBP", [255, 255, 255]),
        ("PA", (0, 0), "TIFF", [255, 255, 255]),
        ("CMYK", (0, 255, 255, 0), "TIFF", [255, 0, 0]),
        ("CMYK", (0, 255, 255, 0), "JPEG", [255, 0, 0]),
        ("CMYK", (0, 0, 0, 255), "JPEG", [0, 0, 0]),
        ("I;16", 0, "PNG", [0, 0, 0]),
        ("I;16", 32896, "PNG", [128, 128, 128]),
        ("I;16", 65535, "PNG", [255, 255, 255]),
        ("I;16B", 32896, "TIFF", [128, 128, 128]),
    ],
)
def test_a_plain_colour_survives_its_mode(
    mode: str, value: int | tuple[int, ...], image_format: str, expected: list[int]
) -> None:
    got = colour(Image.new(mode, (40, 60), value), image_format)
    assert np.abs(np.subtract(got, expected)).max() <= 1


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_colour_spaces_keep_their_colours(mode: str) -> None:
    stored = Image.new("RGB", (40, 60), (200, 30, 60)).convert(mode)
    assert stored.mode == mode
    assert np.abs(np.subtract(colour(stored, "TIFF"), (200, 30, 60))).max() <= 2


def test_a_ycck_jpeg_keeps_its_colours() -> None:
    # YCCK stores CMY as inverted RGB, and Adobe inverts it again. So red is stored as YCbCr 179, 171, 1.
    # Pillow cannot write YCCK. So the values are written as inverted CMYK, and then the header is changed to YCCK.
    data = bytearray(encode(Image.new("CMYK", (48, 64), (255 - 179, 255 - 171, 255 - 1, 0)), "JPEG", quality=95))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    assert np.abs(decode(bytes(data), RULE).pixels.astype(int) - RED).max() <= 3


def test_a_palette_gives_its_colours() -> None:
    assert colour(Image.new("RGB", (40, 60), RED).quantize(2), "PNG") == [255, 0, 0]


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_shows_white(image_format: str) -> None:
    image = Image.new("P", (40, 60), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert colour(image, image_format) == [255, 0, 0]
    assert colour(image, image_format, transparency=1) == [255, 255, 255]


def test_a_half_transparent_palette_entry_shows_half_white() -> None:
    image = Image.new("P", (40, 60), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert colour(image, "PNG", transparency=b"\xff\x80") == [255, 127, 127]


@pytest.mark.parametrize(("mode", "value", "key"), [("L", 9, 9), ("1", 0, 0), ("RGB", RED, RED)])
def test_a_png_colour_key_shows_white(mode: str, value: object, key: object) -> None:
    assert colour(Image.new(mode, (40, 60), value), "PNG", transparency=key) == [255, 255, 255]


def test_colours_hidden_by_transparency_do_not_bleed() -> None:
    image = Image.new("RGBA", (40, 60), (0, 255, 0, 0))  # transparent green ...
    # ... next to opaque red. The resize averages over the edge between them.
    image.paste((255, 0, 0, 255), (0, 0, 19, 60))
    pixels = decode(encode(image, "PNG"), RULE).pixels
    assert (pixels[..., 0] == 255).all()
    assert (pixels[..., 1] == pixels[..., 2]).all()


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, 0.5, 1.0]], np.float32),
        np.array([[-3.0, 0.0, 3.0]], np.float32),
        np.array([[0, 70_000, 140_000]], np.int32),
    ],
)
def test_deep_grey_is_stretched_from_its_darkest_to_its_brightest(values: np.ndarray) -> None:
    data = encode(Image.fromarray(values), "TIFF")
    assert decode(data, ImageRule(1, 3)).pixels[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_deep_grey_with_infinite_or_equal_values_is_decoded() -> None:
    odd = Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32))
    assert decode(encode(odd, "TIFF"), ImageRule(1, 4)).pixels[0, :, 0].tolist() == [0, 0, 0, 255]
    assert colour(Image.new("F", (40, 60), 7.0), "TIFF") == [0, 0, 0]
