"""GIF, WebP and AVIF files with wrong canvas sizes, frames outside the canvas, animations, and cut streams."""

import struct

from hostile_file import HostileFile, exif_bytes, gif, riff, scene_in
from image_corpus import ORIENTATION, encode, scene
from PIL import Image

LZW = bytes.fromhex("8c2d99872a1cdc33a00275ec95faa8de608c04914c01")  # LZW stream of a 10 x 10 image


def gif_files() -> list[HostileFile]:
    whole = encode(scene(), "GIF")
    frames = encode(scene(), "GIF", save_all=True, append_images=[Image.new("RGB", (80, 120))])
    solid = encode(Image.new("L", (5000, 5000), 9), "GIF")
    # The comma begins a frame. Pillow reads it as the length (44) of another block of the extension.
    hiding = b"!\1\0," + struct.pack("<HHHH", 0, 0, 9, 9).ljust(44, b"\1") + b"\0"
    comment = b"!\xfe" + b"\xff".join([b"", *[b"c" * 255] * 4000]) + b"\0"
    return [
        HostileFile("gif-header-only.gif", whole[:13], "truncated"),
        HostileFile("gif-cut.gif", whole[: len(whole) // 2], "truncated"),
        HostileFile(
            "gif-without-frames.gif",
            b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";",
            frozenset(["truncated", "corrupt"]),
        ),
        HostileFile("gif-60000-x-60000.gif", gif((60_000, 60_000), (10, 10), LZW), "too_many_pixels"),
        HostileFile("gif-frame-of-60000-x-60000.gif", gif((10, 10), (60_000, 60_000), LZW), "too_many_pixels"),
        HostileFile(
            "gif-frame-that-is-disposed-of.gif", gif((10, 10), (60_000, 60_000), LZW, disposal=2), "too_many_pixels"
        ),
        HostileFile(
            "gif-frame-behind-a-comment.gif", gif((10, 10), (60_000, 60_000), LZW, 2, comment), "too_many_pixels"
        ),
        HostileFile("gif-frame-in-hiding.gif", gif((10, 10), (60_000, 60_000), LZW, 2, hiding), "too_many_pixels"),
        HostileFile("gif-frame-of-5000-x-5000.gif", gif((10, 10), (5000, 5000), LZW, disposal=2), "truncated"),
        HostileFile("gif-25-megapixels.gif", solid, "scored"),
        HostileFile("gif-0-x-0.gif", gif((0, 0), (0, 0), LZW), "corrupt"),
        HostileFile("gif-two-colours.gif", gif((10, 10), (10, 10), LZW), "scored"),
        HostileFile(
            "gif-lzw-of-14-bits.gif", gif((10, 10), (10, 10), LZW).replace(b"\0\2\x16", b"\0\x0e\x16"), "corrupt"
        ),
        HostileFile("gif-lzw-of-garbage.gif", gif((10, 10), (10, 10), b"\xff" * 255), "corrupt"),
        HostileFile("gif-and-js.gif", b"GIF89a=1;alert(document.cookie);//" + whole[6:], "corrupt"),
        scene_in("gif-with-a-comment-of-1-mb.gif", whole[:781] + comment + whole[781:]),
        scene_in("gif-and-html.gif", whole + b"<html>"),
        scene_in("gif-animated.gif", frames),
        scene_in("gif-cut-in-the-second-frame.gif", frames[:-40]),
        scene_in("gif-named-jpg.jpg", whole),
        scene_in("gif-interlaced.gif", encode(scene(), "GIF", interlace=1)),
    ]


def webp_files() -> list[HostileFile]:
    whole = encode(scene(), "WEBP", quality=90)
    frames = encode(scene(), "WEBP", save_all=True, append_images=[Image.new("RGB", (80, 120))], quality=90)
    flags = bytes([0x10, 0, 0, 0])
    canvas = flags + (59_999).to_bytes(3, "little") * 2
    odd = encode(scene(), "WEBP", quality=90, exif=exif_bytes((ORIENTATION, 2, 9, 0x7FFFFFFF)))
    size_at = whole.index(b"\x9d\x01\x2a") + 3
    solid = encode(Image.new("RGB", (8000, 8000)), "WEBP", lossless=True, quality=0, method=0)
    return [
        HostileFile("webp-header-only.webp", whole[:12], "truncated"),
        HostileFile("webp-cut.webp", whole[: len(whole) // 2], "truncated"),
        HostileFile("webp-canvas-of-60000-x-60000.webp", riff((b"VP8X", canvas), (b"VP8 ", whole[20:])), "corrupt"),
        HostileFile(
            "webp-16383-x-16383.webp", whole[:size_at] + b"\xff\x3f\xff\x3f" + whole[size_at + 4 :], "too_many_pixels"
        ),
        HostileFile("webp-64-megapixels.webp", solid, "too_many_pixels"),  # too much memory to decode
        HostileFile("webp-garbage.webp", riff((b"VP8 ", b"garbage" * 9)), "corrupt"),
        HostileFile("webp-unknown-chunk.webp", riff((b"HACK", b"garbage")), "corrupt"),
        scene_in("webp-and-html.webp", whole + b"<html>"),
        scene_in("webp-lossless.webp", encode(scene(), "WEBP", lossless=True)),
        scene_in("webp-animated.webp", frames),
        scene_in("webp-exif-beyond-the-end.webp", odd),
        scene_in("webp-named-jpg.jpg", whole),
    ]


def avif_files() -> list[HostileFile]:
    whole = encode(scene(), "AVIF", quality=90)
    frames = encode(scene(), "AVIF", save_all=True, append_images=[Image.new("RGB", (80, 120))], quality=90)
    size_at = whole.index(b"ispe") + 8

    def sized(side: int) -> bytes:
        return whole[:size_at] + struct.pack(">II", side, side) + whole[size_at + 8 :]

    either = frozenset(["truncated", "corrupt"])
    return [
        HostileFile("avif-header-only.avif", whole[:32], either),
        HostileFile("avif-cut.avif", whole[: len(whole) // 2], either),
        HostileFile("avif-60000-x-60000.avif", sized(60_000), "corrupt"),
        HostileFile("avif-11000-x-11000.avif", sized(11_000), "too_many_pixels"),
        HostileFile("avif-9000-x-9000.avif", sized(9000), "too_many_pixels"),  # too much memory to decode
        HostileFile("avif-garbage.avif", whole[:32] + b"garbage" * 50, either),
        scene_in("avif.avif", whole),
        scene_in("avif-animated.avif", frames),
        scene_in("avif-named-jpg.jpg", whole),
    ]
