"""The colour code points (nclx) of an AVIF's primary item, which Pillow does not pass on."""

import struct
from collections.abc import Iterator

_Box = tuple[bytes, int, int]  # (type, start and end of the content)
_MAX_BOXES = 10_000  # in a file; a photograph has about 30


def avif_code_points(encoded: bytes) -> tuple[int, int, int, int] | None:
    """Return the (primaries, transfer, matrix, full range) of the picture that is shown, or None if not stored.

    Read from the primary item's `colr` box, in a sequence without items from the track's.
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
    if content[:4] != b"nclx" or len(content) < 11:
        return None
    primaries, transfer, matrix, full_range = struct.unpack(">HHHB", content[4:11])
    return primaries, transfer, matrix, full_range >> 7


def _boxes(encoded: bytes, at: int, end: int) -> Iterator[_Box]:
    """Yield the boxes between two places of the file."""
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
    """Return the property boxes of the primary item. `meta`, `pitm` and `ipma` start with a version and flags."""
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
    """Return the numbers, from 1, of the properties that an `ipma` box gives to `item`."""
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
