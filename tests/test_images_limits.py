"""Images with too many bytes or pixels are refused before they cost memory. Lack of memory has its own reason."""

import tracemalloc
import warnings

import pytest
from image_corpus import FORMATS, encode, png_promising, scene
from image_decoding import RULE, failure
from PIL import Image

from genretag.images import decoding as images
from genretag.images.decoding import ImageLimits, decode


def test_a_file_with_too_many_bytes_is_refused_before_it_is_parsed() -> None:
    bad = failure(encode(scene(), "JPEG"), ImageLimits(max_bytes=100))
    assert bad.reason == "too_many_bytes"
    assert "limit 100" in bad.message


def test_a_png_that_declares_too_many_pixels_is_refused_before_memory_is_allocated() -> None:
    data = png_promising(60_000, 60_000)
    tracemalloc.start()
    try:
        bad = failure(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (bad.reason, bad.message) == ("too_many_pixels", "60,000 x 60,000 pixels, limit 100,000,000")
    assert peak_bytes < 2**20


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_pixel_limit_is_checked_before_any_format_is_decoded(
    image_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(scene(), image_format)
    assert decode(data, RULE, ImageLimits(max_pixels=80 * 120)).width == 80
    monkeypatch.setattr(images, "_averageable", None)  # a call would raise, with the reason "corrupt"
    monkeypatch.setattr(Image.Image, "load", None)
    assert failure(data, ImageLimits(max_pixels=80 * 120 - 1)).reason == "too_many_pixels"


def test_lack_of_memory_has_its_own_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_averageable", exhausted)
    assert failure(encode(scene(), "PNG")).reason == "out_of_memory"


def test_pillows_own_guard_against_large_pictures_stays_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "Bomb" not in failure(png_promising(10_000, 9_500)).message  # at this size Pillow itself would warn
        assert "Bomb" not in failure(png_promising(60_000, 60_000)).message  # at this size Pillow itself would refuse
