"""What a file looks like that could not be decoded: its first bytes tell its kind, its last whether they are all."""

import re

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
    ("not_an_image", "HTML", rb"\s*<(!--|!doctype html|html|head|body)"),
    ("not_an_image", "XML", rb"\s*<[?!a-z]"),
    ("not_an_image", "JSON", rb"\s*[\[{]\s*[\[\]{}\"\d]"),
    ("not_an_image", "PDF", rb"%PDF"),
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


def ends_early(encoded: bytes, name: str) -> bool:
    """Whether the end of the file is missing, for the formats that make it easy to see."""
    if name == "WEBP":
        return int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    return name in _ENDS and _ENDS[name] not in encoded[-1024:]
