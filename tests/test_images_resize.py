"""A picture of another shape than the model's is squashed, letterboxed or cropped, in its shown orientation."""

import numpy as np
import pytest
from image_corpus import FORMATS, encode, scene, turned
from image_decoding import mean_difference
from PIL import Image, JpegImagePlugin

from genretag.images.decoding import decode
from genretag.images.resizing import RESIZES, ImageRule

LETTERBOX, CROP = ImageRule(30, 20, "letterbox"), ImageRule(30, 20, "crop")


def is_bar(pixels: np.ndarray) -> np.ndarray:
    """Return True for each pixel that has exactly the grey of the bars: bool (height, width)."""
    return (pixels == 127).all(axis=-1)


def plain(width: int, height: int) -> bytes:
    return encode(Image.new("RGB", (width, height), (200, 0, 0)), "PNG")


# -- letterbox ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((40, 60), (0, 30), (0, 20)),  # the rule's own shape: no bars
        ((60, 60), (5, 25), (0, 20)),
        ((200, 50), (12, 17), (0, 20)),
        ((20, 60), (0, 30), (5, 15)),
        ((10, 10), (5, 25), (0, 20)),  # smaller than the target: scaled up
        ((3, 3000), (0, 30), (9, 10)),  # thinner than a pixel after scaling: still one pixel
    ],
)
def test_a_letterbox_shows_the_whole_picture_between_grey_bars(size, rows, columns):
    pixels = decode(plain(*size), LETTERBOX).pixels

    assert (pixels.shape, pixels.dtype) == ((30, 20, 3), np.uint8)
    expected = np.ones((30, 20), dtype=bool)
    expected[slice(*rows), slice(*columns)] = False
    np.testing.assert_array_equal(is_bar(pixels), expected)


def test_a_letterbox_keeps_the_aspect_and_all_four_corners():
    pixels = decode(encode(scene(120, 60), "PNG"), LETTERBOX).pixels

    shown = pixels[10:20]
    assert mean_difference(shown, np.asarray(scene(120, 60).resize((20, 10), Image.Resampling.BILINEAR))) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(120, 61), (61, 120)])
def test_a_turned_picture_is_in_the_same_letterbox(orientation, size):
    upright = decode(turned(scene(*size), 1, "PNG"), LETTERBOX).pixels

    np.testing.assert_array_equal(
        is_bar(decode(turned(scene(*size), orientation, "PNG"), LETTERBOX).pixels), is_bar(upright)
    )
    assert mean_difference(decode(turned(scene(*size), orientation, "PNG"), LETTERBOX).pixels, upright) < 1


# -- crop --------------------------------------------------------------------------------------------------


def test_a_crop_takes_the_middle_of_a_wide_picture_and_of_a_tall_one():
    stripes = np.zeros((60, 120, 3), np.uint8)
    stripes[:, 40:80] = (0, 200, 0)  # the middle 40 x 60, which is the part that the crop keeps

    for orientation in (1, 3, 6, 8):
        data = turned(Image.fromarray(stripes), orientation, "PNG")
        # Leave out the outer pixels, which the filter blends with their neighbours.
        inner = decode(data, CROP).pixels[1:-1, 1:-1]
        assert (inner == (0, 200, 0)).all()

    tall = encode(Image.fromarray(np.ascontiguousarray(stripes.transpose(1, 0, 2))), "PNG")
    kept = decode(tall, CROP).pixels  # the crop keeps rows 15 to 105 of 120, and rows 40 to 80 are green
    green = (kept[:, 10] == (0, 200, 0)).all(axis=-1)
    assert green[9:21].all() and not green[:8].any() and not green[22:].any()


@pytest.mark.parametrize("size", [(40, 60), (1, 1), (1, 500), (500, 1), (333, 77)])
@pytest.mark.parametrize("resize", RESIZES)
def test_a_picture_of_any_size_gets_the_size_of_the_rule(resize, size):
    decoded = decode(encode(Image.new("RGB", size), "PNG"), ImageRule(30, 20, resize))

    assert decoded.pixels.shape == (30, 20, 3)
    assert (decoded.width, decoded.height) == size


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_follows_the_rule(image_format, resize):
    rule = ImageRule(30, 20, resize)

    decoded = decode(encode(scene(120, 60), image_format), rule)

    assert mean_difference(decoded.pixels, decode(encode(scene(120, 60), "PNG"), rule).pixels) < 5


# -- decoding at reduced scale -----------------------------------------------------------------------------


@pytest.fixture
def loaded_sizes(monkeypatch):
    """Return a list that collects the sizes at which JPEGs are decoded during a test."""
    sizes = []
    load_end = JpegImagePlugin.JpegImageFile.load_end

    def spy(image):
        sizes.append(image.im.size)
        load_end(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load_end", spy)
    return sizes


@pytest.mark.parametrize(
    ("resize", "reduced"),
    [
        ("letterbox", (160, 80)),  # shown at 80 x 40, so scale 1/8 is enough
        ("crop", (320, 160)),  # scaled to 240 x 120 and then cropped, so 1/4 is needed
        ("squash", (320, 160)),  # 80 x 120 of 320 x 160
    ],
)
def test_a_jpeg_is_reduced_as_far_as_the_rule_allows_and_no_further(resize, reduced, loaded_sizes):
    rule = ImageRule(120, 80, resize)

    decode(encode(scene(1280, 640), "JPEG"), rule)

    assert loaded_sizes == [reduced]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_jpeg_shows_what_the_full_one_would(resize, orientation):
    rule, image = ImageRule(120, 80, resize), scene(1279, 643)

    reduced = decode(turned(image, orientation, quality=95), rule).pixels

    assert mean_difference(reduced, decode(encode(image, "PNG"), rule).pixels) < 2
