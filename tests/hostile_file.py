"""What a kind of hostile file is, and how its parts are put together: segments, chunks, directories."""

import struct
import zlib
from dataclasses import dataclass

from image_corpus import png_chunk


@dataclass(frozen=True)
class HostileFile:
    """A file and what `decode` makes of it: "scored", or the reason (several where libraries' versions differ)."""

    name: str  # with its ending; unique, and so is the stem
    data: bytes
    outcome: str | frozenset[str]
    shows: str = ""  # "scene": the decoded picture is close to image_corpus.scene()

    @property
    def outcomes(self) -> frozenset[str]:
        return frozenset([self.outcome]) if isinstance(self.outcome, str) else self.outcome


def scene_in(name: str, data: bytes) -> HostileFile:
    """A file that looks odd and holds the whole scene."""
    return HostileFile(name, data, "scored", "scene")


def zeros(length: int) -> bytes:
    """`length` zero bytes, packed by zlib to a thousandth, without holding them."""
    packer, block = zlib.compressobj(9), bytes(2**20)
    packed = [packer.compress(block) for _ in range(length >> 20)]
    return b"".join([*packed, packer.compress(bytes(length % 2**20)), packer.flush()])


def segment(marker: int, content: bytes) -> bytes:
    """One JPEG segment, with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def png(width: int, height: int, depth: int, colour: int, packed: bytes, *extra: bytes, interlaced: int = 0) -> bytes:
    """A PNG with one IDAT chunk that holds `packed`, and the `extra` chunks before it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    image = png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(extra) + image


def gif(screen: tuple[int, int], frame: tuple[int, int], lzw: bytes, disposal: int = 0, before: bytes = b"") -> bytes:
    """A GIF of two colours with one frame whose LZW stream (minimum code size 2) is `lzw`."""
    control = struct.pack("<BBBBHBB", 0x21, 0xF9, 4, disposal << 2, 0, 0, 0)
    image = struct.pack("<BHHHHBB", 0x2C, 0, 0, *frame, 0, 2)
    blocks = b"".join(bytes([len(lzw[at : at + 255])]) + lzw[at : at + 255] for at in range(0, len(lzw), 255))
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + before + control + image + blocks + b"\0;"


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def directory(*entries: tuple[int, int, int, int], following: int = 0, order: str = "<") -> bytes:
    """A TIFF or EXIF directory of (tag, type, count, value or offset), with the offset of the one that follows."""
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
    """EXIF with one directory; what its offsets point to starts at 14 + 12 * entries."""
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory(*entries, following=following) + rest


def tiff(width: int, height: int, *entries: tuple[int, int, int, int], data: bytes = b"", following: int = 0) -> bytes:
    """An 8-bit grey TIFF; `entries` come on top of the basic ones, and `data` starts at `tiff_data_at(entries)`."""
    basic = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)}
    tags = {**{tag: (tag, *rest) for tag, rest in basic.items()}, **{entry[0]: entry for entry in entries}}
    return b"II*\0" + struct.pack("<I", 8) + directory(*tags.values(), following=following) + data


def tiff_data_at(extra_entries: int) -> int:
    """Where the data of `tiff` starts, with so many entries on top of the five basic ones."""
    return 8 + 2 + 12 * (5 + extra_entries) + 4


def bmp(width: int, height: int, bits: int, compression: int, pixels: bytes) -> bytes:
    """A BMP with a palette of 256 greys."""
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
