"""A hostile file with its expected outcome, and builders of its parts: segments, chunks and directories."""

import struct
import zlib
from dataclasses import dataclass

from image_corpus import png_chunk


@dataclass(frozen=True)
class HostileFile:
    """A file, and the expected outcome of `decode`: "scored", or the reason of a `BadImage`.

    If the outcome depends on the versions of libraries, `outcome` is a set of these.
    """

    name: str  # file name with its extension; names are unique, and so are their stems
    data: bytes
    outcome: str | frozenset[str]
    shows: str = ""  # "scene": the decoded picture is close to image_corpus.scene()

    @property
    def outcomes(self) -> frozenset[str]:
        return frozenset([self.outcome]) if isinstance(self.outcome, str) else self.outcome


def scene_in(name: str, data: bytes) -> HostileFile:
    """Return a hostile file whose decoded picture must show the whole `image_corpus.scene()`."""
    return HostileFile(name, data, "scored", "scene")


def zeros(length: int) -> bytes:
    """Return `length` zero bytes, compressed by zlib to about a thousandth, without holding them all in memory."""
    packer, block = zlib.compressobj(9), bytes(2**20)
    packed = [packer.compress(block) for _ in range(length >> 20)]
    return b"".join([*packed, packer.compress(bytes(length % 2**20)), packer.flush()])


def segment(marker: int, content: bytes) -> bytes:
    """Return a JPEG segment: marker, length and content."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def png(width: int, height: int, depth: int, colour: int, packed: bytes, *extra: bytes, interlaced: int = 0) -> bytes:
    """Return a PNG with the `extra` chunks and then one IDAT chunk of the compressed data `packed`."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    image = png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(extra) + image


def gif(screen: tuple[int, int], frame: tuple[int, int], lzw: bytes, disposal: int = 0, before: bytes = b"") -> bytes:
    """Return a GIF of two colours with one frame. `lzw` is its LZW stream (minimum code size 2)."""
    control = struct.pack("<BBBBHBB", 0x21, 0xF9, 4, disposal << 2, 0, 0, 0)
    image = struct.pack("<BHHHHBB", 0x2C, 0, 0, *frame, 0, 2)
    blocks = b"".join(bytes([len(lzw[at : at + 255])]) + lzw[at : at + 255] for at in range(0, len(lzw), 255))
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + before + control + image + blocks + b"\0;"


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a WebP file of these chunks, as pairs of name and data."""
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def directory(*entries: tuple[int, int, int, int], following: int = 0, order: str = "<") -> bytes:
    """Return a TIFF or EXIF directory of entries: tag, type, count, and value or offset.

    `following` is the offset of the next directory (0: none).
    """
    packed = [
        struct.pack(
            order + ("HHIHH" if kind == 3 and count == 1 else "HHII"),
            tag,
            kind,
            count,
            value,
            *[0] * (kind == 3 and count == 1),
        )
        for tag, kind, count, value in sorted(entries)
    ]
    return struct.pack(order + "H", len(entries)) + b"".join(packed) + struct.pack(order + "I", following)


def exif_bytes(*entries: tuple[int, int, int, int], following: int = 0, rest: bytes = b"") -> bytes:
    """Return EXIF data: one directory, then the bytes `rest`.

    To point to the start of `rest`, an entry uses the offset 14 + 12 * (number of entries).
    """
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory(*entries, following=following) + rest


def tiff(width: int, height: int, *entries: tuple[int, int, int, int], data: bytes = b"", following: int = 0) -> bytes:
    """Return an 8-bit grey TIFF. `entries` are added to the five basic ones.

    `data` starts at the offset `tiff_data_at(len(entries))`.
    """
    basic = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)}
    tags = {**{tag: (tag, *rest) for tag, rest in basic.items()}, **{entry[0]: entry for entry in entries}}
    return b"II*\0" + struct.pack("<I", 8) + directory(*tags.values(), following=following) + data


def tiff_data_at(extra_entries: int) -> int:
    """Return the offset at which `data` starts in a `tiff` with this number of extra entries."""
    return 8 + 2 + 12 * (5 + extra_entries) + 4


def bmp(width: int, height: int, bits: int, compression: int, pixels: bytes) -> bytes:
    """Return a BMP with a palette of 256 greys."""
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256)) if bits <= 8 else b""
    at = 54 + len(palette)
    head = b"BM" + struct.pack("<IHHI", at + len(pixels), 0, 0, at)
    colours = len(palette) // 4
    return (
        head
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, colours, 0)
        + palette
        + pixels
    )
