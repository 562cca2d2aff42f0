"""Chunks of a PNG that Pillow refuses, leaves out or shows last: swollen texts, cICP, an APNG's first frame."""

import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_COLOURS = (b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"eXIf")  # they hold for all frames

Chunk = tuple[bytes, bytes]  # (type, content)


def png_chunks(encoded: bytes) -> Iterator[Chunk]:
    """Yield the chunks of a PNG in their order, up to the first one that is cut. Checksums are not checked."""
    at = len(_SIGNATURE)
    while at + 12 <= len(encoded):
        end = at + 12 + int.from_bytes(encoded[at : at + 4])
        if end > len(encoded):
            return
        yield encoded[at + 4 : at + 8], encoded[at + 8 : end - 4]
        at = end


def has_swollen_texts(error: ValueError) -> bool:
    """Return whether Pillow refused a PNG for the size of its texts. Pillow has no type for that error."""
    return "MAX_TEXT_" in str(error)


def without_texts(encoded: bytes) -> bytes:
    """Return the same PNG without texts and colour profile (and without an orientation, if that stands in a text).

    Texts that unpack to more than Pillow takes are a bomb, or the profile of a good scanner. Texts say nothing about
    the pixels. Without its profile the picture counts as sRGB, as in a browser that cannot read a profile.
    """
    kept, at = [encoded[:8]], 8
    while at + 8 <= len(encoded):
        end = at + 12 + int.from_bytes(encoded[at : at + 4])
        if encoded[at + 4 : at + 8] not in _TEXTS:
            kept.append(encoded[at:end])
        at = end
    return b"".join(kept)


def png_code_points(encoded: bytes) -> tuple[int, int, int, int] | None:
    """Return the (primaries, transfer, matrix, full range) of the cICP chunk, or None if there is none before IDAT."""
    for kind, content in png_chunks(encoded):
        if kind == b"IDAT":
            return None
        if kind == b"cICP" and len(content) == 4:
            return content[0], content[1], content[2], content[3]
    return None


def hidden_first_frame(encoded: bytes) -> tuple[bytes, tuple[int, int, int, int]] | None:
    """Return an APNG's first frame as a PNG, and its (left, top, right, bottom) on the canvas.

    Only where the default image is not part of the animation: that image is for programs that cannot show animations,
    and often says so. None if the default image is the first frame, or if there is no whole frame on the canvas.
    """
    header, colours, frame, data = b"", [], None, []
    is_animated = False
    for kind, content in png_chunks(encoded):
        if kind == b"IHDR":
            header = content
        elif kind == b"acTL":
            is_animated = True
        elif kind in _COLOURS and frame is None:
            colours.append((kind, content))
        elif kind == b"IDAT" and (frame or not is_animated):
            return None
        elif kind == b"fcTL" and frame is None and len(content) == 26:
            frame = struct.unpack(">4I", content[4:20])
        elif kind == b"fdAT" and frame:
            data.append((b"IDAT", content[4:]))
        elif kind in (b"fcTL", b"IEND") and data:
            break
    if not frame or not data or len(header) != 13:
        return None
    width, height, left, top = frame
    canvas_width, canvas_height = struct.unpack(">2I", header[:8])
    if 0 in (width, height) or left + width > canvas_width or top + height > canvas_height:
        return None
    chunks = [(b"IHDR", struct.pack(">2I", width, height) + header[8:]), *colours, *data, (b"IEND", b"")]
    return _SIGNATURE + b"".join(map(_stored, chunks)), (left, top, left + width, top + height)


def _stored(chunk: Chunk) -> bytes:
    kind, content = chunk
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
