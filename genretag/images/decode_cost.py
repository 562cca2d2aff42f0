"""Estimate the cost of decoding a file from its header, and limit the memory of the decoding threads of a process.

`decode_bytes` estimates the memory. `endless_work` and `slow_decoder` find files that need more work than any real
picture. `DecodeMemory` is a weighted semaphore for the memory.
"""

import io
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from genretag.images.colour import ROWS, Conversion
from genretag.images.file_structure import MAX_SEGMENTS, JpegStructure, count_scans
from genretag.images.samples import Reading, has_low_bytes


class DecodeMemory:
    """A memory budget of `limit_bytes` for threads that decode. A thread waits until the memory that it needs is free.

    Threads get memory in the order of their requests, so that small pictures cannot starve a large one. The price is
    that small pictures wait behind a large picture that waits for memory. Raises ValueError if the limit is below 1.
    """

    def __init__(self, limit_bytes: int = 2 * 2**30) -> None:
        if limit_bytes < 1:
            raise ValueError(f"the memory for decoding must be positive, not {limit_bytes} bytes")
        self._limit_bytes = limit_bytes
        self._free_bytes = limit_bytes
        self._waiting: deque[object] = deque()  # one ticket for each waiting thread, oldest first
        self._changed = Condition()

    @contextmanager
    def reserved(self, size_bytes: int) -> Iterator[None]:
        """Wait until `size_bytes` of the budget are free, and hold them during the `with` block.

        A size above the budget's limit counts as the limit, so no other block runs meanwhile. A negative size counts
        as 0.
        """
        size_bytes = min(max(size_bytes, 0), self._limit_bytes)
        self._acquire(size_bytes)
        try:
            yield
        finally:
            with self._changed:
                self._free_bytes += size_bytes
                self._changed.notify_all()

    def _acquire(self, size_bytes: int) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and size_bytes <= self._free_bytes)
                self._free_bytes -= size_bytes
            finally:  # also after an exception, such as Ctrl-C while waiting
                self._waiting.remove(ticket)
                self._changed.notify_all()  # the next thread may fit into the free memory too


MAX_JPEG_SCANS = 100  # a progressive JPEG has about 10; libtiff has the same limit
MAX_EXIF_SEGMENTS = 100  # a real JPEG has one; Pillow needs quadratic time to join them
MAX_TIFF_VALUES = 2**18  # in one tag: more than a picture has strips, for each of which Pillow makes an object
MAX_RLE_PIXELS = 10_000_000  # Pillow decodes run-length encoded BMPs in Python, at up to .15 s per million pixels

# Bytes per pixel, in addition to Pillow's pictures, in libraries that decode the whole picture into their own buffers.
# From measured resident memory, rounded up for cases that were not measured (AVIF of 12 bits).
_LIBRARY_BYTES = {"WEBP": 14, "AVIF": 11}

_RLE_BYTES = 3  # per pixel in Pillow's run-length decoder: a growing bytearray and its copy
_ANY_BYTES = 6_000_000  # for any picture: a library's tables, the allocator's slack, remains of earlier pictures

_CONVERSION_BYTES = 10_000_000  # colour library, tables and profile, loaded for the first picture with a profile
_ROW_BYTES = 80  # per pixel of the rows that are converted at a time, in floating point

_PLAIN = Reading()
_KNOWN_NUMBERS = (3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 16)  # TIFF types that Pillow turns into tuples of numbers


def endless_work(encoded: bytes, jpeg: JpegStructure | None) -> str | None:
    """Return, in words, why decoding a file would need excessive work, such as 500 JPEG scans; None if it would not.

    `encoded` is the content of the file. `jpeg` is None if the file is no JPEG or has nothing to decode.
    """
    if jpeg and jpeg.segments > MAX_SEGMENTS:
        return f"more than {MAX_SEGMENTS:,} JPEG segments before the first scan"
    if jpeg and jpeg.exif_segments > MAX_EXIF_SEGMENTS:
        return f"{jpeg.exif_segments:,} EXIF segments, limit {MAX_EXIF_SEGMENTS}"
    # libjpeg reads only one scan of a JPEG that is not buffered. For other JPEGs, the fast count of the marker's bytes
    # is never too low. Only if that count is high, `count_scans` counts the scans exactly.
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
    """Return, in words, why decoding a file that Pillow has opened would take too long; None if it would not."""
    pixels = image.width * image.height
    if _has_run_lengths(image) and pixels > MAX_RLE_PIXELS:
        return f"{pixels:,} pixels in a run-length encoded BMP, limit {MAX_RLE_PIXELS:,}"
    return None


def _has_run_lengths(image: Image.Image) -> bool:
    return any(tile.codec_name == "bmp_rle" for tile in getattr(image, "tile", ()))


def gif_frame_size(encoded: bytes) -> tuple[int, int]:
    """Return the (width, height) from a GIF's top left corner to the bottom right corner of its first frame.

    If the GIF has no frame, return (0, 0). The frame may reach beyond the screen that the header declares. Pillow fills
    the frame's area while it opens the file, before a caller can check the size. This function parses the file exactly
    as Pillow does, so that the check sees the same frame.
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
            if label == b"\xfe":  # a comment; Pillow goes on reading other extensions even after an empty first block
                while content:
                    content = _gif_block(file)
                continue
            if label == b"\xff" and content.startswith(b"NETSCAPE2.0"):
                _gif_block(file)
            while _gif_block(file):
                pass
    return 0, 0


def _gif_block(file: io.BytesIO) -> bytes:
    """Read the next data block of a GIF. An empty result marks the end of the blocks or of the file."""
    length = file.read(1)
    return file.read(length[0]) if length else b""


def decode_bytes(
    image: Image.Image,
    jpeg: JpegStructure | None,
    encoded_bytes: int,
    reading: Reading = _PLAIN,
    conversion: Conversion | None = None,
) -> int:
    """Estimate the peak memory, in bytes, of decoding and resizing an opened file. In doubt, the estimate is too high.

    For a JPEG, call Pillow's `draft` first, so that `image` has the size at which it will be decoded. `jpeg` is None
    for other formats. `encoded_bytes` is the size of the file, and `reading` is what `set_right` returned for it.
    `conversion` is the conversion to sRGB, or None if the picture is sRGB. The memory of the resized picture is not
    part of the estimate.
    """
    width, height = reading.canvas or image.size
    is_whole = conversion is not None and not conversion.mixes
    images = sum(_stored_bytes(width, height, mode) for mode in _modes(image, reading, is_whole))
    if conversion:
        images += _CONVERSION_BYTES + (_ROW_BYTES * ROWS * width if is_whole else 0)
    coefficients = 16 * (width + height)  # of the resize along both axes
    rows = 2 * 8 * width  # of a decoder that needs the current and the previous line, 4 channels of 16 bits
    metadata = 2 * encoded_bytes  # metadata is at most the file; Pillow may have it in memory twice
    return images + coefficients + rows + metadata + _library_bytes(image, jpeg) + _ANY_BYTES


def _modes(image: Image.Image, reading: Reading, is_converted: bool) -> Iterator[str]:
    """Yield the Pillow mode of each full-size copy of the picture that is in memory at the same time during decoding.

    `reading` is what `set_right` returned. `is_converted` says whether the whole picture is converted to sRGB before
    the resize.
    """
    yield image.mode
    if reading.key:
        yield from ("RGB", "RGB", "RGB", "L", "L")  # the low bytes, both halves as arrays, and alpha
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
    """Return the size of a picture in Pillow, in bytes: lines padded to 4 bytes, and an 8-byte pointer to each line."""
    pixel = 1 if mode in ("1", "L", "P") else 2 if mode == "I;16" else 4
    return ((width * pixel + 3) // 4 * 4 + 8) * height


def _library_bytes(image: Image.Image, jpeg: JpegStructure | None) -> int:
    """Return the number of bytes that the format's decoding library allocates in addition to Pillow's picture."""
    if jpeg:
        return 2 * 64 * jpeg.blocks if jpeg.is_buffered else 0
    if image.format in _LIBRARY_BYTES:
        return _LIBRARY_BYTES[image.format] * image.width * image.height
    if _has_run_lengths(image):
        return _RLE_BYTES * image.width * image.height
    return _tiff_bytes(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else 0


def _tiff_bytes(image: TiffImagePlugin.TiffImageFile) -> int:
    """Return the number of bytes that decoding a TIFF allocates in addition to Pillow's picture.

    libtiff needs a buffer for one strip or tile. If the orientation turns the picture, Pillow makes a copy.
    """
    tags = image.tag_v2
    turned = _stored_bytes(*image.size, image.mode) if tags.get(ExifTags.Base.Orientation, 1) != 1 else 0
    if not image.use_load_libtiff:
        return turned
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    rows = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, height), height)
    strip = tags.get(TiffImagePlugin.TILEWIDTH, width) * tags.get(TiffImagePlugin.TILELENGTH, rows)
    is_ycbcr = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 6  # libtiff decodes these to RGBA
    bits = 32 if is_ycbcr else sum(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    return turned + strip * max(bits, 8) // 8


def _largest_tiff_tag(encoded: bytes) -> int:
    """Return the largest number of values in one tag of a TIFF's first directory.

    Tags with text or unknown types do not count. The offsets of strips and tiles always count. If there is no
    directory, return 0. A tag that declares more values than the file has bytes is ignored, as by Pillow.
    """
    order: Literal["<", ">"] = "<" if encoded.startswith(b"II") else ">"
    is_big = encoded[2:3] == b"+"  # BigTIFF, by Pillow's test
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
