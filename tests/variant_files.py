"""Write TIFF, PNG, APNG, GIF and BMP files of many layouts, independently of the library that decodes them.

Samples are arrays of integers or floats: (height, width) or (height, width, samples).
"""

import struct
import zlib

import numpy as np
from image_corpus import png_chunk

# -- TIFF --------------------------------------------------------------------------------------------------

TYPES = {"H": 3, "I": 4, "B": 7}  # TIFF's number of a type by struct's letter


def tiff(
    samples: np.ndarray, photometric: int, bits: int, *, order: str = "<", deflated: bool = False, **layout: object
) -> bytes:
    """Return a TIFF of the samples.

    `layout` may have: planar, extra (values of ExtraSamples), rows (in a strip), fill_order, tags (additional tags).
    """
    samples = samples[..., None] if samples.ndim == 2 else samples
    height, width, count = samples.shape
    rows = layout.get("rows", height)
    planes = [samples[..., k : k + 1] for k in range(count)] if layout.get("planar") else [samples]
    strips = [_packed(plane[y : y + rows], bits, order) for plane in planes for y in range(0, height, rows)]
    if layout.get("fill_order") == 2:
        strips = [bytes(int(f"{byte:08b}"[::-1], 2) for byte in strip) for strip in strips]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * count),
        259: ("H", [8 if deflated else 1]),
        262: ("H", [photometric]),
        266: ("H", [layout.get("fill_order", 1)]),
        273: ("I", list(np.cumsum([8, *map(len, strips)])[:-1])),
        277: ("H", [count]),
        278: ("I", [rows]),
        279: ("I", list(map(len, strips))),
        284: ("H", [2 if layout.get("planar") else 1]),
        339: ("H", [{"u": 1, "i": 2, "f": 3}[samples.dtype.kind]] * count),
        **({338: ("H", layout["extra"])} if layout.get("extra") else {}),
        **layout.get("tags", {}),
    }
    return _with_directory(b"".join(strips), tags, order)


def _packed(samples: np.ndarray, bits: int, order: str) -> bytes:
    """Pack samples of `bits` bits row by row. Each row is padded to whole bytes."""
    if bits in (8, 16, 32, 64):
        return samples.astype(f"{order}{samples.dtype.kind}{bits // 8}").tobytes()
    rows = samples.reshape(len(samples), -1).astype(np.uint32)
    each_bit = rows[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(each_bit.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def _with_directory(data: bytes, tags: dict[int, tuple[str, list[int]]], order: str) -> bytes:
    data += bytes(len(data) % 2)
    at = 8 + len(data)
    more_at, entries, more = at + 2 + 12 * len(tags) + 4, b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(order + kind * len(values), *values)
        held = packed.ljust(4, b"\0")
        if len(packed) > 4:
            held = struct.pack(order + "I", more_at + len(more))
            more += packed + bytes(len(packed) % 2)
        entries += struct.pack(order + "HHI", tag, TYPES[kind], len(values)) + held
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    return head + data + struct.pack(order + "H", len(tags)) + entries + bytes(4) + more


# -- PNG and APNG ------------------------------------------------------------------------------------------

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


def png(samples: np.ndarray, depth: int, colour_type: int, *chunks: bytes) -> bytes:
    """Return a PNG of the samples, with `chunks` before its pixels."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _header(samples, depth, colour_type)
        + b"".join(chunks)
        + png_data(samples, depth)
        + (png_chunk(b"IEND", b""))
    )


def _header(samples: np.ndarray, depth: int, colour_type: int) -> bytes:
    height, width = samples.shape[:2]
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))


def _rows(samples: np.ndarray, depth: int) -> bytes:
    lines = np.frombuffer(_packed(samples[..., None] if samples.ndim == 2 else samples, depth, ">"), np.uint8)
    lines = lines.reshape(len(samples), -1)
    return zlib.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes())


def png_data(samples: np.ndarray, depth: int) -> bytes:
    return png_chunk(b"IDAT", _rows(samples, depth))


def apng(default: np.ndarray, frame: np.ndarray, left: int, top: int) -> bytes:
    """Return an APNG of 8-bit RGB. Its animation has one frame, and does not include the default image."""
    height, width = frame.shape[:2]
    control = struct.pack(">5IHHBB", 0, width, height, left, top, 1, 10, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _header(default, 8, RGB),
            png_chunk(b"acTL", struct.pack(">II", 1, 0)),
            png_data(default, 8),
            png_chunk(b"fcTL", control),
            png_chunk(b"fdAT", struct.pack(">I", 1) + _rows(frame, 8)),
            png_chunk(b"IEND", b""),
        ]
    )


def colour_key(*values: int) -> bytes:
    """Return the tRNS chunk that makes one colour transparent."""
    return png_chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


# -- GIF ---------------------------------------------------------------------------------------------------


def gif(
    indices: np.ndarray,
    palette: np.ndarray,
    screen: tuple[int, int],
    place: tuple[int, int] = (0, 0),
    transparent: int | None = None,
    background: int = 0,
) -> bytes:
    """Return a GIF with one frame at `place` (left, top). `screen` is the size of the canvas.

    LZW codes always have 9 bits, so nothing is compressed.
    """
    codes = [code for at in range(0, indices.size, 250) for code in (256, *indices.ravel()[at : at + 250].tolist())]
    bits = (np.array([*codes, 257])[:, None] >> np.arange(9) & 1).astype(np.uint8)
    stream = np.packbits(bits.ravel(), bitorder="little").tobytes()
    blocks = b"".join(bytes([len(stream[at : at + 255])]) + stream[at : at + 255] for at in range(0, len(stream), 255))
    height, width = indices.shape
    control = struct.pack("<4BHBB", 0x21, 0xF9, 4, transparent is not None, 0, transparent or 0, 0)
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0xF7, background, 0) + palette.astype(np.uint8).tobytes()
    return head + control + struct.pack("<B4HB", 0x2C, *place, width, height, 0) + b"\x08" + blocks + b"\0;"


# -- BMP ---------------------------------------------------------------------------------------------------


def bmp(
    rows: np.ndarray,
    bits: int,
    *,
    masks: tuple[int, ...] = (),
    header: int = 40,
    palette: bytes = b"",
    colours: int = 0,
) -> bytes:
    """Return a BMP of `rows`, uint8 (height, bytes of a row), with the top row first.

    The width in pixels is 8 * bytes // bits.
    """
    height, line_bytes = rows.shape
    pixels = np.pad(rows[::-1], ((0, 0), (0, -line_bytes % 4))).tobytes()
    compression = 3 if masks else 0
    info = struct.pack(
        "<IiiHHIIiiII", header, 8 * line_bytes // bits, height, 1, bits, compression, len(pixels), 0, 0, colours, 0
    )
    info = (info + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    at = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(pixels), 0, 0, at) + info + palette + pixels
