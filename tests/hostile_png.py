"""PNG files: compression bombs in pixels and texts, chunks with wrong values, rare depths and colours, animations."""

import struct
import zlib

import numpy as np
from hostile_file import HostileFile, exif_bytes, png, scene_in, zeros
from image_corpus import ORIENTATION, encode, png_chunk, png_promising, scene
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
END = png_chunk(b"IEND", b"")


def png_files() -> list[HostileFile]:
    whole = encode(scene(), "PNG")
    return [*_broken(whole), *_bombs(), *_texts(whole), *_colour_kinds(), *_odd(whole)]


def _with(data: bytes, *chunks: bytes) -> bytes:
    """Return `data` with the chunks inserted right after the header chunk (IHDR)."""
    return data[:33] + b"".join(chunks) + data[33:]


def _rows(array: np.ndarray) -> bytes:
    """Return the rows of a picture, each with filter byte 0 before it, compressed by zlib."""
    lines = array.reshape(len(array), -1).view(np.uint8)
    return zlib.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes())


def _broken(whole: bytes) -> list[HostileFile]:
    data_at = whole.index(b"IDAT")
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 0xFF
    huge = struct.pack(">I", 0x7FFFFFFF) + b"IDAT"
    return [
        HostileFile("png-cut-in-the-signature.png", whole[:6], "truncated"),
        HostileFile("png-cut-in-ihdr.png", whole[:20], "truncated"),
        HostileFile("png-cut-before-idat.png", whole[: data_at - 4], "truncated"),
        HostileFile("png-cut-in-idat.png", whole[: len(whole) // 2], "truncated"),
        HostileFile("png-without-idat.png", whole[: data_at - 4] + END, "corrupt"),
        HostileFile("png-crc-of-ihdr.png", whole[:29] + b"\0\0\0\0" + whole[33:], "corrupt"),
        # Only the chunk's checksum is wrong; zlib's is right.
        scene_in("png-crc-of-idat.png", whole[:-16] + b"\0\0\0\0" + END),
        HostileFile("png-damaged-middle.png", bytes(middle), "corrupt"),
        scene_in("png-huge-chunk.png", whole[: data_at - 4] + huge + whole[data_at + 4 :]),
        HostileFile(
            "png-huge-ancillary-chunk.png", _with(whole, b"\xff\xff\xff\xffjuNk"), frozenset(["truncated", "corrupt"])
        ),
        HostileFile("png-0-x-0.png", png_promising(0, 0), "corrupt"),
        HostileFile("png-depth-3.png", png(8, 8, 3, GREY, zeros(100)), "corrupt"),
        HostileFile("png-colour-type-7.png", png(8, 8, 8, 7, zeros(1000)), "corrupt"),
        HostileFile("png-not-zlib.png", png(8, 8, 8, GREY, b"not packed at all"), "corrupt"),
        HostileFile("png-filter-99.png", png(8, 8, 8, GREY, zlib.compress(b"\x63" + bytes(8) * 9)), "corrupt"),
        # The missing rows are black.
        HostileFile("png-too-few-rows.png", png(800, 800, 8, RGB, zeros(3 * 2401)), "scored"),
        HostileFile("png-newlines-converted.png", whole.replace(b"\r\n", b"\n"), "corrupt"),
        HostileFile("png-palette-missing.png", png(8, 8, 8, PALETTE, zeros(72)), frozenset(["corrupt", "scored"])),
        # Apple's variant: deflate without the zlib header.
        HostileFile("apple-cgbi.png", png(8, 8, 8, GREY, zlib.compress(bytes(72))[2:-4]), "corrupt"),
    ]


def _bombs() -> list[HostileFile]:
    return [
        HostileFile("png-60000-x-60000.png", png_promising(60_000, 60_000), "too_many_pixels"),
        HostileFile("png-2147483647-x-2147483647.png", png_promising(2**31 - 1, 2**31 - 1), "too_many_pixels"),
        HostileFile("png-100-megapixels-with-alpha.png", png(9999, 9999, 8, GREY_ALPHA, zeros(9)), "too_many_pixels"),
        HostileFile("png-25-megapixels-in-3-kb.png", png(5000, 5000, 1, GREY, zeros(626 * 5000)), "scored"),
        HostileFile("png-1-x-1000000.png", png(1, 10**6, 8, GREY, zeros(2 * 10**6)), "scored"),
        HostileFile("png-1000000-x-1.png", png(10**6, 1, 16, RGBA, zeros(8 * 10**6 + 1)), "scored"),
        HostileFile("png-1-x-1-and-64-mb.png", png(1, 1, 8, GREY, zeros(2**26)), "scored"),
    ]


def _texts(whole: bytes) -> list[HostileFile]:
    """Return PNGs with texts or profiles that Pillow refuses to unpack. Their pixels are sound and must be shown."""
    huge, large = zeros(2**26), zeros(2**20)
    entities = b"<!DOCTYPE x [<!ENTITY a '&b;&b;'>]><x>&a;</x>"
    loop = exif_bytes((0x8769, 4, 1, 8), following=8).removeprefix(b"Exif\0\0")
    giant = exif_bytes((ORIENTATION, 3, 600_000, 26), rest=bytes(1_200_000)).removeprefix(b"Exif\0\0")
    chunks = {
        "ztxt-of-64-mb": [png_chunk(b"zTXt", b"a\0\0" + huge)],
        "itxt-of-64-mb": [png_chunk(b"iTXt", b"a\0\1\0\0\0" + huge)],
        "80-ztxt-of-1-mb": [png_chunk(b"zTXt", b"a\0\0" + large)] * 80,
        "profile-of-64-mb": [png_chunk(b"iCCP", b"a\0\0" + huge)],
        "profile-of-garbage": [png_chunk(b"iCCP", b"a\0\0" + zlib.compress(b"garbage"))],
        "profile-not-zlib": [png_chunk(b"iCCP", b"a\0\0garbage")],
        "text-of-1.6-mb": [png_chunk(b"tEXt", b"a\0" + b"text" * 400_000)],
        "xmp-entities": [png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + entities)],
        "raw-profile-garbage": [png_chunk(b"tEXt", b"Raw profile type exif\0garbage")],
        "exif-loop": [png_chunk(b"eXIf", loop)],
        "exif-of-1.2-mb": [png_chunk(b"eXIf", giant)],
        "20000-empty-chunks": [png_chunk(b"juNk", b"")] * 20_000,
    }
    return [
        *(scene_in(f"png-{name}.png", _with(whole, *content)) for name, content in chunks.items()),
        scene_in("png-ztxt-bomb-at-the-end.png", whole[:-12] + png_chunk(b"zTXt", b"a\0\0" + huge) + END),
    ]


def _colour_kinds() -> list[HostileFile]:
    rgb = np.asarray(scene())
    deep = rgb.astype(">u2") * 257
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    palette = scene().quantize(256)
    half = bytes([255] * 255 + [128])
    stripes = np.tile(np.array([[0xAA], [0x55]], np.uint8), (60, 10))
    return [
        scene_in("png-16-bit-rgb.png", png(80, 120, 16, RGB, _rows(deep.astype(">u2")))),
        scene_in("png-rgba.png", png(80, 120, 8, RGBA, _rows(opaque))),
        scene_in("png-palette-with-alpha.png", encode(palette, "PNG", transparency=half)),
        scene_in("png-colour-key.png", encode(scene(), "PNG", transparency=(1, 2, 3))),
        scene_in("png-interlaced.png", png(80, 120, 8, RGB, _interlaced(rgb), interlaced=1)),
        HostileFile("png-16-bit-grey.png", png(80, 120, 16, GREY, _rows(deep[..., 0].astype(">u2"))), "scored"),
        HostileFile("png-1-bit.png", png(80, 120, 1, GREY, _rows(stripes)), "scored"),
        HostileFile(
            "png-palette-too-short.png",
            png(8, 8, 8, PALETTE, _rows(np.full((8, 8), 200, np.uint8)), png_chunk(b"PLTE", bytes(6))),
            "scored",
        ),
    ]


def _interlaced(rgb: np.ndarray) -> bytes:
    """Return the seven passes of Adam7 interlacing, compressed by zlib."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [np.ascontiguousarray(rgb[y::dy, x::dx]) for y, x, dy, dx in passes]
    return zlib.compress(b"".join(zlib.decompress(_rows(part)) for part in parts))


def _odd(whole: bytes) -> list[HostileFile]:
    packed = whole[whole.index(b"IDAT") + 4 : -16]
    crumbs = b"".join(png_chunk(b"IDAT", bytes([byte])) for byte in packed)
    frames = encode(scene(), "PNG", save_all=True, append_images=[Image.new("RGB", (80, 120))])
    count_at = frames.index(b"acTL") + 4
    no_frames = frames[: count_at - 8] + png_chunk(b"acTL", bytes(8)) + frames[count_at + 12 :]
    many = frames[: count_at - 8] + png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + frames[count_at + 12 :]
    return [
        scene_in("png-named-jpg.jpg", whole),
        scene_in("png-and-html.png", whole + b"<html><script>alert(1)</script></html>"),
        scene_in("png-idat-in-crumbs.png", whole[:33] + crumbs + END),
        scene_in("png-without-iend.png", whole[:-12]),
        scene_in("png-rows-to-spare.png", png(80, 120, 8, RGB, zlib.compress(zlib.decompress(packed) + bytes(10**6)))),
        scene_in("png-animated.png", frames),
        scene_in("png-animated-without-frames.png", no_frames),
        scene_in("png-of-two-billion-frames.png", many),
    ]
