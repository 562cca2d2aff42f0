"""A good picture gives uint8 pixels of the rule's shape, antialiased, from its first frame, in any thread."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_corpus import FORMATS, encode, scene, turned
from image_decoding import RED, RULE, WHITE, colour, mean_difference
from PIL import Image, JpegImagePlugin

from genretag.images import ImageRule
from genretag.images import decoding as images
from genretag.images.decoding import decode

# -- the array ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_gives_the_same_picture_as_uint8_of_the_rules_shape(image_format: str) -> None:
    decoded = decode(encode(scene(), image_format), RULE)
    assert decoded.pixels.shape == (30, 20, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert (decoded.width, decoded.height) == (80, 120)
    # Not exact, because GIF has 256 colours.
    assert mean_difference(decoded.pixels, decode(encode(scene(), "PNG"), RULE).pixels) < 5


def test_the_corpus_covers_every_format_that_is_decoded() -> None:
    assert set(FORMATS) == set(images.FORMATS)


def test_pixels_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        decode(encode(scene(), "PNG"), RULE).pixels[0, 0, 0] = 1


def test_a_memoryview_is_decoded_like_bytes() -> None:
    data = encode(scene(), "JPEG")
    assert (decode(memoryview(data), RULE).pixels == decode(data, RULE).pixels).all()


def test_squash_keeps_all_four_corners() -> None:
    pixels = decode(encode(scene(200, 50), "PNG"), RULE).pixels.astype(int)
    assert pixels[0, 0, :2].max() < 15
    assert pixels[-1, -1, :2].min() > 240
    assert (pixels[0, -1, 0] > 240) and (pixels[-1, 0, 1] > 240)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "I;16"])
def test_shrinking_antialiases(mode: str) -> None:
    stripes = np.zeros((300, 200), np.uint8)
    stripes[:, ::2] = 255
    image = Image.fromarray(stripes * np.uint16(257)) if mode == "I;16" else Image.fromarray(stripes).convert(mode)
    assert abs(decode(encode(image, "PNG"), RULE).pixels.astype(int) - 128).max() <= 5


def test_one_pixel_is_a_picture() -> None:
    assert colour(Image.new("RGB", (1, 1), RED), "PNG") == [255, 0, 0]


@pytest.mark.parametrize(("height", "width"), [(0, 20), (30, -1)])
def test_a_rule_needs_a_positive_size(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        ImageRule(height, width)


def test_an_unknown_resize_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown resize 'stretch'; known: squash, letterbox, crop"):
        ImageRule(30, 20, resize="stretch")


# -- frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_shows_its_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (40, 60), shade) for shade in (RED, WHITE)]
    options = {} if image_format in ("GIF", "TIFF", "PNG") else {"quality": 100}
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert np.abs(decode(data, RULE).pixels.astype(int) - RED).max() <= 3


def test_a_pair_of_pictures_from_a_camera_shows_the_first() -> None:
    data = encode(Image.new("RGB", (40, 60), RED), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 60))])
    assert np.abs(decode(data, RULE).pixels.astype(int) - RED).max() <= 3


# -- decoding at reduced scale -----------------------------------------------------------------------------


@pytest.fixture
def loaded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that collects the sizes at which JPEGs are decoded during a test."""
    sizes: list[tuple[int, int]] = []
    load_end = JpegImagePlugin.JpegImageFile.load_end

    def spy(image: JpegImagePlugin.JpegImageFile) -> None:
        sizes.append(image.im.size)
        load_end(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load_end", spy)
    return sizes


@pytest.mark.parametrize(
    ("stored", "reduced"), [((640, 960), (80, 120)), ((159, 960), (80, 480)), ((79, 120), (79, 120))]
)
def test_a_large_jpeg_is_decoded_reduced_but_never_below_the_target(
    stored: tuple[int, int], reduced: tuple[int, int], loaded_sizes: list[tuple[int, int]]
) -> None:
    decoded = decode(encode(scene(*stored), "JPEG"), ImageRule(height=120, width=79))
    assert loaded_sizes == [reduced]
    assert (decoded.width, decoded.height) == stored


def test_the_reduced_size_is_chosen_for_the_upright_picture(loaded_sizes: list[tuple[int, int]]) -> None:
    # Stored 960 x 320, shown 320 x 960. Scale 1/8 is enough for the stored size, but the shown size needs 1/4.
    decode(turned(scene(320, 960), 6), ImageRule(height=120, width=80))
    assert loaded_sizes == [(240, 80)]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_reduced_decoding_is_within_two_grey_levels_of_full_decoding(mode: str, progressive: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((800, 1200), Image.Resampling.BICUBIC).convert(mode)
    data = encode(image, "JPEG", quality=90, progressive=progressive)
    full = image.resize((60, 90), Image.Resampling.BILINEAR).convert("RGB")
    assert mean_difference(decode(data, ImageRule(90, 60)).pixels, np.asarray(full)) < 2


# -- threads -----------------------------------------------------------------------------------------------


def test_eight_threads_see_what_one_sees() -> None:
    files = [encode(scene(), image_format) for image_format in FORMATS]
    files += [turned(scene(), orientation) for orientation in range(1, 9)]
    alone = [decode(data, RULE).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, RULE).pixels, files * 20))
    assert all((pixels == alone[index % len(files)]).all() for index, pixels in enumerate(together))
