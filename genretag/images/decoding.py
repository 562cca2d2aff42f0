"""Decode image bytes to uint8 RGB of shape (height, width, 3): the one decoder of training, scoring and `predict`.

Resize filter, colours and orientation are the same everywhere, so a model sees in production what it saw in training.
The model's own `ImageRule` sets the shape. Colours are sRGB (`colour.py`). Only the first frame or page counts.
"""

import hashlib
import io
import struct
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from genretag.errors import one_line
from genretag.images.colour import ROWS, Conversion, conversion_of
from genretag.images.decode_cost import decode_bytes, endless_work, gif_frame_size, slow_decoder
from genretag.images.file_kinds import configure_pillow, ends_early, looks_like, not_decoded
from genretag.images.file_structure import (
    JpegStructure,
    jpeg_structure,
    lacks_end,
    lost_pixels,
    missing_scans,
    undecodable,
)
from genretag.images.resizing import ImageRule
from genretag.images.samples import (
    DEEP_GREY,
    Reading,
    Unreadable,
    as_meant,
    deep_bytes,
    has_low_bytes,
    has_swollen_texts,
    hidden_first_frame,
    low_bytes,
    set_right,
    to_8_bits,
    without_texts,
)

# The usual formats of posters. EPS is left out because Pillow starts a program (Ghostscript) to decode it. ICO and ICNS
# are left out because their headers do not show the number of pixels. JPEG includes MPO, picture pairs of some cameras.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

REASONS = {  # values of `BadImage.reason`, and what each means
    "empty": "the object has no bytes",
    "too_many_bytes": "more bytes than ImageLimits.max_bytes",
    "not_an_image": "no image, often a web page or an error message that was saved under an image's name",
    "unsupported_format": "an image whose format, sample layout or colour encoding genretag cannot decode",
    "too_many_pixels": "by its header, the image has more pixels, or needs more memory, than ImageLimits allows",
    "too_much_work": "decoding would take far too long, as with hundreds of JPEG scans or endless metadata",
    "truncated": "the end is missing, as after an upload that broke off (AVIF and TIFF: may say corrupt)",
    "corrupt": "an image of a known format that cannot be decoded",
    "out_of_memory": "this machine had no memory left: the picture itself may be sound",
}

# EXIF orientation -> the operation that makes the stored picture upright. 1 needs no operation; 5 to 8 swap the axes.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAX_EXIF_BYTES = 2**20  # real EXIF data has at most 64 KB; Pillow makes a Python object for each value
_END = b"\xff\xd9"  # the end-of-image marker of a JPEG
_ANY_BITS = b"\xa5\x5a\x96" * 100  # arbitrary bits, which a decoder reads as a part of a scan
_XMP = ("xmp", "XML:com.adobe.xmp")

configure_pillow()


@dataclass(frozen=True)
class ImageLimits:
    """Limits for one picture: bytes of the file, number of pixels, and memory. `decode` checks them before it decodes.

    `max_pixels` counts the pixels of the stored picture. Measured peak memory per stored pixel: 4 bytes for RGB, 8 with
    alpha, 9 to 12 with a transparent colour, 9 to 14 for AVIF. It is 17 bytes for WebP, 3 to 8 for a progressive JPEG,
    and 0.1 for a JPEG that libjpeg decodes at a reduced size. So the default memory limit allows about 70 million
    pixels in an AVIF, and 59 million in a WebP. In most other formats, the limit of 100 million pixels comes first.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000  # a film poster of 27 x 40 inches at 300 dpi has 97 million
    max_decode_bytes: int = 2**30  # of peak memory, as `decode_cost.decode_bytes` estimates it


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A picture as the model sees it, and the (width, height) of the original."""

    pixels: np.ndarray  # uint8 RGB; shape (height, width, 3) with the rule's height and width; contiguous, read-only
    width: int  # of the original in pixels, as displayed (after EXIF orientation)
    height: int


class BadImage(ValueError):
    """The error for bytes that cannot be decoded. `reason` is a key of REASONS, and `message` is a line for people."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = one_line(message, 200)  # the message may quote hostile bytes
        super().__init__(reason, self.message)  # both in args, or the error would not survive pickling

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class Memory(Protocol):
    """A memory budget for decoding, such as DecodeMemory. `reserved` holds `size_bytes` during a `with` block."""

    def reserved(self, size_bytes: int) -> AbstractContextManager[None]: ...


_DEFAULT_LIMITS = ImageLimits()


def decode(
    data: bytes | memoryview, rule: ImageRule, limits: ImageLimits = _DEFAULT_LIMITS, memory: Memory | None = None
) -> DecodedImage:
    """Decode the bytes of an image file to sRGB in the size of `rule`. Many threads may call this function at once.

    Transparent parts become white. Grey of more than 8 bits is scaled to 8 bits. Signed and floating-point grey has no
    agreed white, so its darkest and brightest values become 0 and 255. In an HDR picture, light brighter than white
    becomes white. A JPEG that is damaged inside, but has its end, decodes with grey or shifted parts, because Pillow
    drops libjpeg's warning. If the budget `memory` is given, the decoding reserves its estimated peak memory there.
    Raises BadImage if the bytes cannot be decoded. Whatever the bytes are, no other exception is raised.
    """
    size_bytes = memoryview(data).nbytes
    if size_bytes == 0:
        raise BadImage("empty", "the object has 0 bytes")
    if size_bytes > limits.max_bytes:
        raise BadImage("too_many_bytes", f"{size_bytes:,} bytes, limit {limits.max_bytes:,}")
    encoded = bytes(data)  # makes no copy if `data` is bytes already
    try:
        try:
            return _decode(encoded, rule, limits, memory)
        except ValueError as error:
            if not has_swollen_texts(error):
                raise
            return _decode(without_texts(encoded), rule, limits, memory)
    except BadImage:
        raise
    except Exception as error:  # noqa: BLE001  hostile bytes make Pillow raise nearly any exception
        raise _explain(encoded, error) from None


def _decode(encoded: bytes, rule: ImageRule, limits: ImageLimits, memory: Memory | None) -> DecodedImage:
    """Decode a file as `decode` does, but do not check its size in bytes, and do not catch Pillow's exceptions."""
    jpeg = jpeg_structure(encoded) if encoded.startswith(b"\xff\xd8") else None
    _refuse("too_much_work", endless_work(encoded, jpeg))
    _refuse("unsupported_format", undecodable(jpeg) if jpeg else None)
    if jpeg and lacks_end(encoded, jpeg):
        encoded = _with_end(encoded, jpeg, limits, memory)
    if encoded.startswith(b"GIF8"):
        _check_pixels(gif_frame_size(encoded), limits)
    opened = _open(encoded, limits)
    image, size = opened.image, opened.size
    _refuse("truncated", lost_pixels(encoded, jpeg) if jpeg else None)
    if isinstance(image, JpegImageFile):
        # libjpeg reduces by 2, 4 or 8, but never below this size. None: do not change the colour mode.
        image.draft(None, _as_stored(rule, _orientation(image)).scaled_size(size))
    with _reserved(opened, jpeg, limits, memory):
        return _pixels(opened, rule)


@dataclass(frozen=True, eq=False)
class _Opened:
    """A file whose header has been read and checked, and what `_pixels` must know about it to decode the pixels."""

    image: Image.Image
    encoded: bytes  # the file that `image` reads
    size: tuple[int, int]  # (width, height) of the whole picture, before a decoder reduces it
    reading: Reading
    conversion: Conversion | None
    has_low_bytes: bool  # True: colours have 16 bits, and Pillow does not load the low bytes


def _open(encoded: bytes, limits: ImageLimits) -> _Opened:
    """Open a file and read its header, which shows whether it has too many pixels or decodes too slowly.

    No pixel is decoded. Raises BadImage if the limits do not allow the file, or if its samples or colours are not
    supported. For a damaged file, Pillow may raise nearly any other exception.
    """
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    size = image.size
    _check_pixels(size, limits)
    _refuse("too_much_work", slow_decoder(image))
    frame = hidden_first_frame(encoded) if image.info.get("default_image") else None
    if frame:
        encoded = frame[0]
        image = Image.open(io.BytesIO(encoded), formats=("PNG",))
    for name in _XMP:  # Pillow reads an orientation from XMP; browsers do not
        image.info.pop(name, None)
    try:
        reading = set_right(image, encoded)
        conversion = conversion_of(image, encoded)
    except Unreadable as error:
        raise BadImage("unsupported_format", f"{image.format}: {error}") from None
    if frame:
        reading = replace(reading, frame=frame[1], canvas=size)
    return _Opened(image, encoded, size, reading, conversion, has_low_bytes(image))


def _reserved(
    opened: _Opened, jpeg: JpegStructure | None, limits: ImageLimits, memory: Memory | None
) -> AbstractContextManager[None]:
    """Return a context manager that reserves, from the budget `memory`, the memory for decoding an opened file.

    If `memory` is None, the context manager does nothing. Raises BadImage if decoding needs more than `limits` allow.
    """
    image, size = opened.image, opened.size
    needed_bytes = decode_bytes(image, jpeg, len(opened.encoded), opened.reading, opened.conversion)
    if needed_bytes > limits.max_decode_bytes:
        what = f"{size[0]:,} x {size[1]:,} pixels of {image.format} {image.mode}"
        raise BadImage("too_many_pixels", f"{what} take {needed_bytes:,} bytes, limit {limits.max_decode_bytes:,}")
    return memory.reserved(needed_bytes) if memory else nullcontext()


def _with_end(encoded: bytes, jpeg: JpegStructure, limits: ImageLimits, memory: Memory | None) -> bytes:
    """Return a JPEG with the end-of-image marker added, if only the marker is missing. Otherwise raise BadImage.

    To find out, decode the picture twice, with different bytes before the marker. If the pixels differ, picture data is
    missing too. One decode would not show this, because libjpeg paints missing parts grey without an error.
    """
    body = encoded.rstrip(b"\xff")
    _open(body + _END, limits)  # raises first if the header is bad
    _refuse("truncated", lost_pixels(encoded, jpeg) or missing_scans(body, jpeg))
    digests = []
    for following in (b"", _ANY_BITS):
        opened = _open(body + following + _END, limits)
        with _reserved(opened, jpeg, limits, memory):
            digests.append(_digest(opened.image))
    _refuse("truncated", "JPEG: the last scan is cut" if digests[0] != digests[1] else None)
    return body + _END


def _digest(image: Image.Image) -> bytes:
    """Return a digest of all pixels of a picture."""
    digest = hashlib.sha256()
    for top in range(0, image.height, ROWS):  # by rows, because `tobytes` of all rows would need one or two copies
        digest.update(image.crop((0, top, image.width, min(top + ROWS, image.height))).tobytes())
    return digest.digest()


def _pixels(opened: _Opened, rule: ImageRule) -> DecodedImage:
    """Decode the pixels of an opened file, and return them resized, upright and in sRGB. This is the expensive part."""
    image, size, reading, conversion = opened.image, opened.size, opened.reading, opened.conversion
    image.load()
    orientation = _orientation(image)  # after `load`: a PNG may store it after its pixels, and `load` turns a TIFF
    picture = _averageable(as_meant(image, reading, opened.encoded))
    if conversion and not conversion.mixes:
        picture, conversion = _converted(picture, opened, conversion), None
    rgb = _to_rgb(_as_stored(rule, orientation).resized(picture, size), reading, conversion)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    rgb = rule.with_bars(rgb)
    width, height = size[::-1] if orientation >= 5 else size
    return DecodedImage(np.asarray(rgb), width, height)


def _converted(picture: Image.Image, opened: _Opened, conversion: Conversion) -> Image.Image:
    """Return `picture` converted to sRGB before the resize. If it has 16 bits per channel, use the low bytes too."""
    if picture.mode == "I;16":
        return conversion.whole(*deep_bytes(picture, opened.reading))
    if picture.mode in DEEP_GREY:
        return conversion.whole(Image.fromarray(to_8_bits(np.asarray(picture), opened.reading)))
    return conversion.whole(picture, low_bytes(opened.encoded) if opened.has_low_bytes else None)


def _refuse(reason: str, finding: str | None) -> None:
    """Raise BadImage with this reason and the message `finding`. If `finding` is None or empty, do nothing."""
    if finding:
        raise BadImage(reason, finding)


def _check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    """Raise BadImage if a picture of `size` (width, height) has more pixels than the limits allow."""
    width, height = size
    if width * height > limits.max_pixels:
        raise BadImage("too_many_pixels", f"{width:,} x {height:,} pixels, limit {limits.max_pixels:,}")


def _as_stored(rule: ImageRule, orientation: int) -> ImageRule:
    """Return the rule for the stored picture: EXIF orientations 5 to 8 exchange the rule's height and width."""
    return rule.turned() if orientation >= 5 else rule


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. If it is missing or cannot be read, return 1 as browsers do."""
    if not image.info.keys() & {"exif", "Raw profile type exif"}:
        return 1
    for name in _XMP:  # again, because a PNG may have XMP after its pixels
        image.info.pop(name, None)
    if len(image.info.get("exif") or b"") > _MAX_EXIF_BYTES:
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, EOFError, struct.error):
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _averageable(image: Image.Image) -> Image.Image:
    """Return `image` in a mode whose values may be averaged: no palette and no transparent colour."""
    if image.mode in DEEP_GREY:
        return image
    if image.has_transparency_data:
        # Pillow's resize weights the colours of RGBA by alpha, so the colours of transparent pixels do not show.
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("1", "P", "YCbCr") else image


def _to_rgb(image: Image.Image, reading: Reading, conversion: Conversion | None) -> Image.Image:
    """Convert a picture, in a mode that `_averageable` returns, to RGB in sRGB.

    If `conversion` is None, the colours are sRGB already. Transparent parts become white. `reading` says how to
    scale grey of more than 8 bits. Pillow's formulas convert LAB, and CMYK without a profile.
    """
    if image.mode in DEEP_GREY:
        image = Image.fromarray(to_8_bits(np.asarray(image), reading))
    if conversion:
        image = conversion.small(image)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _explain(encoded: bytes, error: Exception) -> BadImage:
    """Return a BadImage for `error`, which Pillow raised on the file `encoded`. Choose the reason that fits best."""
    if isinstance(error, MemoryError):
        return BadImage("out_of_memory", f"no memory for the pixels in {len(encoded):,} bytes of image")
    reason, name = looks_like(encoded)
    if reason != "corrupt":
        return BadImage(reason, f"looks like {name}")
    if unknown := not_decoded(encoded, name, error):
        return BadImage("unsupported_format", f"{name}: {unknown}")
    if isinstance(error, EOFError) or "truncated" in str(error).lower() or ends_early(encoded, name):
        reason = "truncated"
    if isinstance(error, UnidentifiedImageError):
        return BadImage(reason, f"{name}: the header cannot be read")  # Pillow's message has only a memory address
    return BadImage(reason, f"{name}: {type(error).__name__}: {error}")
