"""What counts as a picture, what colours come out of it, and how bad bytes are named."""

import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_corpus import (
    FORMATS,
    NOT_IMAGES,
    ORIENTATION,
    UNSUPPORTED,
    encode,
    exif,
    png_chunk,
    png_promising,
    scene,
    turned,
)
from PIL import Image, ImageCms, JpegImagePlugin

from genretag import images
from genretag.images import REASONS, BadImage, DecodedImage, ImageLimits, ImageRule, decode

RULE = ImageRule(height=30, width=20)
RED, WHITE = (255, 0, 0), (255, 255, 255)

# genretag.images silences Pillow's remarks on odd metadata, but pytest sets the filters anew for every test.
pytestmark = pytest.mark.filterwarnings(
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


# -- the array ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_gives_the_same_picture_as_uint8_of_the_rules_shape(image_format: str) -> None:
    decoded = decode(encode(scene(), image_format), RULE)
    assert decoded.pixels.shape == (30, 20, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert (decoded.width, decoded.height) == (80, 120)
    assert mean_difference(decoded.pixels, decode(encode(scene(), "PNG"), RULE).pixels) < 5  # GIF: 256 colours


def test_the_corpus_covers_every_format_that_is_decoded() -> None:
    assert set(FORMATS) == set(images.FORMATS)


def test_pixels_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        decode(encode(scene(), "PNG"), RULE).pixels[0, 0, 0] = 1


def test_a_memoryview_does_as_well_as_bytes() -> None:
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
    with pytest.raises(ValueError, match=r"unknown resize 'crop'; known: squash"):
        ImageRule(30, 20, resize="crop")


# -- colour ------------------------------------------------------------------------------------------------


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
    # YCCK holds CMY as inverted RGB, and Adobe inverts once more: red is stored as YCbCr 179, 171, 1.
    # Pillow writes inverted CMYK, never YCCK, so these values are written as CMYK and then said to be YCCK.
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
    image = Image.new("RGBA", (40, 60), (0, 255, 0, 0))  # invisible green ...
    image.paste((255, 0, 0, 255), (0, 0, 19, 60))  # ... beside red, with an edge that the resize averages
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
def test_deep_grey_that_is_not_finite_or_all_the_same_is_no_problem() -> None:
    odd = Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32))
    assert decode(encode(odd, "TIFF"), ImageRule(1, 4)).pixels[0, :, 0].tolist() == [0, 0, 0, 255]
    assert colour(Image.new("F", (40, 60), 7.0), "TIFF") == [0, 0, 0]


def test_an_icc_profile_is_not_applied() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert colour(Image.new("RGB", (40, 60), (200, 30, 60)), "PNG", icc_profile=profile) == [200, 30, 60]


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_shows_its_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (40, 60), shade) for shade in (RED, WHITE)]
    options = {} if image_format in ("GIF", "TIFF", "PNG") else {"quality": 100}
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert np.abs(decode(data, RULE).pixels.astype(int) - RED).max() <= 3


def test_a_pair_of_pictures_from_a_camera_shows_the_first() -> None:
    data = encode(Image.new("RGB", (40, 60), RED), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 60))])
    assert np.abs(decode(data, RULE).pixels.astype(int) - RED).max() <= 3


# -- orientation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_shown_upright(orientation: int, image_format: str) -> None:
    options = {} if image_format in ("PNG", "TIFF") else {"quality": 95}
    decoded = decode(turned(scene(), orientation, image_format, **options), RULE)
    assert (decoded.width, decoded.height) == (80, 120)
    assert decoded.pixels.shape == (30, 20, 3)
    assert mean_difference(decoded.pixels, decode(encode(scene(), "PNG"), RULE).pixels) < 3


def test_an_orientation_that_a_png_tells_after_its_pixels_counts() -> None:
    data = encode(scene().transpose(Image.Transpose.ROTATE_90), "PNG")
    late = png_chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    end = data.rindex(b"IEND") - 4
    decoded = decode(data[:end] + late + data[end:], RULE)
    assert (decoded.width, decoded.height) == (80, 120)
    assert mean_difference(decoded.pixels, decode(encode(scene(), "PNG"), RULE).pixels) < 1


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_out_of_range_is_ignored(orientation: int) -> None:
    decoded = decode(encode(scene(), "JPEG", exif=exif(orientation)), RULE)
    assert (decode(encode(scene(), "JPEG"), RULE).pixels == decoded.pixels).all()


@pytest.mark.parametrize(
    "garbage",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage!",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",  # a directory far behind the end
        b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, ORIENTATION, 2, 3, b"up\0\0", 0),  # text, not a number
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_unreadable_exif_does_not_spoil_a_good_picture(garbage: bytes, image_format: str) -> None:
    decoded = decode(encode(scene(), image_format, exif=garbage), RULE)
    assert (decode(encode(scene(), image_format), RULE).pixels == decoded.pixels).all()


# -- decoding at reduced scale -----------------------------------------------------------------------------


@pytest.fixture
def loaded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes that JPEGs are really decoded at, collected while a test runs."""
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
    # Stored 960 x 320, shown 320 x 960: an eighth would do for the stored axes, only a quarter for the shown.
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


# -- bad bytes and their names -----------------------------------------------------------------------------


def test_no_bytes_are_named_empty() -> None:
    assert failure(b"").reason == "empty"


def test_too_many_bytes_are_named_before_anything_is_parsed() -> None:
    bad = failure(encode(scene(), "JPEG"), ImageLimits(max_bytes=100))
    assert bad.reason == "too_many_bytes"
    assert "limit 100" in bad.message


@pytest.mark.parametrize(("name", "data"), NOT_IMAGES.items())
def test_what_is_not_an_image_is_named_with_what_it_looks_like(name: str, data: bytes) -> None:
    bad = failure(data)
    assert bad.reason == "not_an_image"
    assert bad.message.startswith(f"looks like {name}")


@pytest.mark.parametrize(("name", "data"), UNSUPPORTED.items())
def test_an_image_in_another_format_is_named_unsupported(name: str, data: bytes) -> None:
    bad = failure(data)
    assert (bad.reason, bad.message) == ("unsupported_format", f"looks like {name}")


@pytest.mark.parametrize("image_format", ["EPS", "ICO", "JPEG2000", "PPM", "TGA", "PDF"])
def test_no_format_outside_the_list_is_decoded_though_pillow_could(image_format: str) -> None:
    assert failure(encode(scene(), image_format)).reason in {"unsupported_format", "not_an_image"}


def test_a_truncated_jpeg_is_named_truncated() -> None:
    data = encode(scene(), "JPEG")
    bad = failure(data[: len(data) // 2])
    assert bad.reason == "truncated"
    assert bad.message.startswith("JPEG: ")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": exif(6)}])
def test_a_jpeg_is_named_truncated_wherever_it_was_cut(options: dict[str, object]) -> None:
    data = encode(scene(), "JPEG", **options)
    assert {failure(data[:length]).reason for length in range(2, len(data) - 40, 5)} == {"truncated"}


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_truncated_file_of_another_format_is_named_truncated(image_format: str, part: float) -> None:
    data = encode(scene(), image_format)
    assert failure(data[: int(len(data) * part)]).reason == "truncated"


@pytest.mark.parametrize("options", [("AVIF", {}), ("TIFF", {"compression": "tiff_lzw"})])
def test_a_cut_avif_or_compressed_tiff_is_bad_under_either_name(options: tuple[str, dict[str, str]]) -> None:
    data = encode(scene(), options[0], **options[1])
    assert failure(data[: len(data) // 2]).reason in {"truncated", "corrupt"}


def test_a_png_with_a_damaged_middle_is_named_corrupt() -> None:
    data = bytearray(encode(scene(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    bad = failure(bytes(data))
    assert bad.reason == "corrupt"
    assert bad.message.startswith("PNG: ")


def test_a_jpeg_with_a_broken_header_is_named_corrupt() -> None:
    data = bytearray(encode(scene(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = bytes(4)  # 0 x 0 pixels
    bad = failure(bytes(data))
    assert (bad.reason, bad.message) == ("corrupt", "JPEG: the header cannot be read")


def test_a_png_that_promises_too_many_pixels_fails_before_they_get_memory() -> None:
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
    monkeypatch.setattr(images, "_averageable", None)  # whoever gets there fails as corrupt
    monkeypatch.setattr(Image.Image, "load", None)
    assert failure(data, ImageLimits(max_pixels=80 * 120 - 1)).reason == "too_many_pixels"


def test_memory_that_runs_out_is_not_blamed_on_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_averageable", exhausted)
    assert failure(encode(scene(), "PNG")).reason == "out_of_memory"


@pytest.mark.parametrize("surprise", [KeyError("x\ny"), RecursionError(), OverflowError("\x1b[31m" + "a" * 999)])
def test_whatever_pillow_raises_becomes_one_clean_line(surprise: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprising(image: Image.Image) -> None:
        raise surprise

    monkeypatch.setattr(images, "_averageable", surprising)
    assert failure(encode(scene(), "PNG")).reason == "corrupt"


def test_a_message_quotes_hostile_bytes_without_their_control_characters() -> None:
    bad = BadImage("corrupt", "a\x1b[31m\r\n\tb\u202ec" + "d" * 300)
    assert bad.message.startswith("a [31m b c")
    assert bad.message.isprintable()
    assert len(bad.message) == 200


def test_a_bad_image_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(failure(b"")))
    assert (copy.reason, copy.message, str(copy)) == (
        "empty",
        "the object has 0 bytes",
        "empty: the object has 0 bytes",
    )


def test_pillows_own_guard_against_large_pictures_stays_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "Bomb" not in failure(png_promising(10_000, 9_500)).message  # Pillow would warn
        assert "Bomb" not in failure(png_promising(60_000, 60_000)).message  # Pillow would refuse


def test_odd_metadata_does_not_warn() -> None:
    # An EXIF text far behind the end. In a fresh interpreter, as pytest sets warning filters of its own.
    odd = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, ORIENTATION, 2, 255, 255, 0)
    script = (
        "import sys; from genretag.images import ImageRule, decode;"
        "print(decode(sys.stdin.buffer.read(), ImageRule(8, 8)).width)"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", script]
    done = subprocess.run(command, input=encode(scene(), "JPEG", exif=odd), capture_output=True)
    assert (done.stdout, done.stderr, done.returncode) == (b"80\n", b"", 0)


# -- properties --------------------------------------------------------------------------------------------

WHOLE_FILES = {image_format: encode(scene(), image_format) for image_format in FORMATS}
any_bytes = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def decodes_or_names_a_reason(data: bytes) -> None:
    try:
        decoded = decode(data, RULE, ImageLimits(max_pixels=1_000_000))
    except BadImage as bad:
        assert bad.reason in REASONS
        assert bad.message.isprintable()
    else:
        assert isinstance(decoded, DecodedImage)
        assert decoded.pixels.shape == (30, 20, 3)
        assert decoded.pixels.dtype == np.uint8
        assert min(decoded.width, decoded.height) > 0


@any_bytes
@given(st.binary(max_size=300))
def test_random_bytes_decode_or_are_named(data: bytes) -> None:
    decodes_or_names_a_reason(data)


@any_bytes
@given(
    image_format=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=20),
    keep=st.floats(0.1, 1),
)
def test_damaged_files_decode_or_are_named(image_format: str, changes: list[tuple[int, int]], keep: float) -> None:
    data = bytearray(WHOLE_FILES[image_format])
    for position, value in changes:
        data[position % len(data)] = value
    decodes_or_names_a_reason(bytes(data[: max(1, int(len(data) * keep))]))


# -- threads -----------------------------------------------------------------------------------------------


def test_eight_threads_see_what_one_sees() -> None:
    files = [encode(scene(), image_format) for image_format in FORMATS]
    files += [turned(scene(), orientation) for orientation in range(1, 9)]
    alone = [decode(data, RULE).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, RULE).pixels, files * 20))
    assert all((pixels == alone[index % len(files)]).all() for index, pixels in enumerate(together))
