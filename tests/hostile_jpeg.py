"""JPEG files that were cut, damaged, padded, or made to cost much time or memory."""

import gzip
import struct
from base64 import b64encode

from hostile_file import HostileFile, exif_bytes, scene_in, segment
from image_corpus import ORIENTATION, encode, exif, scene
from PIL import Image

SOF, SOF_PROGRESSIVE, DHT, SOS, DQT, DRI, APP1, APP2, COM = 0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE1, 0xE2, 0xFE


def jpeg_files() -> list[HostileFile]:
    whole = encode(scene(), "JPEG", quality=90)
    return [
        *_cut(whole),
        *_damaged(whole),
        *_wrapped(whole),
        *_colour_kinds(),
        *_frames(whole),
        *_endless(whole),
        *_metadata(whole),
    ]


def _at(data: bytes, marker: int) -> int:
    """Return the offset of the first marker of this kind."""
    return data.index(bytes([0xFF, marker]))


def _with(data: bytes, *segments: bytes) -> bytes:
    """Return `data` with the segments inserted right after the start marker (SOI)."""
    return data[:2] + b"".join(segments) + data[2:]


def _cut(whole: bytes) -> list[HostileFile]:
    scan = _at(whole, SOS)
    lengths = {
        "after-soi": 2,
        "inside-app0": 9,
        "after-app0": 20,
        "inside-dqt": _at(whole, DQT) + 30,
        "inside-sof": _at(whole, SOF) + 7,
        "inside-dht": _at(whole, DHT) + 11,
        "inside-sos": scan + 6,
        "before-the-scan": scan + 14,
        "inside-the-scan": (scan + len(whole)) // 2,
    }
    progressive = encode(scene(), "JPEG", progressive=True)
    return [
        *(HostileFile(f"cut-{where}.jpg", whole[:length], "truncated") for where, length in lengths.items()),
        HostileFile("cut-progressive.jpg", progressive[: len(progressive) // 3], "truncated"),
        scene_in("cut-before-eoi.jpg", whole[:-2]),
        HostileFile("cut-early-and-closed.jpg", whole[: scan + 40] + b"\xff\xd9", "truncated"),
        # The lost part is grey, and nothing in the file shows the loss.
        HostileFile("cut-late-and-closed.jpg", whole[:-400] + b"\xff\xd9", "scored"),
        HostileFile("cut-and-padded-with-zeros.jpg", whole[: len(whole) // 2].ljust(len(whole), b"\0"), "truncated"),
        scene_in("padded-with-zeros.jpg", whole + bytes(4096)),
        HostileFile("soi-eoi.jpg", b"\xff\xd8\xff\xd9", "corrupt"),
    ]


def _damaged(whole: bytes) -> list[HostileFile]:
    middle = (_at(whole, SOS) + len(whole)) // 2
    restarts = encode(scene(), "JPEG", restart_marker_rows=1)
    third = restarts.index(b"\xff\xd2")
    return [
        # Some of these lose pixels without any sign in the file, so `decode` cannot notice the loss.
        HostileFile("hole-of-zeros.jpg", whole[: middle - 200] + bytes(400) + whole[middle + 200 :], "scored"),
        HostileFile("middle-left-out.jpg", whole[: middle - 300] + whole[middle + 300 :], "scored"),
        HostileFile("restart-marker-wrong.jpg", restarts[: third + 1] + b"\xd6" + restarts[third + 2 :], "scored"),
        HostileFile("restart-marker-gone.jpg", restarts[:third] + restarts[third + 2 :], "scored"),
        scene_in("restart-markers.jpg", restarts),
        HostileFile("tables-of-zeros.jpg", _without(whole, DQT, bytes(65)), "corrupt"),
        HostileFile("no-quantization.jpg", _without(whole, DQT), "corrupt"),
        # As Motion JPEG does: the standard tables are implied.
        scene_in("no-huffman-tables.jpg", _without(encode(scene(), "JPEG", quality=90), DHT)),
        HostileFile("segment-length-0.jpg", whole[:22] + b"\0\0" + whole[24:], "corrupt"),
        HostileFile("newlines-converted.jpg", whole.replace(b"\n", b"\r\n"), "scored"),
        HostileFile("through-utf-8.jpg", whole.decode(errors="replace").encode(), "not_an_image"),
        HostileFile("seven-bits.jpg", bytes(byte & 0x7F for byte in whole), "not_an_image"),
    ]


def _without(data: bytes, marker: int, instead: bytes = b"") -> bytes:
    """Return `data` without the segments of this marker. If `instead` is given, replace their content by it."""
    while (at := data.find(bytes([0xFF, marker]))) >= 0 and at < _at(data, SOS):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        data = data[:at] + (b"\0HERE" + segment(marker, instead)[1:] if instead else b"") + data[end:]
    return data.replace(b"\0HERE", b"\xff")


def _wrapped(whole: bytes) -> list[HostileFile]:
    zip_end = b"PK\5\6" + bytes(18)
    return [
        HostileFile("garbage-before-soi.jpg", b"\r\n\r\n" + whole, "not_an_image"),
        scene_in("garbage-after-eoi.jpg", whole + b"garbage" * 3000),
        scene_in("jpeg-and-zip.jpg", whole + b"PK\3\4" + bytes(26) + zip_end),
        scene_in("jpeg-and-html.jpg", _with(whole, segment(COM, b"<script>alert(document.cookie)</script>"))),
        scene_in("jpeg-and-php.php.jpg", _with(whole, segment(COM, b"<?php system($_GET['c']); ?>"))),
        scene_in("two-jpegs.jpg", whole + encode(Image.new("RGB", (900, 900)), "JPEG")),
        scene_in("jpeg-named-png.png", whole),
        scene_in("padding-between-segments.jpg", whole[:20] + b"\xff" * 5000 + whole[20:]),
        HostileFile("pdf-and-jpeg.jpg", b"%PDF-1.4\n1 0 obj\nstream\n" + whole + b"\nendstream\n", "not_an_image"),
        HostileFile("gzipped.jpg", gzip.compress(whole, mtime=0), "not_an_image"),
        HostileFile("base64.jpg", b64encode(whole), "not_an_image"),
        HostileFile("data-uri.jpg", b"data:image/jpeg;base64," + b64encode(whole), "not_an_image"),
        HostileFile("multipart.jpg", b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + whole + b"\r\n--b--", "not_an_image"),
    ]


def _colour_kinds() -> list[HostileFile]:
    cmyk = encode(scene().convert("CMYK"), "JPEG", quality=95)
    ycck = bytearray(cmyk)
    ycck[cmyk.index(b"Adobe") + 11] = 2
    pair = encode(scene(), "MPO", save_all=True, append_images=[scene().rotate(180)])
    return [
        scene_in("cmyk.jpg", cmyk),
        HostileFile("cmyk-said-to-be-ycck.jpg", bytes(ycck), "scored"),
        HostileFile("cmyk-without-adobe.jpg", _without(cmyk, 0xEE), "scored"),
        HostileFile("grey.jpg", encode(scene().convert("L"), "JPEG"), "scored"),
        scene_in("pair.mpo", pair),
        scene_in("pair-cut-in-the-second.jpg", pair[: len(pair) * 2 // 3]),
        scene_in("progressive.jpg", encode(scene(), "JPEG", progressive=True, quality=90)),
    ]


def _frames(whole: bytes) -> list[HostileFile]:
    """Return JPEGs with a patched frame header: sizes, depths, sampling and processes that do not fit the data."""
    frame = _at(whole, SOF)

    def patched(offset: int, new: bytes) -> bytes:
        return whole[: frame + offset] + new + whole[frame + offset + len(new) :]

    arithmetic = patched(1, b"\xc9")
    return [
        HostileFile("header-65500-x-65500.jpg", patched(5, struct.pack(">HH", 65500, 65500)), "too_many_pixels"),
        HostileFile("header-60000-x-60000.jpg", patched(5, struct.pack(">HH", 60000, 60000)), "too_many_pixels"),
        HostileFile("header-9000-x-9000.jpg", patched(5, struct.pack(">HH", 9000, 9000)), "truncated"),
        HostileFile("header-0-x-0.jpg", patched(5, bytes(4)), "corrupt"),
        HostileFile("12-bit.jpg", patched(4, b"\x0c"), "unsupported_format"),
        # Huffman data that the header declares as arithmetic-coded.
        HostileFile("arithmetic.jpg", arithmetic, "scored"),
        HostileFile("lossless.jpg", patched(1, b"\xc3"), "unsupported_format"),
        HostileFile("hierarchical.jpg", patched(1, b"\xc5"), "unsupported_format"),
        HostileFile("two-components.jpg", patched(9, b"\2"), "unsupported_format"),
        HostileFile("sampling-0.jpg", patched(11, b"\0"), "corrupt"),
        HostileFile("sampling-15.jpg", patched(11, b"\xff"), "corrupt"),
        HostileFile("two-frames.jpg", whole[:frame] + whole[frame : frame + 19] + whole[frame:], "corrupt"),
        HostileFile("1-x-1.jpg", encode(scene().resize((1, 1)), "JPEG"), "scored"),
        HostileFile("1-x-20000.jpg", encode(Image.new("RGB", (1, 20_000), "red"), "JPEG"), "scored"),
        HostileFile("20000-x-1.jpg", encode(Image.new("RGB", (20_000, 1), "red"), "JPEG"), "scored"),
        HostileFile("5000-x-5000.jpg", encode(Image.new("L", (5000, 5000), 7), "JPEG"), "scored"),
    ]


def scan_bomb(side: int, scans: int, components: int = 1) -> bytes:
    """Return a progressive, arithmetic-coded JPEG whose scans have no data.

    The decoder passes over all side x side pixels in each scan, so it takes a long time.
    """
    each = range(1, components + 1)
    frame = struct.pack(">BHHB", 8, side, side, components) + b"".join(bytes([name, 0x11, 0]) for name in each)
    names = bytes([components]) + b"".join(bytes([name, 0]) for name in each)
    first, refining = segment(SOS, names + b"\0\0\1"), segment(SOS, names + b"\0\0\x10")
    head = b"\xff\xd8" + segment(DQT, b"\0" + b"\1" * 64) + segment(0xCA, frame)
    return head + first + refining * (scans - 1) + b"\xff\xd9"


def slow_jpeg() -> bytes:
    """Return a JPEG of 2 KB that is within all limits and slow: 100 scans of 100 megapixels.

    Decoding it takes 16 s of an idle core and 800 MB.
    """
    return scan_bomb(10_000, 100, components=4)


def _endless(whole: bytes) -> list[HostileFile]:
    return [
        HostileFile("5000-scans-of-100-megapixels.jpg", scan_bomb(10_000, 5000), "too_much_work"),
        HostileFile("101-scans.jpg", scan_bomb(16, 101), "too_much_work"),
        HostileFile("100-scans.jpg", scan_bomb(16, 100), "scored"),
        HostileFile("baseline-of-200-scans.jpg", whole[:-2] + whole[_at(whole, SOS) :] * 200, "corrupt"),
        scene_in("scan-markers-behind-the-end.jpg", whole + b"\xff\xda" * 500),
        scene_in("scan-markers-in-a-comment.jpg", _with(whole, segment(COM, b"\xff\xda" * 500))),
        HostileFile("101-exif-segments.jpg", _with(whole, segment(APP1, b"Exif\0\0x") * 101), "too_much_work"),
        scene_in("3000-comments.jpg", _with(whole, segment(COM, b"no comment") * 3000)),
        HostileFile("11000-comments.jpg", _with(whole, segment(COM, b"no") * 11_000), "too_much_work"),
    ]


def _metadata(whole: bytes) -> list[HostileFile]:
    plain = {
        "orientation-99": exif_bytes((ORIENTATION, 3, 1, 99)),
        "orientation-text": exif_bytes((ORIENTATION, 2, 3, int.from_bytes(b"up\0", "little"))),
        "orientation-of-30000-values": exif_bytes((ORIENTATION, 3, 30_000, 26), rest=b"\1\0" * 30_000),
        "exif-loop": exif_bytes((0x8769, 4, 1, 8), following=8),
        "exif-gigantic-count": exif_bytes((ORIENTATION, 3, 0xFFFFFFFF, 26), rest=bytes(60)),
        "exif-5000-entries": exif_bytes(*((tag, 2, 60_000, 0) for tag in range(5000))),
        "exif-beyond-the-end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "exif-of-nothing": b"Exif\0\0",
        "xmp-orientation-9": b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='9'/>",
        "xmp-entities": b"http://ns.adobe.com/xap/1.0/\0<!DOCTYPE x [<!ENTITY a '" + b"&b;" * 9000 + b"'>]><x>&a;</x>",
    }
    values = bytes(range(256)) * 200
    pictures = b"MPF\0II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 0xB001, 4, 1, 0xFFFFFFFF) + values
    many = b"MPF\0II*\0" + struct.pack("<IH", 8, 800)
    many += b"".join(struct.pack("<HHII", tag, 3, 20_000, 8) for tag in range(800)) + values
    profile = [b"ICC_PROFILE\0" + bytes([number, 30]) + b"x" * 65_000 for number in range(1, 31)]
    return [
        *(scene_in(f"{name}.jpg", _with(whole, segment(APP1, content))) for name, content in plain.items()),
        scene_in("orientation-1.jpg", encode(scene(), "JPEG", quality=90, exif=exif(1))),
        scene_in("four-billion-pictures.mpo.jpg", _with(whole, segment(APP2, pictures))),
        scene_in("pictures-of-800-tags.mpo.jpg", _with(whole, segment(APP2, many))),
        scene_in("profile-of-2-mb.jpg", _with(whole, *(segment(APP2, part) for part in profile))),
        scene_in("profile-without-its-start.jpg", _with(whole, *(segment(APP2, part) for part in profile[1:2]))),
        scene_in("profile-of-garbage.jpg", _with(whole, segment(APP2, b"ICC_PROFILE\0\1\1garbage"))),
        scene_in("photoshop-garbage.jpg", _with(whole, segment(0xED, b"Photoshop 3.0\x008BIM" + b"\xff" * 60))),
    ]
