"""What decoding a file will cost, told from its header: memory, and work that no real picture asks for."""

import io
import struct
from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from genretag.images.colour import ROWS, Conversion
from genretag.images.jpeg_structure import MAX_SEGMENTS, JpegStructure, count_scans
from genretag.images.readings import Reading, has_low_bytes

MAX_JPEG_SCANS = 100  # a progressive JPEG has about 10; libtiff draws the same line
MAX_EXIF_SEGMENTS = 100  # a JPEG has one; Pillow joins them in quadratic time
MAX_TIFF_VALUES = 2**18  # in a tag: more than a picture has rows; Pillow makes an object of each strip
MAX_RLE_PIXELS = 10_000_000  # Pillow decodes a run-length encoded BMP in Python, up to .15 s per million pixels

# Bytes per pixel, on top of Pillow's own pictures, in the libraries that decode the whole picture into buffers of
# theirs: from measured resident memory, rounded up for what the measured files did not have (AVIF of 12 bits).
_LIBRARY_BYTES = {"WEBP": 14, "AVIF": 11}

_RLE_BYTES = 3  # and in Pillow's decoder of run lengths: a bytearray that grows, and a copy of it
_ANY_BYTES = 6_000_000  # tables of a library, slack of the allocator, what is left of earlier pictures

_CONVERSION_BYTES = 10_000_000  # the colour library, its tables and a profile, when the first picture has one
_ROW_BYTES = 80  # per pixel of the rows that are converted at a time, in floating point

_PLAIN = Reading()
_KNOWN_NUMBERS = (3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 16)  # TIFF's types of which Pillow makes tuples of numbers


def endless_work(encoded: bytes, jpeg: JpegStructure | None) -> str | None:
    """In words, what makes a file ask for work out of all proportion before a pixel is seen; else None."""
    if jpeg and jpeg.segments > MAX_SEGMENTS:
        return f"more than {MAX_SEGMENTS:,} JPEG segments before the first scan"
    if jpeg and jpeg.exif_segments > MAX_EXIF_SEGMENTS:
        return f"{jpeg.exif_segments:,} EXIF segments, limit {MAX_EXIF_SEGMENTS}"
    # Of a JPEG that is not buffered libjpeg reads one scan only. Of the others, counting the marker's bytes is
    # fast and never too low; only a suspect is looked at segment by segment.
    if (
        jpeg
        and jpeg.is_buffered
        and encoded.count(b"\xff\xda", jpeg.scan_at) > MAX_JPEG_SCANS
        and (scans := count_scans(encoded, jpeg)) > MAX_JPEG_SCANS
    ):
        return f"{scans:,} JPEG scans, limit {MAX_JPEG_SCANS}"
    if encoded.startswith(tuple(TiffImagePlugin.PREFIXES)) and (values := _largest_tiff_tag(encoded)) > MAX_TIFF_VALUES:
        return f"a TIFF tag of {values:,} values, limit {MAX_TIFF_VALUES:,}"
    return None


def slow_decoder(image: Image.Image) -> str | None:
    """In words, why an opened file would take minutes for no reason; else None."""
    pixels = image.width * image.height
    if _has_run_lengths(image) and pixels > MAX_RLE_PIXELS:
        return f"{pixels:,} pixels in a run-length encoded BMP, limit {MAX_RLE_PIXELS:,}"
    return None


def _has_run_lengths(image: Image.Image) -> bool:
    return any(tile.codec_name == "bmp_rle" for tile in getattr(image, "tile", ()))


def gif_frame_size(encoded: bytes) -> tuple[int, int]:
    """Width and height of a GIF's first frame, which may exceed the screen; (0, 0) if there is none.

    Pillow fills this area as it opens the file, before anybody can ask how large it is. Read as Pillow reads it,
    oddities included, so that no frame hides where only one of the two looks.
    """
    file = io.BytesIO(encoded)
    screen = file.read(13).ljust(13, b"\0")
    if screen[10] & 0x80:
        file.seek(3 << (screen[10] & 7) + 1, io.SEEK_CUR)  # the palette
    while (kind := file.read(1)) not in (b"", b";"):
        if kind == b"," and len(place := file.read(8)) == 8:
            left, top, width, height = struct.unpack("<4H", place)
            return left + width, top + height
        if kind == b"!":
            label, content = file.read(1), _gif_block(file)
            if label == b"\xfe":  # a comment; of any other extension Pillow reads on behind an empty first block
                while content:
                    content = _gif_block(file)
                continue
            if label == b"\xff" and content.startswith(b"NETSCAPE2.0"):
                _gif_block(file)
            while _gif_block(file):
                pass
    return 0, 0


def _gif_block(file: io.BytesIO) -> bytes:
    length = file.read(1)
    return file.read(length[0]) if length else b""


def decode_bytes(
    image: Image.Image,
    jpeg: JpegStructure | None,
    encoded_bytes: int,
    reading: Reading = _PLAIN,
    conversion: Conversion | None = None,
) -> int:
    """The peak memory that decoding and resizing an opened file takes, estimated on the safe side.

    `image` is as it will be decoded: a JPEG is reduced already. What the target's size costs is left out.
    `conversion`: how it becomes sRGB, None if it is.
    """
    width, height = reading.canvas or image.size
    is_whole = conversion is not None and not conversion.mixes
    images = sum(_stored_bytes(width, height, mode) for mode in _modes(image, reading, is_whole))
    if conversion:
        images += _CONVERSION_BYTES + (_ROW_BYTES * ROWS * width if is_whole else 0)
    coefficients = 16 * (width + height)  # of the resize, along both axes
    rows = 2 * 8 * width  # of a decoder that needs this line and the last, 4 channels of 16 bits
    metadata = 2 * encoded_bytes  # as it is read and as it is kept, at most
    return images + coefficients + rows + metadata + _library_bytes(image, jpeg) + _ANY_BYTES


def _modes(image: Image.Image, reading: Reading, is_converted: bool) -> Iterator[str]:
    """The modes that the whole picture is held in at a time, see genretag.images."""
    yield image.mode
    if reading.key:
        yield from ("RGB", "RGB", "RGB", "L", "L")  # low bytes, both as arrays, alpha
    if image.mode == "La":
        yield "LA"
    if reading.frame:
        yield from ("RGBA", "RGBA", "RGBA")  # the canvas, the frame, and the frame with alpha
    is_transparent = image.has_transparency_data or reading.key or reading.frame
    if is_transparent:
        if image.mode != "RGBA":
            yield "RGBA"
        yield "RGBa"  # Pillow's resize multiplies by alpha first
    elif image.mode in ("1", "P", "YCbCr"):
        yield "RGB"
    if is_converted:
        yield "RGB"
        if image.mode == "I;16":
            yield from ("I;16", "I;16", "L", "L")  # as arrays, and as high and low bytes
        elif has_low_bytes(image):
            yield "RGB"


def _stored_bytes(width: int, height: int, mode: str) -> int:
    """What Pillow needs for a picture: lines of whole words, and a pointer to each."""
    pixel = 1 if mode in ("1", "L", "P") else 2 if mode == "I;16" else 4
    return ((width * pixel + 3) // 4 * 4 + 8) * height


def _library_bytes(image: Image.Image, jpeg: JpegStructure | None) -> int:
    """What the format's library holds beside the picture that Pillow has from it."""
    if jpeg:
        return 2 * 64 * jpeg.blocks if jpeg.is_buffered else 0
    if image.format in _LIBRARY_BYTES:
        return _LIBRARY_BYTES[image.format] * image.width * image.height
    if _has_run_lengths(image):
        return _RLE_BYTES * image.width * image.height
    return _tiff_bytes(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else 0


def _tiff_bytes(image: TiffImagePlugin.TiffImageFile) -> int:
    """One strip or tile, which libtiff decodes whole, and the picture once more if Pillow turns it upright."""
    tags = image.tag_v2
    turned = _stored_bytes(*image.size, image.mode) if tags.get(ExifTags.Base.Orientation, 1) != 1 else 0
    if not image.use_load_libtiff:
        return turned
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    rows = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, height), height)
    strip = tags.get(TiffImagePlugin.TILEWIDTH, width) * tags.get(TiffImagePlugin.TILELENGTH, rows)
    is_ycbcr = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 6  # libtiff makes RGBA of these
    bits = 32 if is_ycbcr else sum(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    return turned + strip * max(bits, 8) // 8


def _largest_tiff_tag(encoded: bytes) -> int:
    """The most values that a tag of the first directory has, strips and tiles included; 0 without a directory.

    A tag that promises more values than the file has bytes is none: Pillow skips it.
    """
    order: Literal["<", ">"] = "<" if encoded.startswith(b"II") else ">"
    is_big = encoded[2:3] == b"+"  # BigTIFF, as Pillow tells it
    offset, count, value = ("Q", "Q", "u8") if is_big else ("I", "H", "u4")
    entry = np.dtype([("tag", "u2"), ("type", "u2"), ("count", value), ("value", value)]).newbyteorder(order)
    try:
        (at,) = struct.unpack_from(order + offset, encoded, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + count, encoded, at)
    except (struct.error, OverflowError):
        return 0
    at += struct.calcsize(count)
    tags = np.frombuffer(encoded, entry, min(entries, (len(encoded) - at) // entry.itemsize), at)
    are_numbers = np.isin(tags["type"], _KNOWN_NUMBERS)
    are_offsets = np.isin(tags["tag"], (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.TILEOFFSETS))
    counts = tags["count"][are_numbers | are_offsets]
    return int(counts[counts <= len(encoded)].max(initial=0))
