"""TIFF and BMP files: directories that loop or have wrong values, huge tiles and strips, all kinds of samples."""

import struct
import zlib

import numpy as np
from hostile_file import HostileFile, bmp, directory, scene_in, tiff, tiff_data_at, zeros
from image_corpus import encode, exif, scene
from PIL import Image

BITS, COMPRESSION, OFFSETS, ROWS, COUNTS, TILE_WIDTH, TILE_LENGTH = 258, 259, 273, 278, 279, 322, 323
TILE_OFFSETS, TILE_COUNTS = 324, 325
SHORT, LONG = 3, 4
DEFLATE = (COMPRESSION, SHORT, 1, 8)


def tiff_files() -> list[HostileFile]:
    return [*_directories(), *_bombs(), *_kinds()]


def _strip(width: int, height: int, data: bytes, *entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """Return a TIFF whose pixels are in one strip, `data`. `following` is the offset of the next directory."""
    at = tiff_data_at(3 + len(entries))
    strip = [(OFFSETS, LONG, 1, at), (ROWS, LONG, 1, height), (COUNTS, LONG, 1, len(data))]
    return tiff(width, height, *strip, *entries, data=data, following=following)


def _directories() -> list[HostileFile]:
    pixels = bytes(range(64))
    plain = _strip(8, 8, pixels)
    loop = plain[:4] + struct.pack("<I", 8) + plain[8:-68] + struct.pack("<I", 8) + pixels
    many = b"II*\0" + struct.pack("<I", 8) + directory(*((tag, 7, 60_000, 0) for tag in range(9000)))
    return [
        HostileFile("tiff-directory-loop.tif", loop, "scored"),
        HostileFile("tiff-directory-beyond-the-end.tif", plain[:4] + b"\xff\xff\xff\x7f" + plain[8:], "corrupt"),
        HostileFile("tiff-directory-in-the-header.tif", plain[:4] + bytes(4) + plain[8:], "corrupt"),
        HostileFile("tiff-no-entries.tif", b"II*\0" + struct.pack("<IH", 8, 0) + bytes(4), "corrupt"),
        HostileFile("tiff-65535-entries.tif", plain[:8] + b"\xff\xff" + plain[10:], "scored"),
        HostileFile("tiff-9000-overlapping-tags.tif", many, "corrupt"),
        HostileFile("tiff-gigantic-count.tif", _strip(8, 8, pixels, (305, 2, 0xFFFFFFFF, 8)), "scored"),
        HostileFile(
            "tiff-without-a-size.tif",
            plain.replace(struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 250, 4, 1)),
            "corrupt",
        ),
        HostileFile("tiff-strip-beyond-the-end.tif", tiff(8, 8, (OFFSETS, LONG, 1, 2**31)), "truncated"),
        HostileFile("tiff-cut.tif", _strip(80, 120, bytes(9600))[:5000], "truncated"),
        HostileFile("tiff-without-strips.tif", tiff(8, 8), "corrupt"),
    ]


def _bombs() -> list[HostileFile]:
    tiles = [(TILE_WIDTH, LONG, 1, 50_000), (TILE_LENGTH, LONG, 1, 50_000), (TILE_COUNTS, LONG, 1, 20)]
    huge_tile = [*tiles, DEFLATE, (TILE_OFFSETS, LONG, 1, tiff_data_at(5))]
    strips = 300_000
    offsets = np.arange(strips, dtype="<u4").tobytes()
    at = tiff_data_at(2)
    return [
        HostileFile("tiff-60000-x-60000.tif", _strip(60_000, 60_000, b""), "too_many_pixels"),
        HostileFile("tiff-16-megapixels-deflated.tif", _strip(4000, 4000, zeros(16 * 10**6), DEFLATE), "scored"),
        HostileFile("tiff-200-x-60000-deflated.tif", _strip(200, 60_000, zeros(12 * 10**6), DEFLATE), "scored"),
        HostileFile("tiff-tile-of-50000-x-50000.tif", tiff(8, 8, *huge_tile, data=zeros(1000)), "too_many_pixels"),
        HostileFile(
            "tiff-300000-strips.tif",
            tiff(1, strips, (OFFSETS, LONG, strips, at), (ROWS, LONG, 1, 1), data=offsets),
            "too_much_work",
        ),
        HostileFile(
            "tiff-300000-strips-in-bytes.tif",
            tiff(1, strips, (OFFSETS, 1, strips, at), (ROWS, LONG, 1, 1), data=b"\7\7" * (strips // 2)),
            "too_much_work",
        ),
        HostileFile(
            "tiff-300000-bit-depths.tif", _strip(8, 8, bytes(2 * strips), (BITS, SHORT, strips, at)), "too_much_work"
        ),
        HostileFile("tiff-deflated-garbage.tif", _strip(80, 120, b"garbage" * 99, DEFLATE), "corrupt"),
        HostileFile("tiff-too-few-rows.tif", _strip(80, 120, zlib.compress(bytes(800)), DEFLATE), "corrupt"),
    ]


def _kinds() -> list[HostileFile]:
    rgb, grey = scene(), scene().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    packed = ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "lzma", "zstd")
    pages = encode(rgb, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))] * 50)
    return [
        *(scene_in(f"tiff-{name}.tif", encode(rgb, "TIFF", compression=name)) for name in packed),
        scene_in("tiff-jpeg.tif", encode(rgb, "TIFF", compression="jpeg", quality=95)),
        scene_in("tiff-named-jpg.jpg", encode(rgb, "TIFF")),
        scene_in("tiff-big.tif", encode(rgb, "TIFF", big_tiff=True)),
        scene_in("tiff-cmyk.tif", encode(rgb.convert("CMYK"), "TIFF")),
        scene_in("tiff-rgba.tif", encode(rgb.convert("RGBA"), "TIFF")),
        scene_in("tiff-50-pages.tif", pages),
        scene_in("tiff-orientation-8.tif", encode(rgb.transpose(Image.Transpose.ROTATE_270), "TIFF", exif=exif(8))),
        HostileFile("tiff-lab.tif", encode(Image.new("LAB", (80, 120), (99, 9, 9)), "TIFF"), "scored"),
        HostileFile("tiff-16-bit-grey.tif", encode(deep, "TIFF"), "scored"),
        HostileFile("tiff-float.tif", encode(grey.convert("F"), "TIFF"), "scored"),
        HostileFile("tiff-32-bit.tif", encode(grey.convert("I"), "TIFF"), "scored"),
        HostileFile("tiff-group-4.tif", encode(grey.convert("1"), "TIFF", compression="group4"), "scored"),
        HostileFile(
            "tiff-unknown-compression.tif", _strip(8, 8, bytes(64), (COMPRESSION, SHORT, 1, 9999)), "unsupported_format"
        ),
        HostileFile(
            "tiff-two-photometrics.tif",
            _strip(8, 8, bytes(64), (262, SHORT, 2, 0x1_0001), (COMPRESSION, SHORT, 1, 9999)),
            "unsupported_format",
        ),
        HostileFile("tiff-64-bits.tif", _strip(8, 8, bytes(512), (BITS, SHORT, 1, 64)), "unsupported_format"),
    ]


def bmp_files() -> list[HostileFile]:
    whole = encode(scene(), "BMP")
    rows = np.asarray(scene().transpose(Image.Transpose.FLIP_TOP_BOTTOM))  # 80 pixels of 3 bytes need no padding
    top_down = bytearray(whole)
    struct.pack_into("<i", top_down, 22, -120)
    top_down[54:] = rows[::-1, :, ::-1].tobytes()
    lines = (b"\x08\x07" + b"\0\0") * 8 + b"\0\1"
    return [
        scene_in("bmp-named-jpg.jpg", whole),
        scene_in("bmp-top-down.bmp", bytes(top_down)),
        HostileFile("bmp-cut.bmp", whole[: len(whole) // 2], "truncated"),
        HostileFile("bmp-header-only.bmp", whole[:54], "truncated"),
        HostileFile("bmp-60000-x-60000.bmp", bmp(60_000, 60_000, 24, 0, b""), "too_many_pixels"),
        HostileFile("bmp-minus-60000-x-60000.bmp", bmp(-60_000, -60_000, 24, 0, b""), "too_many_pixels"),
        HostileFile("bmp-0-x-0.bmp", bmp(0, 0, 24, 0, b""), "corrupt"),
        HostileFile("bmp-rle8.bmp", bmp(8, 8, 8, 1, lines), "scored"),
        HostileFile("bmp-rle4.bmp", bmp(8, 8, 4, 2, lines), "scored"),
        HostileFile("bmp-rle8-of-100-megapixels.bmp", bmp(10_000, 10_000, 8, 1, b"\1\7\0\0" * 10_000), "too_much_work"),
        HostileFile("bmp-rle8-of-9-megapixels.bmp", bmp(3000, 3000, 8, 1, b"\1\7\0\0" * 3000), "scored"),
        HostileFile("bmp-rle8-cut.bmp", bmp(8, 8, 8, 1, lines[:9]), "corrupt"),
        HostileFile("bmp-7-bits.bmp", bmp(8, 8, 7, 0, bytes(64)), "unsupported_format"),
        HostileFile("bmp-png-inside.bmp", bmp(8, 8, 24, 5, bytes(64)), "unsupported_format"),
    ]
