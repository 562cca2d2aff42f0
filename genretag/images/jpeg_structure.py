"""The skeleton of a JPEG, without its pixels: what stands before the first scan, and how many scans follow.

Read by Pillow's rules, so that both see the same file: padding and junk between segments are skipped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, less DHT, JPG and DAC
MAX_SEGMENTS = 10_000  # before the scan; a colour profile of 16 MB takes 250
_SEQUENTIAL_HUFFMAN = (0xC0, 0xC1)
_PROGRESSIVE_HUFFMAN = 0xC2
_PROGRESSIVE = (0xC2, 0xCA)
_DECODED = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # by libjpeg: neither lossless nor hierarchical
_SCAN, _EXIF, _END = 0xDA, 0xE1, 0xD9
_NO_LENGTH = frozenset([0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)])  # mere markers, as Pillow sees them
_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # what ends a scan: no stuffed FF, no restart, no padding


@dataclass(frozen=True)
class JpegStructure:
    """What the segments before the first scan say."""

    blocks: int  # of 8 x 8 coefficients, in all components, without the padding to whole units
    least_bits: int  # that a block takes in the scans; 0 if there is no telling
    is_buffered: bool  # no scan has the whole picture, so libjpeg holds all coefficients, at 2 bytes each
    segments: int  # up to the first scan; of a header without end, only the first MAX_SEGMENTS + 1
    exif_segments: int
    components: int  # of a pixel, such as 3 of YCbCr; 0 if there is no telling
    frame_kind: int  # the second byte of its marker; 0 if there is no telling
    scan_at: int  # where the first scan's segment starts


def jpeg_structure(encoded: bytes) -> JpegStructure | None:
    """The structure of a JPEG, or None where no scan follows a frame: then there is nothing to decode."""
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
    # A Huffman code has a bit at least: one code is for a block's mean, in a sequential scan another for its end.
    least_bits = 2 if is_sequential else int(frame_kind == _PROGRESSIVE_HUFFMAN)
    is_buffered = not is_sequential or encoded[at + 4] < components
    return JpegStructure(blocks, least_bits, is_buffered, segments, exif_segments, components, frame_kind, at)


def undecodable(jpeg: JpegStructure) -> str | None:
    """In words, why libjpeg does not decode such a JPEG; None if it does."""
    kind = jpeg.frame_kind
    return f"JPEG: frame of kind {kind - 0xC0} (lossless or hierarchical)" if kind and kind not in _DECODED else None


def _blocks(frame: bytes) -> tuple[int, int]:
    """The numbers of blocks and of components that a frame header promises."""
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    samplings = [(byte >> 4 or 1, byte & 15 or 1) for byte in frame[7::3]]
    most_h, most_v = (max(factors) for factors in zip(*samplings, strict=True))
    blocks = sum(-(-width * h // (8 * most_h)) * -(-height * v // (8 * most_v)) for h, v in samplings)
    return blocks, len(samplings)


def count_scans(encoded: bytes, jpeg: JpegStructure) -> int:
    """The number of scans, without those of thumbnails and of what stands behind the picture."""
    return sum(1 for _ in _scans(encoded, jpeg))


def _scans(encoded: bytes, jpeg: JpegStructure) -> Iterator[bytes]:
    """Yield the header of each scan, behind its length, up to the end of the picture."""
    at = jpeg.scan_at
    while (found := _IN_SCAN.search(encoded, at)) and encoded[found.end() - 1] != _END:
        kind, at = encoded[found.end() - 1], found.end()
        if kind not in _NO_LENGTH:
            end = at + max(2, int.from_bytes(encoded[at : at + 2]))
            if kind == _SCAN:
                yield encoded[at + 2 : end]
            at = end


def lacks_end(encoded: bytes, jpeg: JpegStructure) -> bool:
    """Return whether no end-of-image marker follows the first scan."""
    return not encoded.endswith(b"\xff\xd9") and encoded.find(b"\xff\xd9", jpeg.scan_at) < 0


def missing_scans(encoded: bytes, jpeg: JpegStructure) -> str | None:
    """In words, which coefficients no scan has to their last bit; None if the scans that are there can make a picture.

    The last scan may still be cut: its header does not say how long it is.
    """
    whole: set[tuple[int, int]] = set()  # (component, place in the block)
    for header in _scans(encoded, jpeg):
        count = header[0] if header else 0
        if len(header) < 2 * count + 4:
            break  # cut in its header
        first, last, bits = header[2 * count + 1 :][:3] if jpeg.frame_kind in _PROGRESSIVE else (0, 63, 0)
        if bits & 15 == 0:
            whole.update((name, place) for name in header[1 : 2 * count : 2] for place in range(first, last + 1))
    missing = 64 * jpeg.components - len(whole)
    return f"{missing} of {64 * jpeg.components} coefficients have no last scan" if missing > 0 else None


def lost_pixels(encoded: bytes, jpeg: JpegStructure) -> str | None:
    """In words, why pixels must be missing though libjpeg would paint them grey without a word; else None.

    What is damaged further inside cannot be told from its bytes: such a picture decodes with grey in it.
    """
    scan_bytes = len(encoded) - jpeg.scan_at
    if 8 * scan_bytes < jpeg.least_bits * jpeg.blocks:
        return f"{scan_bytes:,} bytes cannot hold {jpeg.blocks:,} blocks"
    if encoded.endswith(bytes(64)) and encoded.rfind(b"\xff\xd9") < jpeg.scan_at:
        return "zeros where the end should be"  # a file system that lost what was to be written there
    return None
