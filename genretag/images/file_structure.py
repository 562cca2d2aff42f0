"""Read the structure of AVIF and JPEG files, but not their pixels.

From an AVIF, read the colour code points (nclx) of the primary picture, which Pillow does not return.

From a JPEG, read the segments before the first scan, and count the scans. Padding and junk between segments are skipped
as in Pillow, so that a check of the structure applies to the segments that Pillow decodes.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_Box = tuple[bytes, int, int]  # (type, start and end of the content)
_MAX_BOXES = 10_000  # per file; a photograph has about 30


def avif_code_points(encoded: bytes) -> tuple[int, int, int, int] | None:
    """Return the (primaries, transfer, matrix, full range) of an AVIF's primary picture, or None if it has none.

    The first three are code points of H.273. Full range is 1, or 0 if black is stored as 16 of 255. The values are read
    from the `colr` box of the primary item. In an image sequence without items, the `colr` box of the track is read.
    """
    try:
        found = next((box for box in _boxes(encoded, 0, len(encoded)) if box[0] == b"meta"), None)
        properties = _properties(encoded, found) if found else []
        for kind, start, end in properties:
            if kind == b"colr" and (points := _nclx(encoded[start:end])):
                return points
        at = -1 if properties else encoded.find(b"colrnclx")
        return _nclx(encoded[at + 4 : at + 15]) if at >= 0 else None
    except (struct.error, IndexError):
        return None


def _nclx(content: bytes) -> tuple[int, int, int, int] | None:
    """Return the (primaries, transfer, matrix, full range) of a `colr` box of type nclx, or None for other types."""
    if content[:4] != b"nclx" or len(content) < 11:
        return None
    primaries, transfer, matrix, full_range = struct.unpack(">HHHB", content[4:11])
    return primaries, transfer, matrix, full_range >> 7


def _boxes(encoded: bytes, at: int, end: int) -> Iterator[_Box]:
    """Yield the boxes of an AVIF between the byte offsets `at` and `end`, up to the first box that is malformed."""
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", encoded, at)
        start = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", encoded, start)
            start += 8
        stop = end if length == 0 else at + length
        if not start <= stop <= end:
            return
        yield kind, start, stop
        at = stop


def _properties(encoded: bytes, meta: _Box) -> list[_Box]:
    """Return the property boxes of the primary item in the box `meta`. If there is no primary item, return [].

    The contents of the boxes `meta`, `pitm` and `ipma` start with 4 bytes for version and flags.
    """
    inside = {kind: (kind, start, end) for kind, start, end in _boxes(encoded, meta[1] + 4, meta[2])}
    _, start, _ = inside.get(b"pitm", (b"", -1, 0))
    if start < 0 or b"iprp" not in inside:
        return []
    (primary,) = struct.unpack_from(">I" if encoded[start] else ">H", encoded, start + 4)
    stored: list[_Box] = []
    numbers: list[int] = []
    for kind, start, end in _boxes(encoded, *inside[b"iprp"][1:]):
        if kind == b"ipco":
            stored = list(_boxes(encoded, start, end))
        elif kind == b"ipma":
            numbers += _associated(encoded, start, primary)
    return [stored[number - 1] for number in numbers if 0 < number <= len(stored)]


def _associated(encoded: bytes, at: int, item: int) -> list[int]:
    """Return the numbers (from 1) of the properties that an `ipma` box assigns to the item with the id `item`.

    `at` is the offset of the box's content. If the box does not list the item, return [].
    """
    version, is_wide = encoded[at], encoded[at + 3] & 1
    (entries,) = struct.unpack_from(">I", encoded, at + 4)
    at += 8
    for _ in range(min(entries, _MAX_BOXES)):
        name, count = struct.unpack_from(">IB" if version else ">HB", encoded, at)
        at += 5 if version else 3
        if name == item:
            packed = struct.unpack_from(f">{count}{'H' if is_wide else 'B'}", encoded, at)
            return [number & (0x7FFF if is_wide else 0x7F) for number in packed]
        at += count * (2 if is_wide else 1)
    return []


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15; DHT, JPG and DAC lie between
MAX_SEGMENTS = 10_000  # before the first scan; a colour profile of 16 MB takes 250
_SEQUENTIAL_HUFFMAN = (0xC0, 0xC1)
_PROGRESSIVE_HUFFMAN = 0xC2
_PROGRESSIVE = (0xC2, 0xCA)
_DECODED = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # frames that libjpeg decodes: neither lossless nor hierarchical
_SCAN, _EXIF, _END = 0xDA, 0xE1, 0xD9
_NO_LENGTH = frozenset([0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)])  # markers without a length, as Pillow sees them
# The marker that ends the data of a scan. A stuffed FF (FF 00), a restart marker and padding (FF FF) do not end it.
_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


@dataclass(frozen=True)
class JpegStructure:
    """Facts in a JPEG's segments before its first scan: numbers of blocks, components and segments, kind of frame."""

    blocks: int  # number of 8 x 8 blocks in all components, without padding to MCUs; 0 if unknown
    least_bits: int  # the least number of bits that a block takes in the scans; 0 if unknown
    is_buffered: bool  # the first scan lacks a part of the picture, so libjpeg stores all coefficients, 2 bytes each
    segments: int  # number of segments before the first scan; counting stops at MAX_SEGMENTS + 1
    exif_segments: int
    components: int  # of a pixel, such as 3 for YCbCr; 0 if unknown
    frame_kind: int  # the second byte of the frame's marker; 0 if unknown
    scan_at: int  # byte offset of the first scan's segment


def jpeg_structure(encoded: bytes) -> JpegStructure | None:
    """Return the structure of a JPEG, or None if there is nothing to decode.

    There is nothing to decode if the file has no scan, or no frame header before its first scan.
    """
    frame, frame_kind, segments, exif_segments = b"", 0, 0, 0
    at = 2
    while 0 <= (at := encoded.find(b"\xff", at)) < len(encoded) - 4:
        kind = encoded[at + 1]
        if kind == 0xFF:
            at += 1
        elif kind == 0 or kind in _NO_LENGTH:
            at += 2
        elif kind == _SCAN or segments > MAX_SEGMENTS:
            break
        else:
            end = at + 2 + max(2, int.from_bytes(encoded[at + 2 : at + 4]))
            if kind in _FRAMES:
                frame, frame_kind = encoded[at + 4 : end], kind
            segments += 1
            exif_segments += kind == _EXIF and encoded.startswith(b"Exif\0\0", at + 4)
            at = end
    else:
        return None
    if len(frame) < 9 and segments <= MAX_SEGMENTS:
        return None
    blocks, components = _blocks(frame) if len(frame) >= 9 else (0, 0)
    is_sequential = frame_kind in _SEQUENTIAL_HUFFMAN
    # A block needs a Huffman code for its mean, and in a sequential scan a second code for the rest of the block. A
    # Huffman code has at least one bit.
    least_bits = 2 if is_sequential else int(frame_kind == _PROGRESSIVE_HUFFMAN)
    is_buffered = not is_sequential or encoded[at + 4] < components
    return JpegStructure(blocks, least_bits, is_buffered, segments, exif_segments, components, frame_kind, at)


def undecodable(jpeg: JpegStructure) -> str | None:
    """Return, in words, why libjpeg cannot decode a JPEG with this structure, or None if it can."""
    kind = jpeg.frame_kind
    return f"JPEG: frame of kind {kind - 0xC0} (lossless or hierarchical)" if kind and kind not in _DECODED else None


def _blocks(frame: bytes) -> tuple[int, int]:
    """Return the number of blocks (8 x 8 coefficients) and the number of components that a frame header declares."""
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    samplings = [(byte >> 4 or 1, byte & 15 or 1) for byte in frame[7::3]]
    most_h, most_v = (max(factors) for factors in zip(*samplings, strict=True))
    blocks = sum(-(-width * h // (8 * most_h)) * -(-height * v // (8 * most_v)) for h, v in samplings)
    return blocks, len(samplings)


def count_scans(encoded: bytes, jpeg: JpegStructure) -> int:
    """Return the number of scans of a JPEG. Scans of thumbnails and scans after the end of the picture do not count."""
    return sum(1 for _ in _scans(encoded, jpeg))


def _scans(encoded: bytes, jpeg: JpegStructure) -> Iterator[bytes]:
    """Yield the header of each scan of a JPEG, without the header's length field, up to the end of the picture."""
    at = jpeg.scan_at
    while (found := _IN_SCAN.search(encoded, at)) and encoded[found.end() - 1] != _END:
        kind, at = encoded[found.end() - 1], found.end()
        if kind not in _NO_LENGTH:
            end = at + max(2, int.from_bytes(encoded[at : at + 2]))
            if kind == _SCAN:
                yield encoded[at + 2 : end]
            at = end


def lacks_end(encoded: bytes, jpeg: JpegStructure) -> bool:
    """Return whether a JPEG has no end-of-image marker after the start of its first scan."""
    return not encoded.endswith(b"\xff\xd9") and encoded.find(b"\xff\xd9", jpeg.scan_at) < 0


def missing_scans(encoded: bytes, jpeg: JpegStructure) -> str | None:
    """Return, in words, how many coefficients of a JPEG lack the scan with their last bit, or None if none lacks it.

    A progressive JPEG spreads the bits of a coefficient over several scans. The result does not show whether the last
    scan is cut, because the header of a scan does not say how long the scan is.
    """
    whole: set[tuple[int, int]] = set()  # (component, index in the block) of coefficients with all bits
    for header in _scans(encoded, jpeg):
        count = header[0] if header else 0
        if len(header) < 2 * count + 4:
            break  # the end of the file cuts this header
        first, last, bits = header[2 * count + 1 :][:3] if jpeg.frame_kind in _PROGRESSIVE else (0, 63, 0)
        if bits & 15 == 0:
            whole.update((name, place) for name in header[1 : 2 * count : 2] for place in range(first, last + 1))
    missing = 64 * jpeg.components - len(whole)
    return f"{missing} of {64 * jpeg.components} coefficients have no last scan" if missing > 0 else None


def lost_pixels(encoded: bytes, jpeg: JpegStructure) -> str | None:
    """Return, in words, why a JPEG must lack pixels, or None if the bytes do not prove that.

    libjpeg would paint the missing pixels grey without an error. Only two kinds of damage are detected: too few bytes
    for the number of blocks, and zeros in place of the end. A picture with other damage decodes with grey parts.
    """
    scan_bytes = len(encoded) - jpeg.scan_at
    if 8 * scan_bytes < jpeg.least_bits * jpeg.blocks:
        return f"{scan_bytes:,} bytes cannot hold {jpeg.blocks:,} blocks"
    if encoded.endswith(bytes(64)) and encoded.rfind(b"\xff\xd9") < jpeg.scan_at:
        return "zeros where the end should be"  # a file system lost the data that was written there
    return None
