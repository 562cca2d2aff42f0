"""A picture is turned upright according to its EXIF. Unreadable EXIF does no harm."""

import struct
import subprocess
import sys

import pytest
from image_corpus import ORIENTATION, encode, exif, png_chunk, scene, turned
from image_decoding import RULE, mean_difference, odd_metadata_is_silent
from PIL import Image, TiffImagePlugin

from genretag.images.decoding import decode

pytestmark = odd_metadata_is_silent


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_shown_upright(orientation: int, image_format: str) -> None:
    options = {} if image_format in ("PNG", "TIFF") else {"quality": 95}
    decoded = decode(turned(scene(), orientation, image_format, **options), RULE)
    assert (decoded.width, decoded.height) == (80, 120)
    assert decoded.pixels.shape == (30, 20, 3)
    assert mean_difference(decoded.pixels, decode(encode(scene(), "PNG"), RULE).pixels) < 3


def test_an_orientation_after_the_pixels_of_a_png_counts() -> None:
    data = encode(scene().transpose(Image.Transpose.ROTATE_90), "PNG")
    late = png_chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    end = data.rindex(b"IEND") - 4
    decoded = decode(data[:end] + late + data[end:], RULE)
    assert (decoded.width, decoded.height) == (80, 120)
    assert mean_difference(decoded.pixels, decode(encode(scene(), "PNG"), RULE).pixels) < 1


def xmp(orientation: int) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def with_xmp(image: Image.Image, image_format: str, orientation: int, **options: object) -> bytes:
    """Return an image file whose XMP metadata has an orientation."""
    if image_format == "PNG":
        text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation))
        data = encode(image, "PNG", **options)
        return data[:33] + text + data[33:]
    if image_format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700] = xmp(orientation)
        tags.update({ORIENTATION: options["exif"][ORIENTATION]} if options else {})
        return encode(image, "TIFF", tiffinfo=tags)
    return encode(image, image_format, xmp=xmp(orientation), quality=95, **options)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_orientation_only_in_xmp_is_ignored_as_in_browsers(image_format: str, orientation: int) -> None:
    decoded = decode(with_xmp(scene(), image_format, orientation), RULE)
    assert (decoded.width, decoded.height) == (80, 120)
    assert mean_difference(decoded.pixels, decode(encode(scene(), "PNG"), RULE).pixels) < 3


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_orientation_in_exif_counts_whatever_xmp_says(image_format: str) -> None:
    stored = scene().transpose(Image.Transpose.ROTATE_90)
    decoded = decode(with_xmp(stored, image_format, 3, exif=exif(6)), RULE)
    assert (decoded.width, decoded.height) == (80, 120)
    assert mean_difference(decoded.pixels, decode(encode(scene(), "PNG"), RULE).pixels) < 3


def test_xmp_after_the_pixels_of_a_png_is_ignored_too() -> None:
    data = encode(scene(), "PNG")
    end = data.rindex(b"IEND") - 4
    late = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))
    assert (decode(data[:end] + late + data[end:], RULE).pixels == decode(data, RULE).pixels).all()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_out_of_range_is_ignored(orientation: int) -> None:
    decoded = decode(encode(scene(), "JPEG", exif=exif(orientation)), RULE)
    assert (decode(encode(scene(), "JPEG"), RULE).pixels == decoded.pixels).all()


@pytest.mark.parametrize(
    "garbage",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage!",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",  # the directory is far behind the end of the data
        # The orientation is a text instead of a number.
        b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, ORIENTATION, 2, 3, b"up\0\0", 0),
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_unreadable_exif_does_not_spoil_a_good_picture(garbage: bytes, image_format: str) -> None:
    decoded = decode(encode(scene(), image_format, exif=garbage), RULE)
    assert (decode(encode(scene(), image_format), RULE).pixels == decoded.pixels).all()


def test_odd_metadata_does_not_warn() -> None:
    # An EXIF text far behind the end of the data. A new interpreter is needed, because pytest sets warning filters.
    odd = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, ORIENTATION, 2, 255, 255, 0)
    script = (
        "import sys; from genretag.images import ImageRule; from genretag.images.decoding import decode;"
        "print(decode(sys.stdin.buffer.read(), ImageRule(8, 8)).width)"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", script]
    done = subprocess.run(command, input=encode(scene(), "JPEG", exif=odd), capture_output=True)
    assert (done.stdout, done.stderr, done.returncode) == (b"80\n", b"", 0)
