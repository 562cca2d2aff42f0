"""What a file looks like that could not be decoded: its first bytes tell its kind, its last whether they are all."""

import re

# Files that nobody takes for a poster that was fetched badly, as a web page or a text may be.
_NO_PICTURES = (
    ("Matroska video", rb"\x1aE\xdf\xa3"),
    ("MP4 or QuickTime video", rb".{4}(ftyp|moov|mdat|wide)"),
    ("AVI video", rb"RIFF....AVI "),
    ("MPEG video", rb"\x00\x00\x01[\xb3\xba]|G.{187}G.{187}G"),
    ("Windows Media", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    ("Flash video", rb"FLV\x01"),
    ("sound", rb"ID3[\x02-\x04]|fLaC|OggS|RIFF....WAVE|\xff[\xf2\xf3\xfa\xfb]"),
    ("database", rb"SQLite format 3\x00|\x00\x01\x00\x00Standard (Jet|ACE) DB"),
    ("data file", rb"PAR1|Obj\x01|ARROW1\x00\x00|\x89HDF\r\n|\x93NUMPY"),
    ("archive", rb"PK(\x03\x04|\x05\x06)|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|\xfd7zXZ\x00|BZh[1-9]1AY|\x28\xb5\x2f\xfd"),
    ("Office document", rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),  # and Thumbs.db
    ("PDF", rb"%PDF"),
    ("macOS companion of a file", rb"\x00\x05\x16[\x00\x07]\x00\x02\x00\x00"),
    ("program", rb"\x7fELF|MZ.\x00|\xca\xfe\xba\xbe"),
)
# First match wins. The formats that genretag.images decodes are "corrupt", since decoding them failed.
_SIGNATURES = (
    ("corrupt", "JPEG", rb"\xff\xd8"),
    ("corrupt", "PNG", rb"\x89PNG"),
    ("corrupt", "WEBP", rb"RIFF....WEBP"),
    ("corrupt", "GIF", rb"GIF8"),
    ("corrupt", "BMP", rb"BM.{4}\0{4}"),
    ("corrupt", "TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("corrupt", "AVIF", rb".{4}ftypavi[fs]"),
    ("unsupported_format", "HEIC", rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)"),
    ("unsupported_format", "JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("unsupported_format", "JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("unsupported_format", "SVG", rb"\s*<(svg|!doctype svg|\?xml.*<svg)"),
    ("unsupported_format", "EPS", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("unsupported_format", "ICO", rb"\0\0[\1\2]\0[\1-\xff]\0"),
    ("unsupported_format", "ICNS", rb"icns"),
    ("unsupported_format", "PSD", rb"8BPS\0[\1\2]"),
    *(("not_an_image", name, rb"(?-i:" + pattern + rb")") for name, pattern in _NO_PICTURES),
    ("not_an_image", "HTML", rb"\s*<(!--|!doctype html|html|head|body)"),
    ("not_an_image", "XML", rb"\s*<[?!a-z]"),
    ("not_an_image", "JSON", rb"\s*[\[{]\s*[\[\]{}\"\d]"),
    ("not_an_image", "gzip", rb"\x1f\x8b"),
    ("not_an_image", "zeros only", rb"\0+\Z"),  # of the first KB: an upload that left a file of the right size
    ("not_an_image", "text", rb"[\s!-~]+\Z"),
)
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\0;"}  # what a whole file has in its last KB


def looks_like(encoded: bytes) -> tuple[str, str]:
    """(reason, name) of what a file's first bytes promise; the reason is a key of genretag.images.REASONS."""
    head = encoded[:1024]
    text = head.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors put before UTF-8
    for reason, name, pattern in _SIGNATURES:
        if re.match(pattern, text, re.DOTALL | re.IGNORECASE):
            return reason, name
    return "not_an_image", f"nothing known, first bytes {head[:8].hex(' ')}"


def is_no_picture(encoded: bytes | memoryview) -> bool:
    """Return whether the first bytes are of a video, a database, an archive or another file that is never a poster."""
    return looks_like(bytes(encoded[:1024]))[1] in dict(_NO_PICTURES)


def is_picture(encoded: bytes | memoryview) -> bool:
    """Return whether the first bytes are of a picture, also in a format that is not decoded here."""
    return looks_like(bytes(encoded[:1024]))[0] != "not_an_image"


def ends_early(encoded: bytes, name: str) -> bool:
    """Whether the end of the file is missing, for the formats that make it easy to see."""
    if name == "WEBP":
        return int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    return name in _ENDS and _ENDS[name] not in encoded[-1024:]
