"""Bytes that are no picture, or a broken one, raise `BadImage` with a reason and one printable line."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_corpus import FORMATS, NOT_IMAGES, UNSUPPORTED, encode, exif, scene
from image_decoding import RULE, failure, odd_metadata_is_silent
from PIL import Image

from genretag.images import decoding as images
from genretag.images.decoding import REASONS, BadImage, DecodedImage, ImageLimits, decode

pytestmark = odd_metadata_is_silent


# -- bad bytes and their names -----------------------------------------------------------------------------


def test_zero_bytes_have_the_reason_empty() -> None:
    assert failure(b"").reason == "empty"


@pytest.mark.parametrize(("name", "data"), NOT_IMAGES.items())
def test_the_message_for_a_file_that_is_no_image_names_its_kind(name: str, data: bytes) -> None:
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


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"exif": exif(6)}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(mode: str, options: dict[str, object]) -> None:
    data = encode(scene(81, 119).convert(mode), "JPEG", **options)
    whole = decode(data, RULE).pixels
    for missing in (1, 2):
        np.testing.assert_array_equal(decode(data[:-missing], RULE).pixels, whole)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100}])
def test_a_jpeg_that_lacks_the_end_of_its_last_scan_is_truncated(options: dict[str, object]) -> None:
    data = encode(scene(), "JPEG", **options)
    assert {failure(data[:-missing]).reason for missing in range(5, 40)} == {"truncated"}


def test_a_progressive_jpeg_that_ends_between_two_scans_is_truncated() -> None:
    data = encode(scene(), "JPEG", progressive=True)
    third = data.index(b"\xff\xda", data.index(b"\xff\xda", data.index(b"\xff\xda") + 2) + 2)
    first_table = data.rindex(b"\xff\xc4", 0, third)
    for cut in (first_table, third):
        assert failure(data[:cut]).reason == "truncated"


def test_the_pixels_of_a_jpeg_without_an_end_count_towards_the_limits() -> None:
    data = encode(scene(800, 800), "JPEG", progressive=True)[:-2]
    assert failure(data, ImageLimits(max_decode_bytes=8_000_000)).reason == "too_many_pixels"
    assert failure(data, ImageLimits(max_pixels=600_000)).reason == "too_many_pixels"


def test_a_cut_jpeg_is_refused_undecoded_if_its_bytes_cannot_hold_its_pixels() -> None:
    data = bytearray(encode(scene(), "JPEG")[:-2])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (9000).to_bytes(2) * 2
    bad = failure(bytes(data))
    assert (bad.reason, "cannot hold" in bad.message) == ("truncated", True)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_truncated_file_of_another_format_is_named_truncated(image_format: str, part: float) -> None:
    data = encode(scene(), image_format)
    assert failure(data[: int(len(data) * part)]).reason == "truncated"


@pytest.mark.parametrize("options", [("AVIF", {}), ("TIFF", {"compression": "tiff_lzw"})])
def test_a_cut_avif_or_compressed_tiff_is_truncated_or_corrupt(options: tuple[str, dict[str, str]]) -> None:
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
    data[frame + 5 : frame + 9] = bytes(4)  # the header declares 0 x 0 pixels
    bad = failure(bytes(data))
    assert (bad.reason, bad.message) == ("corrupt", "JPEG: the header cannot be read")


@pytest.mark.parametrize("surprise", [KeyError("x\ny"), RecursionError(), OverflowError("\x1b[31m" + "a" * 999)])
def test_any_exception_of_pillow_becomes_one_printable_line(
    surprise: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
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
